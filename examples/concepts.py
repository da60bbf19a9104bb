"""Which strokes speak for a digit? The relevant channels of a network, each with its reference samples.

Run it from the repository with the demo's extra installed: python examples/concepts.py

Each row of the picture is a channel: the digit with the heatmap of the channel, then the digits of the training set on
which the channel is most relevant, with the same heatmap of theirs.
"""

import torch

import fxlrp
from fxlrp import show
from fxlrp.demo.digits import load_digits, trained

PLACE, CHANNELS, SAMPLES = "layer2", 4, 5

digits = load_digits()
model, _ = trained(digits)
explain = fxlrp.compile(model, rules="epsilon_plus")

# The channels that are most relevant for one digit.
image, label = digits.test_images[5:6], int(model(digits.test_images[5:6]).argmax(1))
shares, channels = fxlrp.concepts.channel_relevance(explain, image, at=PLACE, target=label)[0].topk(CHANNELS)

# What they respond to in the training set: one pass over it, each digit explained as what it is.
references = fxlrp.concepts.References(explain, PLACE, k=SAMPLES, relative=True)
for images, labels in zip(digits.train_images.split(256), digits.train_labels.split(256), strict=True):
    references.add(images, target=labels)
statistics = references.statistics(PLACE)

cells, titles = [], []
of_image = explain(image, target=label, only=[{PLACE: int(channel)} for channel in channels])
for row, channel in enumerate(channels.tolist()):
    top = references.top(PLACE, channel)
    samples = digits.train_images[top.samples]
    pictures = torch.cat([image, samples])
    maps = torch.cat([of_image[row], explain(samples, target=top.classes, only={PLACE: channel})])
    cells.append([cell for pair in zip(1 - pictures, map(show.heatmap, maps), strict=True) for cell in pair])
    titles.append([f"channel {channel}", "", *(text for each in top.classes.tolist() for text in (str(each), ""))])
    best = statistics.classes[statistics.mean[:, channel].argsort(descending=True)[:3]].tolist()
    print(f"channel {channel:2d}   relevance {float(shares[row]):6.3f}   most relevant for the digits {best}")

heading = f"A {label}: the channels of {PLACE} that speak for it, and where they respond most"
show.grid(cells, titles=titles, heading=heading, width=0.8).save("concepts.png")
