"""Whose friends decide? A graph network on Zachary's karate club, explained for a member between the two sides.

Run it from the repository with the demo's extra installed: python examples/graph.py

The network learns from the two leaders only, which side they are on, and passes this on along the friendships. Red
members speak for the side of the instructor, blue ones for that of the officer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp.extras import require

networkx = require("networkx", "demo")
INSTRUCTOR, OFFICER, MEMBER = 0, 33, 8


class Convolution(nn.Module):
    """The mean of a member and the friends, through a linear map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        sums = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        friends = torch.zeros_like(x[:, :1]).index_add(0, edges[1], torch.ones_like(x[edges[0], :1]))
        mapped: Tensor = self.linear(sums / friends)
        return mapped


class GraphNetwork(nn.Module):
    """Three graph convolutions."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.first, self.second, self.third = Convolution(members, 16), Convolution(16, 16), Convolution(16, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = torch.relu(self.first(x, edges))
        x = torch.relu(self.second(x, edges))
        logits: Tensor = self.third(x, edges)
        return logits


club = networkx.karate_club_graph()
pairs = torch.tensor([(a, b) for a, b in club.edges] + [(b, a) for a, b in club.edges] + [(a, a) for a in club])
x, edges = torch.eye(len(club)), pairs.T.contiguous()

torch.manual_seed(0)
model = GraphNetwork(len(club))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
for _ in range(200):
    loss = F.cross_entropy(model(x, edges)[[INSTRUCTOR, OFFICER]], torch.tensor([0, 1]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()
logits = model(x, edges).detach()
sides = torch.tensor([club.nodes[member]["club"] != "Mr. Hi" for member in club]).long()
print(f"{(logits.argmax(1) == sides).float().mean():.1%} of the members are on the side that the network says")

# The difference of one member's two logits, explained by the members whose features reach it.
explain = fxlrp.compile(model, rules="epsilon", constants=["edges"], example_inputs=(x, edges))
seed = torch.zeros_like(logits)
seed[MEMBER] = logits[MEMBER] * torch.tensor([1.0, -1.0])
relevance = explain(x, edges, seed=seed).sum(1)
difference = float(seed.sum())
print(f"member {MEMBER}: instructor less officer {difference:+.4f}, relevance of all members {relevance.sum():+.4f}")
for member in relevance.abs().topk(5).indices.tolist():
    print(f"  member {member:2d}   {relevance[member]:+.4f}")

pyplot = require("matplotlib.pyplot", "demo")
figure, axes = pyplot.subplots(figsize=(8, 5.5))
scale = float(relevance.abs().max())
places = networkx.spring_layout(club, seed=4)
options = {"cmap": "bwr", "vmin": -scale, "vmax": scale, "edgecolors": "#22252b", "edge_color": "#c9ced6"}
widths = [2.5 if member in (INSTRUCTOR, OFFICER, MEMBER) else 0.6 for member in club]
names = {INSTRUCTOR: "instructor", OFFICER: "officer", MEMBER: "?"}
labels = {member: names.get(member, str(member)) for member in club}
networkx.draw(
    club, places, axes, node_color=relevance.tolist(), linewidths=widths, labels=labels, font_size=8, **options
)
axes.set_title(
    f"Why member ? is {'with the instructor' if difference > 0 else 'with the officer'} (full color: ±{scale:.2g})"
)
figure.savefig("graph.png", dpi=100, bbox_inches="tight")
print("The picture is graph.png")
