"""The source of generated code. torch.fx keeps it, for tracebacks, as long as the process lives."""

from __future__ import annotations

import linecache
import weakref

from torch import fx
from torch.fx import graph_module as fx_graph_module


def forgotten_with_code(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Let torch.fx forget the source of a module when its code is freed; return the module.

    ``torch.fx`` adds an entry to its own cache and to :mod:`linecache` whenever it generates code, and removes none.
    A process that compiles many models, or steps through many explanations, would grow.
    """
    for module in graph_module.modules():
        if isinstance(module, fx.GraphModule):
            code = type(module).forward.__code__
            weakref.finalize(code, _forget, code.co_filename).atexit = False
    return graph_module


def _forget(filename: str) -> None:
    fx_graph_module._loader.eval_cache.pop(filename, None)
    linecache.cache.pop(filename, None)
