"""The checked arguments of the public functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from fxlrp.arguments import flag, mapping, shown
from fxlrp.capture import FRONT_ENDS, FrontEnd, Selected
from fxlrp.capture.outputs import checked_output
from fxlrp.copies import Copied
from fxlrp.errors import CaptureError, InputError
from fxlrp.extensions import Extension, extend
from fxlrp.question import At, Question
from fxlrp.relevance.numerics import is_finite
from fxlrp.rules.preset import Preset
from fxlrp.rules.presets import Rules
from fxlrp.rules.resolve import resolve
from fxlrp.vocabulary import CANONICAL
from fxlrp.vocabulary.lookup import Vocabulary

Capture = Literal["auto", "symbolic", "export"]


@dataclass(frozen=True)
class Request:
    """The checked arguments of a compilation. :meth:`of` returns it.

    Args:
        preset: The rules.
        vocabulary: The operations, with user-defined ones.
        front_ends: The front ends that may capture the model.
        output: The output at which relevance starts.
        dynamic_shapes: The dynamic sizes of ``torch.export``.
        question: Where relevance is requested, and in which form.
        segments: The number of segments of checkpointing; 0 chooses a good number, None disables checkpointing.
        constants: The names of the inputs that are not to be explained.
        differentiable: Whether autograd is to differentiate the relevance.
    """

    preset: Preset
    vocabulary: Vocabulary
    front_ends: tuple[FrontEnd, ...] = FRONT_ENDS
    output: Selected = None
    dynamic_shapes: Mapping[str, Any] | None = None
    question: Question = field(default_factory=Question)
    segments: int | None = None
    constants: tuple[str, ...] = ()
    differentiable: bool = False

    @staticmethod
    def of(
        rules: Rules,
        *,
        extensions: Sequence[Extension],
        capture: str = "auto",
        checkpoint: bool | int = False,
        constants: Sequence[str] = (),
        at: At = None,
        output: Selected = None,
        dynamic_shapes: Mapping[str, Any] | None = None,
        differentiable: bool = False,
    ) -> Request:
        """Check the arguments of :func:`fxlrp.compile` and return the request.

        Raises:
            RuleError: A rule, preset or extension does not exist or does not fit.
            CaptureError: The front end is unknown.
            InputError: The number of checkpoints is invalid, ``dynamic_shapes`` is not a mapping, a constant or ``at``
                is not a name, ``output`` is not an index or a key, or ``differentiable`` is not a bool.
        """
        preset = resolve(rules)
        front_ends = _front_ends(capture)
        vocabulary, preset = extend(CANONICAL, preset, extensions)
        return Request(
            preset,
            vocabulary,
            front_ends,
            question=Question.of(at),
            segments=_segments(checkpoint),
            constants=_names(constants),
            differentiable=flag("differentiable", differentiable),
            output=checked_output(output),
            dynamic_shapes=_open_sizes(dynamic_shapes),
        )

    def on(self, model: nn.Module | None) -> Request:
        """Return the request for ``model``, in which the modules that select nodes are."""
        return replace(self, preset=self.preset.located(model))


def _front_ends(capture: str) -> tuple[FrontEnd, ...]:
    chosen = tuple(each for each in FRONT_ENDS if capture in ("auto", each)) if isinstance(capture, str) else ()
    if not chosen:
        raise CaptureError(f"unknown front end {shown(capture)}; choose one of: auto, {', '.join(FRONT_ENDS)}")
    return chosen


def _names(constants: Any) -> tuple[str, ...]:
    if isinstance(constants, str) or not isinstance(constants, Sequence | Set):
        raise InputError(f"constants must be a list of names of inputs, such as ['edge_index'], not {shown(constants)}")
    for name in constants:
        if not isinstance(name, str):
            raise InputError(f"constants must contain the names of inputs, not {shown(name)}")
    return tuple(dict.fromkeys(constants))


def _open_sizes(dynamic_shapes: Any) -> Mapping[str, Any] | None:
    if dynamic_shapes is None:
        return None
    return mapping("dynamic_shapes", dynamic_shapes, "the names of inputs to their open sizes")


def _segments(checkpoint: Any) -> int | None:
    if isinstance(checkpoint, bool):
        return 0 if checkpoint else None
    if not isinstance(checkpoint, int) or checkpoint < 1:
        raise InputError(f"checkpoint must be True, False or a number of segments, not {shown(checkpoint)}")
    return checkpoint


_FROM_PYTHON = (
    "compile the module that was {}. If there is only a file, create the module in Python and load its parameters: "
    "module.load_state_dict(loaded.state_dict())"
)


def _without_source(module: nn.Module) -> str | None:
    """What a module is that has no forward in Python; None for any other module."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted"
    is_exported = isinstance(module, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    )
    return "exported" if is_exported else None


def check_model(model: nn.Module) -> None:
    """Check that a model can be explained.

    Raises:
        CaptureError: The model is not a module, is scripted or exported, or is in training mode.
        InputError: A parameter or buffer is not initialized, or contains NaN or infinity.
    """
    if isinstance(model, ExportedProgram):
        raise CaptureError(f"an exported program cannot be traced: {_FROM_PYTHON.format('exported')}")
    if not isinstance(model, nn.Module):
        raise CaptureError(f"only modules can be compiled, not {type(model).__name__}")
    if isinstance(model, Copied):
        raise CaptureError(f"the model is {model!r}: compile the model that it explains")
    for path, module in model.named_modules():
        kind = _without_source(module)
        if kind is not None:
            where = f"the module {path!r}" if path else "the model"
            raise CaptureError(f"{where} is {kind} and has no code that can be traced: {_FROM_PYTHON.format(kind)}")
    training = [path or "the model itself" for path, module in model.named_modules() if module.training]
    if training:
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        raise CaptureError(f"the model is in training mode ({training[0]}{more}): call model.eval() first")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise InputError(f"the parameter or buffer {name!r} is not initialized: run the model once first")
        if value.is_floating_point() and not is_finite(value) and not _is_bound(name, value):
            raise InputError(f"the parameter or buffer {name!r} contains NaN or infinity")


def _is_bound(name: str, value: Tensor) -> bool:
    """Whether a buffer may contain infinity, as masks and bounds do."""
    is_statistic = name.rpartition(".")[2] in ("running_mean", "running_var")
    return not isinstance(value, nn.Parameter) and not is_statistic and not bool(value.isnan().any())
