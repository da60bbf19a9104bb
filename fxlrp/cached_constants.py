"""Keep the constants of a program between calls until the parameters that they depend on change."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from fxlrp.capture.lock import is_compiling
from fxlrp.capture.root_module import on_other_model, sharing_tensors
from fxlrp.generated_code import generate_code
from fxlrp.graph_parts import copy_nodes, needed_for
from fxlrp.layouts import to_local


@dataclass(frozen=True)
class _Kept:
    """Constants, and the state of the parameters from which they were computed."""

    sources: tuple[Tensor, ...]
    state: tuple[Any, ...]
    words: tuple[Tensor, ...]
    copies: tuple[Tensor, ...]
    values: tuple[Any, ...]

    def are_current(self, sources: tuple[Tensor, ...]) -> bool:
        """Whether the parameters are the same tensors, in the same memory, with the same values."""
        return (
            all(map(operator.is_, sources, self.sources))
            and _state(sources) == self.state
            and all(map(torch.equal, self.words, self.copies))
        )


class ProgramWithConstants:
    """Runs a program whose constants are computed at the first call, and recomputed when a parameter has changed.

    These count as changes: a different tensor in place of the parameter, a write that PyTorch counts, different memory
    or strides of the same tensor, and values that differ from those of a copy. The last finds writes through ``.data``,
    which PyTorch does not count. Reading the parameters costs a fraction of computing the constants.
    """

    def __init__(self, graph_module: fx.GraphModule, constants: Sequence[fx.Node]) -> None:
        """Split the program of ``graph_module`` at the nodes ``constants``."""
        fold, main = _constants_graph(graph_module.graph, constants), _main_graph(graph_module.graph, constants)
        self._fold = generate_code(sharing_tensors(graph_module, fold))
        self._main = generate_code(sharing_tensors(graph_module, main))
        paths = [str(node.target) for node in self._fold.graph.nodes if node.op == "get_attr"]
        self._sources: tuple[Callable[[Any], Tensor], ...] = tuple(map(operator.attrgetter, paths))
        self._kept: _Kept | None = None

    @staticmethod
    def of(graph_module: fx.GraphModule, constants: Sequence[fx.Node]) -> ProgramWithConstants | None:
        """Return a program that keeps its constants; None if it does not have any."""
        return ProgramWithConstants(graph_module, constants) if constants else None

    def __call__(self, *inputs: Any) -> Any:
        """Return the result of the whole program for ``inputs``."""
        # Not called as a module, which would print the line of the generated code that fails.
        return self._main.forward(*inputs, *self._values())

    def recomputing(self, *inputs: Any) -> Any:
        """Return the result of the whole program for ``inputs``, with constants that are computed in this call."""
        return self._main.forward(*inputs, *self._fold.forward())

    def on(self, model: nn.Module) -> ProgramWithConstants:
        """Return the same program on another copy of the model, which has its own constants."""
        other = copy.copy(self)
        other._fold, other._main = on_other_model(self._fold, model), on_other_model(self._main, model)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Drop the constants from a copy, because its parameters are different tensors."""
        return {**vars(self), "_kept": None}

    def _values(self) -> tuple[Any, ...]:
        sources = tuple(source(self._fold) for source in self._sources)
        kept = self._kept
        if kept is not None and kept.are_current(sources):
            return kept.values
        # The first call may be in inference mode, and a later one outside it.
        with torch.inference_mode(False), torch.no_grad():
            if not all(map(_can_be_watched, sources)):
                return tuple(self._fold())
            # Record the state first, so that a change during the computation is noticed.
            state, words = _state(sources), tuple(map(_words, sources))
            kept = _Kept(sources, state, words, tuple(each.clone() for each in words), tuple(self._fold()))
        self._kept = kept
        return kept.values


def can_be_watched() -> bool:
    """Whether tensors are ordinary: not fake, traced, batched by ``vmap`` or cast by autocast."""
    if is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if torch.cuda.is_initialized() and (torch.is_autocast_enabled("cuda") or torch.cuda.is_current_stream_capturing()):
        return False
    return (
        detect_fake_mode() is None and get_proxy_mode() is None and torch._C._functorch.peek_interpreter_stack() is None
    )


def _can_be_watched(source: Tensor) -> bool:
    """Whether a change would be noticed: PyTorch does not count writes to inference tensors."""
    return not source.is_inference() and not source.is_meta and source.layout == torch.strided


def _state(sources: tuple[Tensor, ...]) -> tuple[Any, ...]:
    local = map(to_local, sources)
    return tuple((source._version, source.data_ptr(), source.shape, source.stride()) for source in local)


def _words(source: Tensor) -> Tensor:
    """A view of a tensor that is fast to compare: as few numbers as cover its memory."""
    source = to_local(source)
    size = source.element_size()
    whole = source.numel() > 0 and source.numel() * size % 8 == 0 and source.storage_offset() * size % 8 == 0
    source = source.detach()
    return source.view(-1).view(torch.int64) if whole and source.is_contiguous() else source


def _constants_graph(graph: fx.Graph, constants: Sequence[fx.Node]) -> fx.Graph:
    """The part of a graph that computes ``constants``, which it returns."""
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    needed = needed_for(constants)
    copy_nodes((node for node in graph.nodes if node in needed), part, copies)
    part.output(tuple(copies[node] for node in constants))
    return part


def _main_graph(graph: fx.Graph, constants: Sequence[fx.Node]) -> fx.Graph:
    """A graph that takes ``constants`` as further inputs, after its own."""
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    copy_nodes(graph.find_nodes(op="placeholder"), part, copies)
    for node in constants:
        copies[node] = part.placeholder(node.name, default_value=None)
    ending = [node for node in graph.nodes if not node.users and node.is_impure()]
    needed = needed_for(ending, given=copies)
    copy_nodes((node for node in graph.nodes if node in needed), part, copies)
    return part
