"""The compiler's passes, one per file, and what user-defined passes are written with."""

from fxlrp.passes.annotate import change_rule
from fxlrp.passes.base import Pass, compiler_pass
from fxlrp.program import Program, annotation

__all__ = ["Pass", "Program", "annotation", "change_rule", "compiler_pass"]
