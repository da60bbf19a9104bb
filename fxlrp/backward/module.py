"""A model whose backward pass computes relevance, for eager code."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from fxlrp.backward.function import explained_forward
from fxlrp.backward.split import Split, check_compiler, split
from fxlrp.capture import EVERY_OUTPUT, restored
from fxlrp.capture.lock import is_compiling
from fxlrp.copies import Copied
from fxlrp.debugging.structured_trace import timed
from fxlrp.driver import compiled
from fxlrp.errors import InputError
from fxlrp.extensions import Extension
from fxlrp.first_call import MadeOnInputs
from fxlrp.inputs import Inputs, Misfit
from fxlrp.optimizations import Optimizations
from fxlrp.passes import pipeline
from fxlrp.refused_inputs import ExplainedFailures
from fxlrp.request import Capture, Request, check_model
from fxlrp.rules.presets import Rules
from fxlrp.rules.resolve import resolve
from fxlrp.signature import Signature


@dataclass(frozen=True)
class _Halves:
    """The two parts of a program, and how they are called."""

    root: fx.GraphModule
    split: Split
    signature: Signature
    captured: fx.Graph


class ExplainedModel(Copied):
    """A model with the same outputs, whose backward pass computes relevance in place of gradients.

    :func:`fxlrp.autograd` returns it. It contains the model itself, not a copy.
    """

    def __init__(
        self,
        model: nn.Module,
        make: Callable[[nn.Module, Inputs], _Halves],
        examples: Any,
        again: Callable[[nn.Module], ExplainedModel],
    ) -> None:
        """Capture ``model`` on ``examples``, or at the first call if it needs examples and has none.

        ``again`` makes the same of a model in another process.
        """
        super().__init__()
        self._again = again
        self.training = False
        self.model = model
        self._halves = MadeOnInputs(make, model, examples)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs of the model; the gradients of its inputs will be their relevance."""
        halves, values = self._halves.on_call(self.model, args, kwargs)
        self._check_fixed(halves.signature.inputs, args, kwargs)
        parameters = [operator.attrgetter(path)(halves.root) for path in halves.split.parameters]
        if is_compiling():
            outputs = explained_forward(halves.split, values, parameters)
        else:
            with ExplainedFailures(self.model, halves.signature.inputs, values):
                outputs = explained_forward(halves.split, values, parameters)
        return restored(halves.captured, outputs)

    def _made_from(self) -> nn.Module:
        return self.model

    def _check_fixed(self, inputs: Inputs, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check that a call passes every argument that was captured with a value other than its default."""
        fixed, given = inputs.fixed, inputs.by_name(args, kwargs)
        if isinstance(given, Misfit):
            raise InputError(given.message)
        parameters = inspect.signature(self.model.forward).parameters
        for name in fixed.keys() - given.keys():
            if name in parameters and parameters[name].default != fixed[name]:
                raise InputError(f"the model was captured with {name}={fixed[name]!r}: pass it in every call")

    def train(self, mode: bool = True) -> ExplainedModel:
        """Do nothing: the model is explained in eval mode, and keeps its mode."""
        return self


def autograd(
    model: nn.Module,
    rules: Rules = None,
    *,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    constants: Sequence[str] = (),
    capture: Capture = "auto",
    dynamic_shapes: Mapping[str, Any] | None = None,
    extensions: Sequence[Extension] = (),
    optimize: bool | Optimizations = True,
    compiler: str | Callable[..., Any] | None = None,
) -> ExplainedModel:
    """Return the model with relevance in its backward pass: ``x.grad`` is the relevance of ``x``.

    The initial relevance of an output is its value times its gradient. So ``model(x)[:, c].sum().backward()`` explains
    the logit ``c`` as :func:`fxlrp.compile` does with ``target=c``. Through other computations on the outputs, such as
    the difference of two logits, relevance is propagated by LRP-0, which is gradient times value. With a preset that
    starts with 1 at the target, such as :func:`~fxlrp.presets.guided_backprop`, the initial relevance is the gradient
    itself. Parameters do not receive gradients.

    Args:
        model: A module in eval mode. It is not changed.
        rules: As for :func:`fxlrp.compile`.
        example_inputs: As for :func:`fxlrp.compile`.
        constants: As for :func:`fxlrp.compile`. These inputs receive no gradient.
        capture: As for :func:`fxlrp.compile`.
        dynamic_shapes: As for :func:`fxlrp.compile`.
        extensions: As for :func:`fxlrp.compile`.
        optimize: As for :func:`fxlrp.compile`.
        compiler: A backend of ``torch.compile``, such as "inductor", for both parts, forward and relevance.

    Raises:
        CaptureError: The forward graph cannot be captured, or the model is in training mode.
        UnsupportedOpError: Relevance would flow through operations without a rule; all are listed.
        RuleError: A rule, preset or selector does not exist, does not fit, or matches nothing.
        InputError: An argument is of a wrong type or value, such as a backend that does not exist.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> x = torch.ones(2, 4, requires_grad=True)
        >>> fxlrp.autograd(model, "epsilon")(x)[:, 1].sum().backward()
        >>> torch.allclose(x.grad, fxlrp.compile(model, "epsilon")(x.detach(), target=1))
        True
    """
    check_model(model)
    request = Request.of(
        rules,
        capture=capture,
        extensions=extensions,
        constants=constants,
        output=EVERY_OUTPUT,
        dynamic_shapes=dynamic_shapes,
    ).on(model)
    optimizations = Optimizations.resolve(optimize)
    passes = pipeline.backward(optimizations)
    check_compiler(compiler)

    def halves(model: nn.Module, inputs: Inputs) -> _Halves:
        with timed("compile"):
            done = compiled(model, inputs, request, passes)
            parts = split(done.program)
        parts = parts if compiler is None else parts.compiled(compiler)
        return _Halves(done.program.graph_module, parts, done.signature, done.program.graph)

    again = functools.partial(
        autograd,
        rules=resolve(rules).located(model),
        example_inputs=example_inputs,
        constants=request.constants,
        capture=capture,
        dynamic_shapes=dynamic_shapes,
        extensions=tuple(extensions),
        optimize=optimizations,
        compiler=compiler,
    )
    return ExplainedModel(model, halves, example_inputs, again)
