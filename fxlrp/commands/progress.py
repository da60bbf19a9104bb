"""How far a command is, on a line of the terminal."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from fxlrp.command_line import is_terminal


@dataclass
class Progress:
    """Prints how many of ``total`` are done, if stderr is a terminal."""

    total: int
    what: str
    start: float = field(default_factory=time.monotonic)

    def set(self, done: int) -> None:
        """Say how many are done."""
        if is_terminal(sys.stderr):
            seconds = time.monotonic() - self.start
            print(f"\r{done} of {self.total} {self.what}, {seconds:.0f} s", end="", file=sys.stderr, flush=True)

    def end(self, done: int) -> None:
        """Say how many are done, and end the line."""
        self.set(done)
        if is_terminal(sys.stderr):
            print(file=sys.stderr)
