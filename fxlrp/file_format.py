"""The form of JSON files: checks for values that anyone may have written.

A check takes a value and its place in the file, and raises :class:`Malformed` if the value does not have the form.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[Any, str], None]

_MOST = sys.float_info.max
_LARGEST_SIZE = 2**63


class Malformed(Exception):
    """A value does not have the form that the file needs; the message says which one, and where it is."""


def parse(text: str | bytes, check: Check) -> Any:
    """Return the JSON value in ``text``.

    Args:
        text: The file.
        check: The form of the value.

    Raises:
        Malformed: The text is not JSON, or the value does not have the form.
    """
    try:
        # Numbers with thousands of digits are a ValueError, brackets in thousands a RecursionError.
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not valid JSON: {error}") from error
    check(value, "")
    return value


def _check(form: str, holds: Callable[[Any], bool]) -> Check:
    def check(value: Any, place: str) -> None:
        if not holds(value):
            raise Malformed(f"{place or 'the file'} must be {form}, not {_short(value)}")

    return check


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return {list: "a list", dict: "a mapping"}[type(value)]
    text = str(json.dumps(value))
    return text if len(text) <= 40 else f"{text[:40]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST <= value <= _MOST


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_SIZE


anything: Check = _check("a value", lambda value: True)
text: Check = _check("a string", lambda value: isinstance(value, str))
flag: Check = _check("true or false", lambda value: isinstance(value, bool))
number: Check = _check("a finite number", _is_number)
size: Check = _check("a whole number of at least 0", _is_size)
index: Check = _check("a whole number", lambda value: _is_size(value) or (_is_number(value) and _is_size(-value)))
nothing: Check = _check("null", lambda value: value is None)


def one_of(*allowed: str) -> Check:
    """One of the strings."""
    return _check(f"one of {', '.join(map(repr, allowed))}", lambda value: isinstance(value, str) and value in allowed)


def by_type(form: str, checks: Mapping[type, Check]) -> Check:
    """The check for the type of the value, which ``form`` describes."""
    refuse = _check(form, lambda value: False)

    def check(value: Any, place: str) -> None:
        checks.get(type(value), refuse)(value, place)

    return check


def list_of(each: Check) -> Check:
    """A list whose elements have a form."""
    is_list = _check("a list", lambda value: isinstance(value, list))

    def check(value: Any, place: str) -> None:
        is_list(value, place)
        for position, element in enumerate(value):
            each(element, f"{place}[{position}]")

    return check


def mapping_of(each: Check) -> Check:
    """A mapping whose values have a form."""
    is_mapping = _check("a mapping", lambda value: isinstance(value, dict))

    def check(value: Any, place: str) -> None:
        is_mapping(value, place)
        for key, element in value.items():
            each(element, f"{place}.{key}".lstrip("."))

    return check


def record(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """A mapping that has the keys ``needed`` and may have the keys ``optional``. Others are not read."""
    is_mapping = mapping_of(anything)
    known = {**needed, **(optional or {})}

    def check(value: Any, place: str) -> None:
        is_mapping(value, place)
        for key in needed:
            if key not in value:
                raise Malformed(f"{place or 'the file'} has no entry {key!r}")
        for key, each in known.items():
            if key in value:
                each(value[key], f"{place}.{key}".lstrip("."))

    return check
