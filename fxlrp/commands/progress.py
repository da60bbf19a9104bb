"""How far a command is, on a line of the terminal."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Prints how many of ``total`` are done, if stderr is a terminal."""

    total: int
    what: str
    done: int = 0
    start: float = field(default_factory=time.monotonic)

    def add(self, count: int) -> None:
        """Count some as done."""
        self.done += count
        if sys.stderr.isatty():
            seconds = time.monotonic() - self.start
            print(f"\r{self.done} of {self.total} {self.what}, {seconds:.0f} s", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """End the line."""
        if sys.stderr.isatty() and self.done:
            print(file=sys.stderr)
