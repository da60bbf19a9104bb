"""Why a call fails: whether the model itself refuses the inputs, and where.

All of this runs after an error only. A call that succeeds does not pay for it.
"""

from __future__ import annotations

import copy
import textwrap
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from fxlrp.errors import FxlrpError, InputError, InternalError
from fxlrp.inputs import Inputs
from fxlrp.layouts import is_distributed
from fxlrp.provenance import MODEL, describe, is_users_file


@dataclass(frozen=True)
class _Failure:
    """An error, the place where it was raised, and the values that are read there, in words."""

    error: Exception
    place: str
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class CapturedGraph:
    """The forward graph of a model, in which the node that fails is looked for.

    Args:
        graph_module: The module that contains the model.
        graph: The graph. Its placeholders are the inputs of the model.
    """

    graph_module: fx.GraphModule
    graph: fx.Graph


class _Runner(fx.Interpreter):
    """Runs a graph, and knows the node that it runs."""

    def __init__(self, captured: CapturedGraph) -> None:
        super().__init__(captured.graph_module, graph=captured.graph)
        self.extra_traceback = False
        self.current: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.current = n
        return super().run_node(n)


class ExplainedFailures:
    """A context in which the error of a call names the inputs that the model refuses, and where."""

    def __init__(
        self, model: nn.Module, inputs: Inputs, values: Sequence[Any], captured: CapturedGraph | None = None
    ) -> None:
        """Store the arguments of :func:`raise_explained`."""
        self._call = model, inputs, values, captured

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Explain an error that is not one of fxlrp's."""
        if isinstance(error, Exception) and not isinstance(error, FxlrpError):
            raise_explained(error, *self._call)


def raise_explained(
    error: Exception,
    model: nn.Module,
    inputs: Inputs,
    values: Sequence[Any],
    captured: CapturedGraph | None = None,
    *,
    what: str = "these inputs",
) -> None:
    """Raise an error that explains ``error``, if that is due to the inputs.

    A copy of the model, which shares its parameters, is called with the inputs. Nothing is raised if the model takes
    them and the captured graph does too, or if the reason is the machine, such as a lack of memory.

    Args:
        error: The error of a call or of a capture.
        model: The model.
        inputs: How the model is called.
        values: The values of the inputs, in order.
        captured: The forward graph, if the model is captured.
        what: What the values are, in words.

    Raises:
        InputError: The model does not take the inputs either, or an explanation fails on several devices.
        InternalError: The model takes the inputs, but its captured graph does not.
    """
    if _is_of_the_machine(error):
        return
    # Other devices may not have failed. A call here would wait for theirs.
    if any(map(is_distributed, (*values, *model.parameters(), *model.buffers()))):
        raise InputError(_on_several_devices(error, inputs, values)) from error
    refusal = _refusal(model, inputs, values)
    failure = _failure(captured, values) if captured is not None else None
    if any(each is not None and _is_of_the_machine(each.error) for each in (refusal, failure)):
        return
    if refusal is not None:
        # The graph says more about the place, but may fail at another one than the model.
        found = failure if failure is not None and str(failure.error) == str(refusal.error) else refusal
        raise InputError(_message(what, refusal, found, model, inputs, values)) from refusal.error
    if failure is not None:
        raise InternalError(
            f"the model takes these inputs, but the graph that was captured from it fails at {failure.place}: "
            f"{_first_line(failure.error)}"
        ) from failure.error


def _on_several_devices(error: Exception, inputs: Inputs, values: Sequence[Any]) -> str:
    given = ", ".join(f"{name!r} is {_words(value)}" for name, value in zip(inputs.names, values, strict=True))
    return (
        f"a call on several devices fails: {_first_line(error)}\n"
        f"  inputs: {given}\n"
        "  If the model was parallelized after fxlrp.compile, compile it again: what its modules do at their "
        "boundaries is captured. If parameters are DTensor and no module makes DTensor of its inputs, pass DTensor. "
        "If DTensor does not know an operation, let the module before it return local tensors "
        "(docs/several-devices.md)"
    )


def _is_of_the_machine(error: Exception) -> bool:
    """Whether an error says nothing about the inputs: memory is short, or a device or a connection has failed."""
    if torch.distributed.is_available() and isinstance(error, torch.distributed.DistError):
        return True
    if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    # The allocator of the CPU has no type of its own.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _refusal(model: nn.Module, inputs: Inputs, values: Sequence[Any]) -> _Failure | None:
    """Why a copy of the model does not take the inputs; None if it does."""
    model = _disposable(model)
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    try:
        # The model may draw random numbers, which those of the caller must not depend on.
        with torch.no_grad(), torch.random.fork_rng(devices):
            inputs.call(model, [value.clone() if isinstance(value, Tensor) else value for value in values])
    except Exception as error:
        return _Failure(error, _place(error, model))
    return None


def _disposable(model: nn.Module) -> nn.Module:
    """A copy that shares parameters, but not buffers or attributes, which a forward may change."""
    tensors = (value for module in model.modules() for value in pytree.tree_leaves(vars(module)))
    shared = {id(value): value for value in tensors if isinstance(value, Tensor)}
    return copy.deepcopy(model, {**shared, **{id(buffer): buffer.detach().clone() for buffer in model.buffers()}})


def _failure(captured: CapturedGraph, values: Sequence[Any]) -> _Failure | None:
    """Where the graph fails; None if it does not."""
    runner = _Runner(captured)
    try:
        with torch.no_grad():
            runner.run(*values, enable_io_processing=False)
    except Exception as error:
        node = runner.current
        assert node is not None
        read = ((source, runner.env.get(source)) for source in node.all_input_nodes)
        return _Failure(error, describe(node), tuple(f"{_name(source)} {_words(value)}" for source, value in read))
    return None


def _place(error: Exception, model: nn.Module) -> str:
    """The innermost module and the innermost line of the user's code in which an error was raised."""
    paths = {id(module): path for path, module in model.named_modules()}
    module, parts = model, []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        module = owner if isinstance(owner, nn.Module) and id(owner) in paths else module
    if paths[id(module)]:
        parts.append(f"module {paths[id(module)]!r}")
    parts.append(type(module).__name__ if not parts else f"({type(module).__name__})")
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users_file(frame.filename)]
    where = f", at {lines[-1].filename}:{lines[-1].lineno}: {lines[-1].line}" if lines else ""
    return " ".join(parts) + where


def _message(
    what: str, refusal: _Failure, failure: _Failure, model: nn.Module, inputs: Inputs, values: Sequence[Any]
) -> str:
    given = ", ".join(f"{name!r} is {_words(value)}" for name, value in zip(inputs.names, values, strict=True))
    lines = [
        f"the model does not take {what}: {_first_line(refusal.error)}",
        f"  inputs: {given}",
        f"  it fails at {failure.place}",
    ]
    if failure.reads:
        lines.append(f"  which reads {', '.join(failure.reads)}")
    return "\n".join([*lines, *_advice(model, inputs, values)])


def _advice(model: nn.Module, inputs: Inputs, values: Sequence[Any]) -> list[str]:
    """What differs between the inputs and the parameters, which is often the reason."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return []
    found = []
    for name, value in zip(inputs.names, values, strict=True):
        if not isinstance(value, Tensor):
            continue
        if value.device != parameter.device:
            found.append(f"  the input {name!r} is on {value.device}, but the model is on {parameter.device}")
        elif value.is_floating_point() and value.dtype != parameter.dtype:
            found.append(f"  the input {name!r} is {value.dtype}, but the model is {parameter.dtype}: cast one of them")
    return found


def _first_line(error: Exception) -> str:
    """The type of an error and the first line of its message, which may have pages."""
    text = str(error).strip()
    first = textwrap.shorten(text.splitlines()[0], 400, placeholder=" ...") if text else ""
    return f"{type(error).__name__}: {first}"


def _name(node: fx.Node) -> str:
    """The name of an input, the path of a parameter, or the name of a node."""
    return str(node.target).removeprefix(f"{MODEL}.") if node.op in ("get_attr", "placeholder") else node.name


def _words(value: Any) -> str:
    """The type and the shape of a tensor, and where it is, in words."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    layout = "" if value.layout == torch.strided else f" {value.layout}"
    if is_distributed(value):
        layout += f" {tuple(value.placements)}"
    return f"{value.dtype}{layout} {tuple(value.shape)} on {value.device}"
