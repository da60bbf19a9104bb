"""The explainer: what :func:`fxlrp.compile` returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp.constants import ProgramWithConstants, can_be_watched
from fxlrp.errors import InputError
from fxlrp.operation import Vocabulary
from fxlrp.printing import code, table
from fxlrp.program import annotation, receivers
from fxlrp.relevance.seed import Seed, Target
from fxlrp.shapes import InputSpec, infer_shapes


class Explainer(nn.Module):
    """Explains a model's outputs by the relevance of its inputs.

    Holds the model itself, not a copy: it follows every change of the weights, and moving it moves the model.
    Made by :func:`fxlrp.compile`.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        annotated: fx.Graph,
        vocabulary: Vocabulary,
        examples: tuple[InputSpec, ...] | None = None,
        constants: Sequence[fx.Node] = (),
    ) -> None:
        """Wrap a generated program.

        Args:
            graph_module: The program.
            annotated: The annotated graph that it was made from.
            vocabulary: The operations in it.
            examples: Inputs that it has seen.
            constants: The nodes of the program whose values are kept between calls.
        """
        super().__init__()
        self.training = False
        self.graph_module = graph_module
        self._annotated = annotated
        self._vocabulary = vocabulary
        nodes = self.nodes
        inputs = [node for node in nodes if node.op == "placeholder"]
        self._input_names = tuple(node.name for node in inputs)
        reached = {source for node in nodes for source in receivers(node, vocabulary)}
        self._relevant = tuple(node in reached for node in inputs)
        self._constants = tuple(
            name for name, spec in zip(self._input_names, examples or (), strict=False) if not spec.is_floating
        )
        self._seen = examples
        self._with_constants = ProgramWithConstants(graph_module, constants) if constants else None

    def forward(self, *inputs: Tensor, target: Target = None, seed: Seed = None) -> Tensor | tuple[Tensor, ...]:
        """The relevance of every floating-point input for the explained output.

        Args:
            inputs: The model's inputs, ``(batch, ...)`` each.
            target: Which output to explain: an int, a LongTensor of one index for each sample, or a tuple of
                indices for an output with several dimensions; None explains each sample's largest output.
            seed: The initial relevance itself, shaped like the output, or a function of the output. Without it
                the initial relevance is the explained output's value, so that the inputs' relevance sums to it.

        Returns:
            A tensor shaped like the input, or a tuple of them for a model with several inputs.

        Raises:
            InputError: An input, the target or the seed does not fit.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> explain = fxlrp.compile(model)
            >>> explain(torch.ones(2, 4), target=1).shape
            torch.Size([2, 4])
        """
        self._check(inputs)
        if not torch.compiler.is_compiling():
            self._seen = tuple(InputSpec.of(value) for value in inputs)
        program = self._program()
        with torch.no_grad():
            relevance: Tensor | tuple[Tensor, ...] = program(*inputs, target, seed)
        if isinstance(relevance, Tensor):
            return relevance
        floating = tuple(r for r, x in zip(relevance, inputs, strict=True) if x.is_floating_point())
        return floating if len(floating) > 1 else floating[0]

    def _program(self) -> Callable[..., Any]:
        """The program with its constants kept, except where nothing would tell that a parameter has changed."""
        return self.graph_module if self._with_constants is None or not can_be_watched() else self._with_constants

    def train(self, mode: bool = True) -> Explainer:
        """Change nothing: what is explained is the model in eval mode, and the model keeps the mode that it has."""
        return self

    def _check(self, inputs: tuple[Any, ...]) -> None:
        if len(inputs) != len(self._input_names):
            raise InputError(
                f"expected {len(self._input_names)} inputs ({', '.join(self._input_names)}), got {len(inputs)}"
            )
        parameter = next(self.graph_module.parameters(), None)
        for name, value, relevant in zip(self._input_names, inputs, self._relevant, strict=True):
            if not isinstance(value, Tensor):
                raise InputError(f"the input {name!r} must be a tensor, not {type(value).__name__}")
            if value.is_complex() or (relevant and not value.is_floating_point()):
                raise InputError(f"the input {name!r} is {value.dtype}; relevance needs a real floating-point input")
            if name in self._constants and value.is_floating_point():
                raise InputError(f"the input {name!r} is {value.dtype}, but the example inputs made it a constant")
            if parameter is not None and value.device != parameter.device:
                raise InputError(f"the input {name!r} is on {value.device}, the model on {parameter.device}")

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The annotated forward nodes that the program was made from, in order of execution."""
        return tuple(node for node in self._annotated.nodes if node.op != "output")

    @property
    def code(self) -> str:
        """The generated program as Python source."""
        return code.program_text(self.graph_module)

    def table(self, *, constants: bool = False) -> str:
        """The annotated graph as a table: every node with its rule and why it has it.

        Args:
            constants: Whether parameters, and what is computed from them alone, have rows too.
        """
        shapes = infer_shapes(self.graph_module, self._annotated, self._seen) if self._seen else {}
        return table.render(self.nodes, self._vocabulary, shapes, constants=constants)

    def __str__(self) -> str:
        """The annotated graph as a table."""
        return self.table()

    def __repr__(self) -> str:
        """One line: the model and how many steps its explanation has."""
        steps = sum(annotation(node) is not None for node in self.nodes)
        return f"Explainer({type(self.graph_module).__name__}, {steps} relevance steps)"
