"""The frame that TorchDynamo compiles when it calls a backend: a whole function, or a part of one.

If TorchDynamo cannot capture a frame as one graph, it runs parts of it, or all of it, in eager Python, and autograd
propagates gradients through them. A backend that computes relevance must detect this.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from torch import fx, nn
from torch._dynamo import config
from torch._dynamo.resume_execution import TORCH_DYNAMO_RESUME_IN_PREFIX
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch._guards import CompileContext

from fxlrp.errors import CaptureError

_FIX = (
    "Relevance cannot pass between graphs: fix the error of torch.compile(..., fullgraph=True), or use fxlrp.autograd"
)
# The frames of PyTorch between a call of a compiled function and its compilation.
_BETWEEN = ("torch/nn/modules/module.py", "torch/_dynamo/", "torch/_utils_internal.py")


@dataclass(frozen=True)
class CompiledFrame:
    """The frame that is being compiled.

    Args:
        code: The code of the frame.
        is_whole: Whether TorchDynamo already rejects a graph break (``fullgraph=True``).
        root: The module whose forward it is; None for another function.
    """

    code: CodeType
    is_whole: bool
    root: nn.Module | None

    @staticmethod
    def current() -> CompiledFrame:
        """Return the frame for which a backend is being called."""
        translator = InstructionTranslator.current_tx()
        code: CodeType = translator.f_code
        first = translator.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        is_forward = isinstance(first, nn.Module) and getattr(type(first).forward, "__code__", None) is code
        return CompiledFrame(code, translator.one_graph, first if is_forward else None)

    def check_whole(self, graph_module: fx.GraphModule) -> None:
        """Check that the whole function is compiled.

        Raises:
            CaptureError: A part runs in eager Python, or will do so from the next compilation on.
        """
        if self.is_whole:
            return
        reason: Any = getattr(graph_module, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            where = reason.user_stack[-1] if reason.user_stack else None
            at = f" at {where.filename}:{where.lineno}: {where.line}" if where else ""
            raise CaptureError(f"torch.compile breaks the model into several graphs{at} ({reason.reason}). {_FIX}")
        if self.code.co_name.startswith(TORCH_DYNAMO_RESUME_IN_PREFIX):
            raise CaptureError(
                f"torch.compile breaks the model into several graphs; this one begins at {self.code.co_filename}:"
                f"{self.code.co_firstlineno}. {_FIX}"
            )
        outside = _eager_caller()
        if outside is not None:
            raise CaptureError(
                f"torch.compile runs {outside.co_name} at {outside.co_filename}:{outside.co_firstlineno} in eager "
                f"Python, and compiles only the functions that it calls. {_FIX}"
            )
        compilation = CompileContext.current_compile_id()
        count = (compilation.frame_compile_id or 0) + 1 if compilation is not None else 0
        if count >= config.recompile_limit:
            raise CaptureError(
                f"{self.code.co_name} is compiled for the {count}th time, and torch.compile would soon run it in eager "
                "Python, without relevance: compile with dynamic=True if sizes change, or with fullgraph=True, which "
                "makes this an error"
            )


def _eager_caller() -> CodeType | None:
    """The innermost frame that runs in eager Python between the compiled call and the frame being compiled."""
    frame: FrameType | None = sys._getframe()
    inside = False
    while frame is not None:
        name = frame.f_code.co_filename.replace(os.sep, "/")
        if name.endswith("torch/_dynamo/eval_frame.py") and frame.f_code.co_name == "compile_wrapper":
            return None
        inside = inside or name.endswith("torch/_dynamo/convert_frame.py")
        if inside and not any(part in name for part in _BETWEEN):
            return frame.f_code
        frame = frame.f_back
    return None
