"""Explain a residual network that reads handwritten digits: from a model to a picture.

Run it from the repository with the demo's extra installed: python examples/digits.py
"""

import fxlrp
from fxlrp import show
from fxlrp.demo.digits import accuracy, load_digits, trained

# A model in evaluation mode, and real images: 8 x 8 pixels, 0 is paper and 1 is ink.
digits = load_digits()
model, _ = trained(digits)
print(f"test accuracy: {accuracy(model, digits.test_images, digits.test_labels):.1%}")

# Compile it. The preset gives every operation a rule; pairs of our own, laid over it, favour what speaks for
# the class: in the convolutions, and in those of the last block a little less. The first pair that fits wins.
gamma = fxlrp.rules.Gamma
rules = fxlrp.presets.epsilon().override([("layer3.*", gamma(0.1)), ("conv2d", gamma(0.25))])
explain = fxlrp.compile(model, rules=rules)

# Explain the predicted class of eight digits: relevance has the shape of the images.
images = digits.test_images[:8]
relevance = explain(images)

# Every operation with its rule, and the reason it has it.
print(explain)

# What a pixel got came from the logit: the sums agree up to what the biases hold.
predictions = model(images)
for logit, arrived in zip(predictions.amax(1), relevance.sum((1, 2, 3)), strict=True):
    print(f"logit {logit:7.4f}   relevance at the pixels {arrived:7.4f}")

# Each digit beside the relevance of its pixels: red speaks for the predicted class, blue against it.
cells = [cell for image, map in zip(images, relevance, strict=True) for cell in (1 - image, show.heatmap(map))]
titles = [title for guess in predictions.argmax(1).tolist() for title in (f"a {guess}?", "why")]
show.grid(cells, titles=titles, columns=8, width=1.1).save("digits.png")
