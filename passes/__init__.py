"""The compiler's passes, one per file."""

from fxlrp.passes.base import Pass, compiler_pass

__all__ = ["Pass", "compiler_pass"]
