"""The default front end: symbolic tracing with torch.fx."""

from __future__ import annotations

import linecache
import operator
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp import layouts
from fxlrp.capture import packed_sequences
from fxlrp.capture.distributed_modules import UNKNOWN, recording_layouts
from fxlrp.capture.holder import Holder, name_inputs
from fxlrp.capture.lock import ONE_CAPTURE
from fxlrp.capture.model_copy import copy_with_shared_tensors
from fxlrp.capture.outputs import Selected, Selection
from fxlrp.capture.recorded_functions import stand_ins
from fxlrp.capture.root_module import CONSTANTS, on_live_model
from fxlrp.capture.sharded_modules import is_gathered
from fxlrp.capture.traceable_forwards import open_modules
from fxlrp.errors import CaptureError, InputError, SymbolicTraceError
from fxlrp.inputs import Inputs
from fxlrp.layouts import is_distributed, layout_of
from fxlrp.provenance import is_users_file


class _Proxy(fx.Proxy):
    """A traced value. Unlike the base class it records that ``x += y`` and ``x[i] = y`` change ``x``."""

    def requires_grad_(self, requires_grad: bool = True) -> _Proxy:
        """Return the value: what autograd records does not change it."""
        return self

    def retain_grad(self) -> None:
        """Do nothing, because a program has no gradients."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "requires_grad":
            return
        if name not in ("tracer", "node", "_value"):
            raise CaptureError(f"tracing cannot follow an assignment to the attribute {name!r} of a tensor")
        super().__setattr__(name, value)

    def __getitem__(self, index: Any) -> fx.Proxy:
        if isinstance(index, str):
            raise SymbolicTraceError(f"{self.node.name!r} has the key {index!r}, so it is not a tensor")
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __getattr__(self, name: str) -> Any:
        if self.node.op == "placeholder" and not name.startswith("__") and not hasattr(Tensor, name):
            raise SymbolicTraceError(f"{self.node.name!r} has the attribute {name!r}, so it is not a tensor")
        return super().__getattr__(name)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    # Code that changes how a tensor lies on devices, such as the hooks of tensor parallelism, compares what it has with
    # what it needs. Nothing equals the placements of a traced value, so that it asks for what it needs.
    placements = UNKNOWN

    def redistribute(self, device_mesh: Any = None, placements: Any = None, **_: Any) -> fx.Proxy:
        """Record a change of the layout on several devices."""
        return self.tracer.create_proxy("call_function", layouts.redistribute, (self, layout_of(placements)), {})

    def to_local(self, **_: Any) -> fx.Proxy:
        """Record that the part on this device is taken."""
        return self.tracer.create_proxy("call_function", layouts.to_local, (self,), {})

    def full_tensor(self, **_: Any) -> fx.Proxy:
        """Record that the whole tensor is taken."""
        whole = self.tracer.create_proxy("call_function", layouts.redistribute, (self, ()), {})
        return self.tracer.create_proxy("call_function", layouts.to_local, (whole,), {})


def _augmented(function: Callable[..., Any]) -> Callable[[_Proxy, Any], fx.Proxy]:
    def assign(self: _Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return assign


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_Proxy, f"__{_name}__", _augmented(getattr(operator, _name)))


class _AttributeProxy(_Proxy):
    """A traced parameter or buffer, whose sizes are known, so that modules may branch on them."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, value: Tensor) -> None:
        super().__init__(node, tracer)
        self._value = value

    def _as_number(self) -> Any:
        raise SymbolicTraceError(
            f"the value of the parameter or buffer {str(self.node.target).removeprefix('model.')!r} decides what the "
            "model computes, and may change: make it a Python number"
        )

    __bool__ = __int__ = __index__ = __float__ = _as_number

    @property
    def shape(self) -> torch.Size:
        return self._value.shape

    @property
    def ndim(self) -> int:
        return self._value.ndim

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self._value.size() if dim is None else self._value.size(dim)

    def dim(self) -> int:
        return self._value.dim()

    def numel(self) -> int:
        return self._value.numel()


class _Tracer(fx.Tracer):
    """Records functional calls with module paths and the user's source lines."""

    def __init__(self, holder: Holder, inputs: Sequence[str], functions: Sequence[Callable[..., Any]]) -> None:
        super().__init__()
        self._whole = {getattr(function, "__code__", None): function.__name__ for function in functions}
        self._inputs = inputs
        self._named = dict(
            (*holder.named_parameters(remove_duplicate=False), *holder.named_buffers(remove_duplicate=False))
        )
        self._paths = {id(tensor): path for path, tensor in reversed(self._named.items())}
        self._thread = threading.get_ident()
        self._autocast = _autocast()
        self.constants = nn.Module()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            # Another thread may call a different model while torch.nn.Module is patched.
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        path = self._paths.get(id(attr_val)) if isinstance(attr_val, Tensor) else None
        if path is None:
            return attr_val
        # Tied weights may be untied later, so each module reads its own attribute.
        own_path = f"{self.scope.module_path}.{attr}"
        path = own_path if self._named.get(own_path) is attr_val else path
        if path not in parameter_proxy_cache:
            read, known = ("get_attr", path, ()), partial(_AttributeProxy, tracer=self, value=attr_val)
            proxy = self.create_proxy(*read, {}, proxy_factory_fn=known)
            # The search for the module takes long.
            if is_distributed(attr_val) and is_gathered(self.root.get_submodule(path.rpartition(".")[0]), attr_val):
                proxy = self.create_proxy("call_function", layouts.whole, (proxy,), {}, proxy_factory_fn=known)
            parameter_proxy_cache[path] = proxy
        return parameter_proxy_cache[path]

    def on_mesh(self, mesh: Any) -> fx.Proxy:
        """A parameter that lies on a mesh of devices; of the module that is traced, if it has one.

        Raises:
            CaptureError: The model has none.
        """
        found = [path for path, value in self._named.items() if is_distributed(value) and value.device_mesh == mesh]
        own = [path for path in found if path.startswith(f"{self.scope.module_path}.")]
        if not found:
            raise CaptureError(
                f"a tensor is moved to {mesh}, on which the model has no parameter: parallelize it there"
            )
        path = (own or found)[0]
        return self.create_proxy("get_attr", path, (), {})

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return False

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        return root_fn, [
            self.root,
            *(self.create_proxy("placeholder", name, (), {}) for name in self._inputs),
        ]

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and not self._is_attribute(a):
            if a.requires_grad:
                raise CaptureError("a tensor that forward computes from parameters would be a constant of the program")
            # The base class would store a constant on the user's model.
            name = f"constant_{len(list(self.constants.buffers()))}"
            self.constants.register_buffer(name, a.detach())
            return self.create_node("get_attr", f"{CONSTANTS}.{name}", (), {})
        if isinstance(a, tuple) and hasattr(a, "_fields"):
            # The base class would record a call that creates the named tuple.
            return type(a)(*(self.create_arg(element) for element in a))
        return super().create_arg(a)

    def _is_attribute(self, a: Tensor) -> bool:
        return a in self.tensor_attrs or any(a is buffer for buffer in self.root.buffers())

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _autocast() != self._autocast:
            raise SymbolicTraceError("an autocast region inside the model, whose precision a graph cannot represent")
        frame: FrameType | None = sys._getframe(1)
        while self._whole and frame is not None:
            if frame.f_code in self._whole:
                name = self._whole[frame.f_code]
                raise CaptureError(f"{name} has a user-defined rule, but is called in a way that tracing cannot record")
            frame = frame.f_back
        node = super().create_node(*args, **kwargs)
        node.stack_trace = _user_line(sys._getframe(1))
        return node


def _autocast() -> tuple[Any, ...]:
    """The precision of autocast, if it is enabled."""
    return tuple(
        (
            torch.is_autocast_enabled(device),
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
        )
        for device in ("cpu", "cuda")
    )


def _user_line(frame: FrameType | None) -> str | None:
    """The innermost line outside torch and fxlrp, formatted as Python formats tracebacks."""
    while frame is not None:
        code = frame.f_code
        if code is Holder.forward.__code__:
            return None
        if is_users_file(code.co_filename):
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            return f'File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n    {line}'
        frame = frame.f_back
    return None


def capture(
    model: nn.Module,
    inputs: Inputs | None = None,
    functions: Sequence[Callable[..., Any]] = (),
    output: Selected = None,
) -> fx.GraphModule:
    """Trace ``model`` to a forward graph that reads parameters from the live model. The model is not changed.

    Args:
        model: The model, in eval mode.
        inputs: Its inputs; None takes every argument without a default.
        functions: The functions with user-defined rules, which tracing does not trace into.
        output: The output that is explained.

    Raises:
        CaptureError: Tracing cannot follow the model; the message names the line.
        InputError: The output does not exist.
    """
    inputs, selection = inputs or Inputs.of(model), Selection(output)
    # A model may store values on itself. Trace a copy that shares the tensors, to keep proxies out of the model.
    try:
        holder = Holder(copy_with_shared_tensors(model), inputs, selection).eval()
        open_modules(holder)
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(f"{type(model).__name__} cannot be copied for tracing: {error}") from error
    tracer = _Tracer(holder, inputs.identifiers, functions)
    try:
        with ONE_CAPTURE, stand_ins(functions, holder, _packing(holder)), recording_layouts(tracer.on_mesh):
            graph = tracer.trace(holder)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, CaptureError) and not isinstance(error, SymbolicTraceError):
            raise type(error)(f"{error}{_place(error)}") from error
        raise SymbolicTraceError(_cannot_follow(model, error)) from error
    selection.note(graph)
    name_inputs(graph, inputs)
    # Remove the annotation of the holder's forward, which is not that of the model.
    graph.output_node().type = None
    return on_live_model(model, graph, tracer.constants)


def _packing(holder: Holder) -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """The functions that pack and pad sequences, with their replacements, if a module may read packed sequences."""
    reads = any(isinstance(module, nn.RNNBase) for module in holder.modules())
    return packed_sequences.REPLACED if reads else {}


def _place(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users_file(f.filename)]
    return f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _cannot_follow(model: nn.Module, error: Exception) -> str:
    what = str(error) if isinstance(error, SymbolicTraceError) else f"{type(error).__name__}: {error}"
    return (
        f"symbolic tracing cannot follow {type(model).__name__}{_place(error)} ({what}). It does not support control "
        f"flow that depends on values or sizes: capture with torch.export, at the first call or by example_inputs; or "
        f"use torch.where; or write a rule for the function, which is then not traced (docs/adding-a-rule.md)"
    )
