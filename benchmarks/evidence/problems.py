"""The problems, in two halves: rules are chosen on one of them and reported on the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.evidence import graphs, shapes, tokens, tris
from benchmarks.evidence.samples import Half, Problem

IMAGE_NETWORKS = ("mlp", "cnn", "resnet", "vit", "lstm")
SHAPE_NETWORKS = ("mlp", "cnn", "resnet", "vit")
TOKEN_NETWORKS = ("textcnn", "lstm", "transformer")
GRAPH_NETWORKS = ("dense_graph", "index_graph")

# Each scenario and each noise is in both halves.
CHOSEN_ON = {("linear", "correlated"), ("multiplicative", "white"), ("rigid", "correlated"), ("xor", "white")}


def _tris() -> Iterator[Problem]:
    for scenario in tris.SCENARIOS:
        for noise in tris.NOISES:
            half: Half = "choose" if (scenario, noise) in CHOSEN_ON else "report"
            yield Problem(
                f"{scenario} {noise}",
                f"XAI-TRIS, {scenario}, {noise} noise",
                "image",
                half,
                "absolute",
                2,
                partial(tris.make, scenario, noise),
                (("linear",) if scenario == "linear" else ()) + IMAGE_NETWORKS,
                bounds=(-1.0, 1.0),
                steps=400,
                good=0.9,
                threshold=0.8,  # that of (Clark et al., 2024)
            )


def _shapes() -> Iterator[Problem]:
    makers = (
        ("shape of red", "report", shapes.shape_of_red),
        ("colour of cross", "choose", shapes.colour_of_cross),
        ("shape in clutter", "choose", shapes.shape_in_clutter),
        ("shape of bright", "report", shapes.shape_of_bright),
    )
    halves: dict[str, Half] = {"choose": "choose", "report": "report"}
    for name, half, make in makers:
        title, bounds = f"shapes, {name}", (0.0, 1.0)
        yield Problem(name, title, "image", halves[half], "positive", 4, make, SHAPE_NETWORKS, bounds)


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        *_tris(),
        *_shapes(),
        Problem(
            "keyword",
            "tokens, keyword",
            "tokens",
            "choose",
            "positive",
            4,
            tokens.keyword,
            TOKEN_NETWORKS,
            vocabulary=tokens.WORDS + 12,
        ),
        Problem(
            "negation",
            "tokens, negation",
            "tokens",
            "report",
            "positive",
            2,
            tokens.negation,
            TOKEN_NETWORKS,
            vocabulary=tokens.WORDS + 9,
        ),
        Problem(
            "order",
            "tokens, order of two",
            "tokens",
            "choose",
            "positive",
            2,
            tokens.order,
            TOKEN_NETWORKS,
            vocabulary=tokens.WORDS + 2,
        ),
        Problem(
            "recall",
            "tokens, recall",
            "tokens",
            "report",
            "positive",
            tokens.VALUES,
            tokens.recall,
            TOKEN_NETWORKS,
            vocabulary=tokens.KEYS + tokens.VALUES,
            steps=2000,
        ),
        Problem(
            "centre",
            "graph, centre of a path",
            "graph",
            "choose",
            "positive",
            3,
            graphs.centre,
            GRAPH_NETWORKS,
            (0.0, 1.0),
        ),
        Problem(
            "alternating",
            "graph, alternating cycle",
            "graph",
            "report",
            "positive",
            2,
            graphs.alternating,
            GRAPH_NETWORKS,
            (0.0, 1.0),
        ),
    )
}
