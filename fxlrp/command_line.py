"""What the commands share: a wrong call ends in one line on stderr and exit status 2, Ctrl-C in one and 130."""

from __future__ import annotations

import argparse
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from fxlrp.errors import FxlrpError

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a process that Ctrl-C ends, as shells have it."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a single line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    def run(self, arguments: Sequence[str] | None = None) -> None:
        """Parse the arguments and call their ``run``; None means the arguments of the process.

        ``run`` returns the exit status; None is 0.
        """
        # A name that the encoding of the output cannot show does not end the command.
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")
        options = self.parse_args(arguments)
        try:
            status = options.run(options)
            print(end="", flush=True)
        except KeyboardInterrupt:
            # In a terminal, the line of the progress has not ended.
            self.exit(INTERRUPTED, "\n" * is_terminal(sys.stderr) + f"{self.prog}: interrupted\n")
        except BrokenPipeError:
            # The reader of a pipe, such as head, has enough. Nothing is left to print when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        except (FxlrpError, ImportError, OSError) as error:
            self.error(str(error))
        if status:
            self.exit(status)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; it is None if the process was started without it."""
    return stream is not None and stream.isatty()


def one_line(message: object) -> str:
    """A message without line breaks; a semicolon stands for one where a line ends without a sign."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    ended = [line if line[-1] in ".,:;" else f"{line};" for line in lines[:-1]]
    return " ".join([*ended, *lines[-1:]])


def in_short(text: str) -> str:
    """A text of at most 80 characters; an ellipsis stands for the middle of a longer one."""
    return text if len(text) <= 80 else f"{text[:40]}…{text[-39:]}"


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    *,
    help: str,
    examples: Sequence[str],
    description: str = "",
) -> argparse.ArgumentParser:
    """Declare a command.

    Args:
        commands: The result of ``add_subparsers``.
        name: The name of the command.
        run: What the command does with its options; it returns the exit status.
        help: A line for the list of commands.
        examples: Calls, which ``--help`` shows.
        description: What the command does; empty means ``help``.

    Returns:
        The parser, to which arguments are added.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description or f"{help[0].upper()}{help[1:]}.",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def at_least_one(text: str) -> int:
    """A whole number of at least 1, for ``type=`` of an argument."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def non_negative(text: str) -> float:
    """A finite number of at least 0, for ``type=`` of an argument."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of at least 0")
    return value


def parameter(text: str) -> tuple[str, Any]:
    """A parameter of a preset as ``NAME=VALUE``, where the value is a number or several separated by commas."""
    name, sign, value = text.partition("=")
    numbers = tuple(map(_number, value.split(",")))
    if not (name and sign) or any(map(math.isnan, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER or NAME=NUMBER,NUMBER,...")
    return name, numbers if len(numbers) > 1 else numbers[0]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
