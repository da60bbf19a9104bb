"""The source of generated code. torch.fx keeps it, for tracebacks, as long as the process lives."""

from __future__ import annotations

import linecache
import weakref

from torch import fx
from torch.fx import graph_module as fx_graph_module
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.graph import PythonCode


class GraphInTheMaking(_LazyGraphModule):
    """A module of a graph that passes still change: its code is generated when it is called, printed or asked for."""

    def _recompile_submodules(self) -> list[tuple[str, PythonCode]]:
        """Leave the code of the submodules: the user's model, which may come from torch.fx, is among them."""
        return []

    def _real_recompile(self) -> PythonCode:
        """Generate the code, and let torch.fx forget it in time."""
        code = super()._real_recompile()
        _forget_in_time(self)
        return code


def generate_code(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Generate the code of a graph that passes have changed, and let torch.fx forget it in time; return the module."""
    graph_module.recompile()
    return with_code(graph_module) if isinstance(graph_module, GraphInTheMaking) else forgotten_with_code(graph_module)


def with_code(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Generate the code of a graph if there is none yet; return the module.

    ``torch.compile`` and ``torch.export`` follow the code of a module, and would follow its generation, too.
    """
    GraphInTheMaking.force_recompile(graph_module)
    return graph_module


def forgotten_with_code(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Let torch.fx forget the source of a module when its code is freed; return the module.

    ``torch.fx`` adds an entry to its own cache and to :mod:`linecache` whenever it generates code, and removes none.
    A process that compiles many models, or steps through many explanations, would grow.
    """
    for module in graph_module.modules():
        if isinstance(module, fx.GraphModule) and not isinstance(module, GraphInTheMaking):
            _forget_in_time(module)
    return graph_module


def _forget_in_time(graph_module: fx.GraphModule) -> None:
    code = type(graph_module).forward.__code__
    weakref.finalize(code, _forget, code.co_filename).atexit = False


def _forget(filename: str) -> None:
    fx_graph_module._loader.eval_cache.pop(filename, None)
    linecache.cache.pop(filename, None)
