"""The certificate of an explanation, which :meth:`fxlrp.Explainer.certify` returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from fxlrp.debugging.node_location import NodeLocation
from fxlrp.printing.html import Table, html_table, in_cells

FROZEN = ("node", "operation", "rule", "held constant")
SAMPLES = ("sample", "output", "inputs", "constants", "rebuilt", "error", "relative")
CONSTANTS = ("node", "constant", "contributes")
INEXACT = ("node", "operation", "rule", "absorbed", "why")


@dataclass(frozen=True)
class Sample:
    """The explained output of a sample, and what rebuilds it.

    Args:
        output: The explained output.
        inputs: The sum of coefficient times value over each input, by name.
        constants: The sum over all constants: biases, shifts of norms, embeddings of positions.
    """

    output: float
    inputs: Mapping[str, float]
    constants: float

    @property
    def rebuilt(self) -> float:
        """The sum of the inputs and the constants."""
        return sum(self.inputs.values()) + self.constants

    @property
    def error(self) -> float:
        """``abs(rebuilt - output)``."""
        return abs(self.rebuilt - self.output)

    @property
    def relative(self) -> float:
        """The error relative to the output; infinite if the output is zero and the error is not."""
        if self.error == 0:
            return 0.0
        return self.error / abs(self.output) if self.output else float("inf")


@dataclass(frozen=True)
class FrozenNode:
    """A node in which something is held constant at its value for the input.

    Args:
        location: The node.
        what: What is held constant.
    """

    location: NodeLocation
    what: str


@dataclass(frozen=True)
class Constant:
    """What the constants of a node contribute.

    Args:
        location: The node.
        names: The parameters, buffers, constant inputs and numbers.
        contributions: The contribution to the output of each sample.
    """

    location: NodeLocation
    names: tuple[str, ...]
    contributions: tuple[float, ...]


@dataclass(frozen=True)
class InexactNode:
    """A node at which the explanation is not exact.

    Args:
        location: The node.
        absorbed: What it received from the output of each sample, and neither passed on nor owes to its constants;
            negative if it created relevance.
        bend: How far the operation, with what is frozen, is from the affine map of its rule, relative to its result.
    """

    location: NodeLocation
    absorbed: tuple[float, ...]
    bend: float

    @property
    def why(self) -> str:
        """The reason, in words."""
        if self.bend:
            return "its rule is not that of an affine map"
        return "its rule absorbs or creates relevance, such as by a stabilizer"


@dataclass(frozen=True)
class Certificate:
    """Whether coefficients times inputs, and the constants, are exactly the output. In double precision.

    With what the rules hold constant frozen at its values for the input, the model is an affine function. The
    certificate shows that the explanation is this function.

    Args:
        samples: What rebuilds the explained output, for each sample.
        constants: The constants that contribute, by node.
        frozen: The nodes in which something is held constant.
        inexact: The nodes at which the explanation is not exact.
        steps: The number of nodes that pass on coefficients.
        second_difference: ``F(x + v) - F(x) - F(v) + F(0)`` for the model with what is frozen, relative to its values.
            It is zero for an affine function, whose second derivative is zero.
        of_random_outputs: The difference between ``s · (F(v) - F(0))`` and ``C(s) · v`` for random sums ``s`` of all
            outputs and random inputs ``v``, relative to its terms. It is zero if the coefficients are those of ``F``.
        superposition: The difference between ``C(s + t)`` and ``C(s) + C(t)``, relative to the largest coefficient.
        model_dtype: The type of the model. The certificate holds for a copy in double precision.
        tolerance: The largest relative error of an exact explanation.
    """

    samples: tuple[Sample, ...]
    constants: tuple[Constant, ...]
    frozen: tuple[FrozenNode, ...]
    inexact: tuple[InexactNode, ...]
    steps: int
    second_difference: float
    of_random_outputs: float
    superposition: float
    model_dtype: str
    tolerance: float

    @property
    def error(self) -> float:
        """The largest error of a sample, relative to its output."""
        return max((sample.relative for sample in self.samples), default=0.0)

    @property
    def is_affine(self) -> bool:
        """Whether the model with what is frozen is affine, and the coefficients are those of this function."""
        differences = (self.second_difference, self.of_random_outputs, self.superposition)
        return all(each <= self.tolerance for each in differences)

    @property
    def is_exact(self) -> bool:
        """Whether the inputs and the constants rebuild the output, and :attr:`is_affine` holds."""
        return self.error <= self.tolerance and self.is_affine and not self.inexact

    @property
    def verdict(self) -> str:
        """The result, in one line."""
        if self.is_exact:
            return (
                f"exact: coefficients times inputs, and the constants, rebuild the output to {self.error:.1e}, and "
                f"nothing is held constant but the parts of {len(self.frozen)} nodes"
            )
        if not self.inexact:
            return f"not exact: the error is {max(self.error, self.second_difference):.1e}, from rounding alone"
        return (
            f"not exact: {len(self.inexact)} of {self.steps} nodes absorb or create relevance, and the output is "
            f"rebuilt to {self.error:.1e}; fxlrp.presets.cplrp(0.0) has no such rules"
        )

    def table(self) -> Table:
        """Return the certificate as text.

        Returns:
            Tables of the samples, of what is frozen, of the constants and of the nodes that are not exact, and the
            verdict; a string that notebooks show as HTML.
        """
        parts: list[tuple[tuple[str, ...], Sequence[tuple[str | float, ...]], tuple[str, ...]]] = [
            (SAMPLES, self._sample_rows(), SAMPLES[1:]),
            (FROZEN, _frozen_rows(self.frozen), ()),
            (CONSTANTS, _constant_rows(self.constants), CONSTANTS[2:]),
            (INEXACT, _inexact_rows(self.inexact), INEXACT[3:4]),
        ]
        shown = [(headers, in_cells(rows, ".6g"), right) for headers, rows, right in parts if rows]
        notes = (
            f"in float64; the model is {self.model_dtype}\n"
            f"affine: second difference {self.second_difference:.1e}, coefficients of random outputs "
            f"{self.of_random_outputs:.1e}, superposition {self.superposition:.1e}\n{self.verdict}"
        )
        text = "\n\n".join(tabulate(rows, headers=headers, disable_numparse=True) for headers, rows, _ in shown)
        pages = [html_table(headers, rows, right=right) for headers, rows, right in shown]
        return Table(f"{text}\n\n{notes}", "".join((*pages, html_table((), (), notes))))

    def _repr_html_(self) -> str:
        return self.table().html

    def __str__(self) -> str:
        """:meth:`table`."""
        return self.table()

    def _sample_rows(self) -> list[tuple[str | float, ...]]:
        return [
            (
                str(index),
                each.output,
                sum(each.inputs.values()),
                each.constants,
                each.rebuilt,
                f"{each.error:.1e}",
                f"{each.relative:.1e}",
            )
            for index, each in enumerate(self.samples)
        ]


def _frozen_rows(frozen: tuple[FrozenNode, ...]) -> list[tuple[str, ...]]:
    return [(each.location.node, each.location.operation, each.location.rule, each.what) for each in frozen]


def _constant_rows(constants: tuple[Constant, ...]) -> list[tuple[str | float, ...]]:
    return [(each.location.node, ", ".join(_by_module(each.names)), sum(each.contributions)) for each in constants]


def _by_module(names: Iterable[str]) -> list[str]:
    """The names, with one pattern in place of several in the same module."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    return [
        f"{module}.*" if module and len(each) > 1 else name
        for module, each in modules.items()
        for name in (each[:1] if module else each)
    ]


def _inexact_rows(inexact: tuple[InexactNode, ...]) -> list[tuple[str | float, ...]]:
    return [
        (each.location.node, each.location.operation, each.location.rule, sum(each.absorbed), each.why)
        for each in inexact
    ]
