"""From a model to its annotated program: all that comes before relevance is emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fxlrp.capture import FRONT_ENDS, Captured, FrontEnd, Selected, capture
from fxlrp.capture.fallback import first_that_follows
from fxlrp.debugging.logs import PassLog
from fxlrp.debugging.stages import Recorder
from fxlrp.errors import CaptureError, GraphError, InputError
from fxlrp.extensions import Extension, extend
from fxlrp.inputs import Inputs
from fxlrp.operation import Vocabulary
from fxlrp.passes import pipeline
from fxlrp.passes.base import run_passes
from fxlrp.program import Program
from fxlrp.rules.presets import Preset, Rules, resolve
from fxlrp.shapes import InputSpec, infer_values
from fxlrp.vocabulary import CANONICAL

Capture = Literal["auto", "symbolic", "export"]


@dataclass(frozen=True)
class Request:
    """What is to be explained, and how. Made by :meth:`of`, which checks it.

    Args:
        model: The model.
        preset: The rules.
        vocabulary: The operations, with the user's own.
        front_ends: Which front ends may capture the model.
        output: Which of its outputs relevance leaves from.
        dynamic_shapes: The sizes that ``torch.export`` leaves open.
        at: Where relevance is asked for, if not at the inputs.
        debug: Whether every stage of the compilation is kept.
    """

    model: nn.Module
    preset: Preset
    vocabulary: Vocabulary
    front_ends: tuple[FrontEnd, ...]
    output: Selected
    dynamic_shapes: Mapping[str, Any] | None
    at: str | None = None
    debug: bool = False

    @staticmethod
    def of(
        model: nn.Module,
        rules: Rules,
        *,
        capture: Capture,
        extensions: Sequence[Extension],
        output: Selected,
        dynamic_shapes: Mapping[str, Any] | None,
        at: str | None = None,
        debug: bool = False,
    ) -> Request:
        """The request, checked; the arguments are those of :func:`fxlrp.compile`."""
        preset = resolve(rules)
        front_ends = _front_ends(capture)
        _check_model(model)
        vocabulary, preset = extend(CANONICAL, preset, extensions)
        return Request(model, preset, vocabulary, front_ends, output, dynamic_shapes, at, debug)


def annotated_program(request: Request, inputs: Inputs) -> tuple[Program, Captured]:
    """Capture the model by the first front end that can follow it, and give every node its rule.

    Raises:
        ExamplesNeeded: It is ``torch.export``, and there are no example inputs.
    """

    def attempt(front_end: FrontEnd) -> tuple[Program, Captured]:
        captured = capture(
            request.model,
            inputs,
            request.vocabulary,
            front_end=front_end,
            output=request.output,
            dynamic_shapes=request.dynamic_shapes,
        )
        observers = (PassLog(), Recorder()) if request.debug else (PassLog(),)
        program = Program(captured.graph_module, request.vocabulary, request.preset, at=request.at, observers=observers)
        program.tell("capture", len(program.graph.nodes))
        return annotate(program, inputs), captured

    return first_that_follows(request.front_ends, attempt, inputs)


def annotate(program: Program, inputs: Inputs) -> Program:
    """Bring a captured graph to the canonical vocabulary, and give every node its rule."""
    run_passes(program, pipeline.CANONICALIZE)
    program.values = _values(program, inputs)
    run_passes(program, pipeline.SIMPLIFY)
    run_passes(program, pipeline.ANALYZE)
    run_passes(program, pipeline.ANNOTATE)
    return program


def _front_ends(capture: str) -> tuple[FrontEnd, ...]:
    if capture == "auto":
        return FRONT_ENDS
    chosen = tuple(front_end for front_end in FRONT_ENDS if front_end == capture)
    if not chosen:
        raise CaptureError(f"there is no front end {capture!r}; there are: auto, {', '.join(FRONT_ENDS)}")
    return chosen


def _values(program: Program, inputs: Inputs) -> Mapping[str, InputSpec]:
    if not inputs.specs:
        return {}
    try:
        return infer_values(program.graph_module, program.graph, inputs.specs)
    except Exception as error:
        raise GraphError(f"the model does not take the example inputs: {error}") from error


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise CaptureError(f"only modules can be compiled, not {type(model).__name__}")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(f"a scripted module cannot be traced ({path or 'the model itself'!r}): give its source")
    training = [path or "the model itself" for path, module in model.named_modules() if module.training]
    if training:
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        raise CaptureError(f"the model is in training mode ({training[0]}{more}): call model.eval() first")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise InputError(f"the parameter or buffer {name!r} has no shape yet: run the model once first")
        if not _is_finite(value) and not _is_bound(name, value):
            raise InputError(f"the parameter or buffer {name!r} holds NaN or infinity")


def _is_bound(name: str, value: Tensor) -> bool:
    """Whether a buffer may hold infinity, as a mask or a bound does."""
    is_statistic = name.rpartition(".")[2] in ("running_mean", "running_var")
    return not isinstance(value, nn.Parameter) and not is_statistic and not bool(value.isnan().any())


def _is_finite(value: Tensor) -> bool:
    if value.is_meta or not value.is_floating_point():
        return True
    # The sum is quick and finite in all but rare cases of overflow; what is not finite always shows in it.
    total = value.detach().sum()
    return bool(torch.isfinite(total)) or bool(torch.isfinite(value).all())
