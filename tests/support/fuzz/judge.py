"""What may come of a call with wrong arguments: a right answer, or an error that is allowed."""

from __future__ import annotations

import contextlib
import importlib.abc
import io
import signal
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fuzz.values import TRAP, VALUES, Mine
from fxlrp.errors import FxlrpError, InternalError

SECONDS = 120
CONTAINER = (TypeError, IndexError, KeyError, ValueError)
"""The errors of a sequence or mapping that is asked for an element."""


@dataclass(frozen=True)
class Call:
    """A public function, arguments with which it works, and which other arguments are right.

    Args:
        function: Called with all arguments by name.
        arguments: Makes arguments with which it works.
        right: For each argument that is changed, whether a value is right, so that the function may answer.
        takes_code: The arguments that are functions, whose own errors are those of the caller.
        also: Errors that the function documents, beside those of fxlrp.
    """

    function: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    right: Mapping[str, Callable[[Any], bool]]
    takes_code: tuple[str, ...] = ()
    also: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What came of a call.

    Args:
        outcome: "answered", or the name of the error.
        fault: What is wrong with that; empty if nothing is.
    """

    outcome: str
    fault: str = ""


class _TooSlow(BaseException):
    pass


class _Imported(BaseException):
    pass


class _Trap(importlib.abc.MetaPathFinder):
    """Notices that a name in an argument is imported."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        if fullname.startswith(TRAP):
            raise _Imported(fullname)


@contextlib.contextmanager
def _watched(seconds: int) -> Iterator[None]:
    """End what takes longer than some seconds, where signals can be used, and notice imports."""
    can_wait = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    trap = _Trap()
    sys.meta_path.insert(0, trap)
    before = signal.signal(signal.SIGALRM, _expire) if can_wait else None
    if can_wait:
        signal.alarm(seconds)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if can_wait:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        sys.meta_path.remove(trap)


def _expire(number: int, frame: types.FrameType | None) -> None:
    raise _TooSlow


def judged(call: Call, changes: Mapping[str, str]) -> Verdict:
    """Call a function with some of its arguments changed.

    Args:
        call: The function.
        changes: The name of a value for each argument to change.
    """
    arguments = call.arguments() | {name: VALUES[value]() for name, value in changes.items()}
    is_right = all(_holds(call.right[name], arguments[name]) for name in changes)
    try:
        with _watched(SECONDS):
            call.function(**arguments)
    except InternalError as error:
        return Verdict("InternalError", _described(error))
    except (FxlrpError, Mine) as error:
        return Verdict(type(error).__name__, "" if str(error).strip() else "the error has no message")
    except call.also as error:
        return Verdict(type(error).__name__)
    except (_TooSlow, _Imported, SystemExit, Exception) as error:
        code = any(name in call.takes_code and callable(arguments[name]) for name in changes)
        return Verdict(type(error).__name__, "" if code else _described(error))
    return Verdict("answered", "" if is_right else "it answered, but the arguments are wrong")


def _holds(right: Callable[[Any], bool], value: Any) -> bool:
    try:
        return bool(right(value))
    # The value may refuse to be looked at, and is not right then.
    except Exception:
        return False


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/fxlrp/" in frame.filename or "/passes/" in frame.filename]
    where = (own or list(frames))[-1]
    try:
        text = str(error).strip()
    except Exception:
        text = "(its message cannot be made)"
    return f"{type(error).__name__} in {where.filename}:{where.lineno}: {text.partition(chr(10))[0][:160]}"
