"""What the commands share: a wrong call ends in one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from fxlrp.errors import FxlrpError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a single line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def run(self, arguments: Sequence[str] | None = None) -> None:
        """Parse the arguments and call their ``run``; None means the arguments of the process."""
        options = self.parse_args(arguments)
        try:
            options.run(options)
        except (FxlrpError, ImportError, OSError) as error:
            self.error(str(error))


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
