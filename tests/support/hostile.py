"""Files that anyone may have written: valid ones, changed at random in every way that JSON allows."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 7, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -1e308, float("nan"), float("inf")),
    *("", "x", "epsilon", "Rule", "Custom", "load", "nn", "x" * 10_000, "\x00", "\ud800", "*" * 50, "__class__"),
    *([], {}, [None], [[]], [0], [1, 1], [-1], [2**40, 2**40], [10**400], ["x"], {"": None}, {"x": 1}, {"rule": []}),
    *({"hint": "AUTO"}, {"mapping": [[0, {"hint": "x"}]]}, {"sequence": {}}, {"name": "x"}, {"class": "os.path"}),
]


def nested(levels: int, kind: str = "list") -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value] if kind == "list" else {"sequence": [value]}
    return value


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from _places(each, (*path, key))


def _changed(value: Any, generator: random.Random) -> Any:
    value = copy.deepcopy(value)
    *way, last = generator.choice(list(_places(value)))
    owner = value
    for key in way:
        owner = owner[key]
    how = generator.choice(["replace", "replace", "replace", "delete", "add", "twice", "nest", "wrap"])
    if how == "delete":
        del owner[last]
    elif how == "add" and isinstance(owner, dict):
        owner[generator.choice(["x", "cls", "self", "rule", "function", "", "constants"])] = generator.choice(VALUES)
    elif how == "twice" and isinstance(owner, list):
        owner.insert(last, copy.deepcopy(owner[last]))
    elif how == "nest":
        owner[last] = nested(generator.choice([5, 30, 90]), generator.choice(["list", "sequence"]))
    elif how == "wrap":
        owner[last] = [owner[last]]
    else:
        owner[last] = generator.choice(VALUES)
    return value


def _as_text(value: Any, generator: random.Random) -> bytes:
    text = json.dumps(value).encode()
    how = generator.choice([*["whole"] * 8, "cut", "junk", "utf-16", "brackets"])
    if how == "cut":
        return text[: generator.randrange(len(text))]
    if how == "junk":
        at = generator.randrange(len(text))
        return text[:at] + generator.randbytes(20) + text[at + 20 :]
    if how == "utf-16":
        return text.decode().encode("utf-16")
    return b"[" * 100_000 if how == "brackets" else text


def files(valid: Any, seed: int, count: int) -> Iterator[bytes]:
    """Texts of ``valid`` with one to three changes; the same ones for the same seed."""
    generator = random.Random(seed)
    for _ in range(count):
        changed = valid
        for _ in range(generator.choice([1, 1, 2, 3])):
            changed = _changed(changed, generator) if list(_places(changed)) else changed
        yield _as_text(changed, generator)
