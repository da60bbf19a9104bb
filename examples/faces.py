"""What makes this a face, and where are its eyes? The last network of MTCNN, a face detector, explained.

Run it from the repository with the demo's extra and the weights: pip install --no-deps facenet-pytorch
python examples/faces.py

The network answers three questions about 48 x 48 pixels: is this a face, how to correct the box, and where are five
points of the face. `output=` chooses the answer to explain.
"""

import fxlrp
from fxlrp import show
from fxlrp.demo.photographs import middle
from fxlrp.extras import import_torchvision, require
from fxlrp.targets import contrast

# Left, top, right and bottom of the face of the astronaut Eileen Collins, and its size for the network.
BOX, SIDE = (172, 52, 298, 178), 48
POINTS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
BOXES, PLACES, FACE = range(3)

import_torchvision()
model = require("facenet_pytorch.models.mtcnn", "demo").ONet().eval()
photo = require("PIL.Image", "demo").fromarray(require("skimage.data", "demo").astronaut()).crop(BOX)
image = middle(photo, SIDE)
x = (image * 255 - 127.5) / 128

_, places, probabilities = model(x)
print(f"a face with a probability of {probabilities[0, 1]:.4f}")

# A face against no face: the softmax at the end is explained at its logits, the output of the layer before it.
of_face = fxlrp.compile(model, "epsilon_plus_flat", output="dense6_1", example_inputs=x)
face = of_face(x, target=contrast(1, 0))
cells, titles = [image, show.heatmap(face), show.overlay(image, face)], ["", "a face", ""]

# How far to the right the network puts each point: the first five of its ten numbers.
of_points = fxlrp.compile(model, "epsilon_plus_flat", output=PLACES, example_inputs=x)
for index in (0, 1, 2):
    relevance = of_points(x, target=index)
    share = places[0, index].item()
    print(f"{POINTS[index]}: at {share:.0%} of the width, relevance at the pixels {relevance.sum():+.4f}")
    cells.append(show.heatmap(relevance))
    titles.append(f"{POINTS[index]}: x")

show.grid(cells, titles=titles, width=1.8).save("faces.png")
print("The picture is faces.png")
