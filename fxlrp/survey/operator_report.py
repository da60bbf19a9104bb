"""The results of the survey of operators as a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate

import fxlrp
from fxlrp.survey.operators import OperatorResult, entries, explained

_BEGIN, _END = "<!-- survey: begin -->", "<!-- survey: end -->"
_EPSILON = 1e-12


@dataclass(frozen=True)
class Surveyed:
    """The results of one operator: under LRP-epsilon by both front ends, and under the gradient.

    Args:
        epsilon: By the front end that compilation chooses.
        symbolic: By symbolic tracing.
        exported: By ``torch.export``.
        gradient: Under :class:`~fxlrp.rules.Gradient`.
    """

    epsilon: OperatorResult
    symbolic: OperatorResult
    exported: OperatorResult
    gradient: OperatorResult

    @property
    def front_ends_differ(self) -> bool:
        """Whether both front ends explain the operator, but not by the same relevance within 1e-9."""
        if not self.symbolic.state == self.exported.state == "explained":
            return False
        pairs = zip(self.symbolic.relevance, self.exported.relevance, strict=True)
        return not all(torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(a.abs().max())) for a, b in pairs)

    @property
    def differs_from_gradient(self) -> bool:
        """Whether a homogeneous operator is explained, but not by gradient times input."""
        return (
            self.epsilon.state == "explained" and self.epsilon.homogeneous and not self.epsilon.is_gradient_times_input
        )


def survey() -> list[Surveyed]:
    """Explain every operator of the database, and print a line for each."""
    results = []
    for entry in entries():
        rules = fxlrp.presets.epsilon(_EPSILON)
        by_front_end = (explained(entry, rules, "symbolic"), explained(entry, rules, "export"))
        result = Surveyed(explained(entry, rules), *by_front_end, gradient=explained(entry, fxlrp.presets.gradient()))
        print(f"{result.epsilon.state:11} {entry.name} {_reason(result.epsilon)}".rstrip(), flush=True)
        results.append(result)
    return results


def summary(results: Sequence[Surveyed]) -> str:
    """Return how many operators are explained, and how."""
    count = len(results)
    found = [result for result in results if result.epsilon.state == "explained"]
    homogeneous = [result for result in found if result.epsilon.homogeneous]
    both = [result for result in results if result.symbolic.state == result.exported.state == "explained"]
    by_gradient = sum(result.gradient.state == "explained" for result in results)
    states = [result.epsilon.state for result in results]
    return (
        f"{len(found)} of {count} operators are explained by LRP-epsilon (epsilon {_EPSILON:g}), {by_gradient} by the "
        f"gradient where that is asked for. {states.count('not finite')} have relevance that is not finite, "
        f"{states.count('error')} end in an error that is not of fxlrp. Of {len(homogeneous)} homogeneous operators "
        f"{sum(result.epsilon.is_gradient_times_input for result in homogeneous)} equal gradient times input within "
        f"1e-6. Of {len(both)} operators that both front ends follow, they agree within 1e-9 on "
        f"{len(both) - sum(result.front_ends_differ for result in both)}."
    )


def write(path: Path, results: Sequence[Surveyed]) -> None:
    """Write the tables into a page, between its markers."""
    refused = [
        (result.epsilon.name, result.gradient.state, _reason(result.epsilon))
        for result in results
        if result.epsilon.state != "explained"
    ]
    differing = [
        (result.epsilon.name, f"{result.epsilon.deviation:.1e}") for result in results if result.differs_from_gradient
    ]
    explained_names = ", ".join(f"`{result.epsilon.name}`" for result in results if result.epsilon.state == "explained")
    sections = [
        f"{_BEGIN}\n\n{summary(results)}\n",
        "## Not explained by LRP-epsilon\n",
        tabulate(refused, ("operator", "by the gradient", "reason"), "github", disable_numparse=True) + "\n",
        "## Homogeneous, but not gradient times input\n",
        tabulate(differing, ("operator", "largest difference"), "github", disable_numparse=True) + "\n",
        f"## Explained\n\n{explained_names}.\n",
    ]
    page = path.read_text()
    before, rest = page.split(_BEGIN)
    path.write_text(before + "\n".join(sections) + "\n" + _END + rest.split(_END)[1])


def _reason(result: OperatorResult) -> str:
    """The reason of a refusal in one line, without source lines."""
    if result.state == "explained":
        return ""
    lines = [line.strip() for line in result.problem.splitlines()]
    text = lines[1] if "no relevance rule" in lines[0] and len(lines) > 1 else lines[0]
    text = re.sub(r", at \S+\.py:\d+: [^(]*", " ", text)
    text = re.sub(r"/\S*/(\S+\.py)", r"\1", text).replace("|", "\\|").strip()
    return text if len(text) < 200 else f"{text[:197]}..."
