"""The cells of a run. A cell is a problem and a network; it is repeated for several seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.evidence.problems import PROBLEMS
from benchmarks.evidence.samples import Half

# Data, weights and batches of a half are made of its seeds, so nothing is in both halves.
SEEDS: dict[Half, tuple[int, ...]] = {"report": (0, 1, 2, 3, 4), "choose": (100, 101, 102)}


@dataclass(frozen=True)
class Plan:
    """What a run covers."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    networks: tuple[str, ...] | None = None
    seeds: int = 3
    samples: int = 3000
    validation: int = 400
    tested: int = 400
    explained: int = 100  # of the test samples that the network classifies correctly
    steps: int | None = None  # at most in training; None: what each problem says
    threshold: float | None = None
    methods: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Cell:
    """One network to train and to explain."""

    problem: str
    network: str
    seed: int

    @property
    def fields(self) -> dict[str, str | int]:
        """The cell as it stands in records."""
        return {"problem": self.problem, "network": self.network, "seed": self.seed}

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.problem}-{self.network}-{self.seed}".replace(" ", "_")


QUICK = Plan(
    problems=("keyword", "alternating", "linear white"),
    networks=("linear", "textcnn", "dense_graph"),
    seeds=2,
    samples=700,
    validation=100,
    tested=100,
    explained=10,
    steps=150,
    threshold=0.5,
    methods=("default", "epsilon", "epsilon_gamma_box", "gradient x input", "saliency", "Sobel", "random", "gamma 0.5"),
)


def cells(plan: Plan) -> Iterator[Cell]:
    """All cells for the first seed, then for the second, so that a run that is ended early has seen everything."""
    for index in range(plan.seeds):
        for name in plan.problems:
            problem = PROBLEMS[name]
            seeds = SEEDS[problem.half]
            for network in problem.networks:
                if index < len(seeds) and (plan.networks is None or network in plan.networks):
                    yield Cell(name, network, seeds[index])
