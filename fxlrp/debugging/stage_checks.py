"""Find the pass that changed the results of the program: run and compare every stage of a compilation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, fx

from fxlrp.arguments import tolerance_of
from fxlrp.debugging.stages import Stage
from fxlrp.errors import InputError
from fxlrp.printing.html import Table, html_table, in_cells

HEADERS = ("", "stage", "count", "computes", "difference", "changed", "problem")


@dataclass(frozen=True)
class StageCheck:
    """The result of a stage, compared with a reference.

    The reference of an output is the model's own output. The reference of relevance is the result of the first stage
    that computes relevance.

    Args:
        index: The index of the stage.
        name: The name of the pass.
        count: How often the pass applied.
        computes: "output" if the stage computes the model's output, "relevance" if it computes relevance.
        difference: The largest absolute difference from the reference, divided by the largest finite absolute value of
            the reference. Infinite if the shapes differ; NaN if the stage does not run.
        changed: The largest absolute difference from the previous stage, in the same unit.
        problem: The error that the stage raised; empty if it runs.
    """

    index: int
    name: str
    count: int
    computes: str
    difference: float
    changed: float
    problem: str = ""


@dataclass(frozen=True)
class StageChecks:
    """The checks of all stages in order. :meth:`fxlrp.Explainer.check_stages` returns them.

    Args:
        checks: The checks.
    """

    checks: tuple[StageCheck, ...]

    def wrong(self, tolerance: float = 1e-4) -> tuple[StageCheck, ...]:
        """Return the checks of the stages that changed the result, or do not run.

        Args:
            tolerance: The largest ``changed`` that is correct.
        """
        most = tolerance_of(tolerance)
        return tuple(each for each in self.checks if each.problem or not each.changed <= most)

    def table(self, tolerance: float = 1e-4) -> Table:
        """Return the checks as text.

        Args:
            tolerance: As for :meth:`wrong`.

        Returns:
            A table with a row for each stage, and below it the first stage that is wrong; a string that notebooks show
            as HTML.
        """
        rows = [
            (each.index, each.name, each.count, each.computes, each.difference, each.changed, each.problem)
            for each in self.checks
        ]
        wrong = self.wrong(tolerance)
        verdict = (
            f"{wrong[0].name} (stage {wrong[0].index}) is the first to change what is computed"
            if wrong
            else f"no stage changes what is computed by more than {tolerance:g}"
        )
        return Table(
            f"{tabulate(rows, headers=HEADERS, floatfmt='.2g')}\n\n{verdict}",
            html_table(HEADERS, in_cells(rows, ".2g"), verdict, right=("", "count", "difference", "changed")),
        )

    def _repr_html_(self) -> str:
        return self.table().html

    def __str__(self) -> str:
        """:meth:`table`."""
        return self.table()


def check(
    stages: Iterable[Stage],
    graph_module: fx.GraphModule,
    values: Sequence[Tensor],
    arguments: Sequence[Any],
    output: Tensor,
) -> StageChecks:
    """Run every stage and compare the results.

    Args:
        stages: The stages.
        graph_module: The module that contains the model.
        values: The inputs of the model, in order.
        arguments: The inputs, the target and the seed, as the program takes them.
        output: The model's own output for these inputs.

    Returns:
        The checks of all stages, in order.
    """
    references: dict[str, tuple[Tensor, ...]] = {"output": (output,)}
    before = dict(references)
    checks: list[StageCheck] = []
    for index, stage in enumerate(stages):
        computes = "output" if stage.is_forward else "relevance"
        try:
            result = _run(stage.graph, graph_module, values if stage.is_forward else arguments)
        except Exception as error:
            # A program that is right so far refuses the target or the seed.
            is_first = computes not in references and not any(each.problem for each in checks)
            if isinstance(error, InputError) and is_first:
                raise
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
            checks.append(StageCheck(index, stage.name, stage.count, computes, math.nan, math.nan, problem))
            continue
        reference = references.setdefault(computes, result)
        scale = max(_largest(each) for each in reference)
        changed = _difference(result, before.get(computes, result), scale)
        checks.append(
            StageCheck(index, stage.name, stage.count, computes, _difference(result, reference, scale), changed)
        )
        before[computes] = result
    return StageChecks(tuple(checks))


def _run(graph: fx.Graph, graph_module: fx.GraphModule, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
    # Run on copies, because a graph may change its inputs in place before functionalization.
    own = [each.clone() if isinstance(each, Tensor) else each for each in arguments]
    interpreter = fx.Interpreter(graph_module, graph=graph)
    interpreter.extra_traceback = False
    with torch.no_grad():
        result = interpreter.run(*own, enable_io_processing=False)
    return result if isinstance(result, tuple) else (result,)


def _largest(reference: Tensor) -> float:
    finite = reference[reference.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def _difference(result: Sequence[Tensor], reference: Sequence[Tensor], scale: float) -> float:
    """Return the largest difference over ``scale``; infinite if the shapes differ or only one value is finite."""
    if [each.shape for each in result] != [each.shape for each in reference]:
        return math.inf
    largest = 0.0
    for one, other in zip(result, reference, strict=True):
        same = (one == other) | (one.isnan() & other.isnan())
        differences = (one.double() - other.double()).abs()[~same]
        if differences.numel():
            largest = max(largest, float(differences.nan_to_num(math.inf).max()))
    return largest / (scale or 1.0)
