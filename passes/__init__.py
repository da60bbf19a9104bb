"""The passes of the compiler, one per file, and the tools to write user-defined passes."""

from fxlrp.passes.annotate import change_rule
from fxlrp.passes.base import Pass, compiler_pass
from fxlrp.program import Program, annotation

__all__ = ["Pass", "Program", "annotation", "change_rule", "compiler_pass"]
