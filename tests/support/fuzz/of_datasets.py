"""Calls of what runs over datasets; those that need Zarr only where it is installed."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fuzz import rights
from fuzz.judge import Call
from fuzz.rights import Right
from fuzz.subjects import folder, image, of_pixels
from fxlrp import concepts, data

_numbers = itertools.count()


def _out() -> Any:
    return folder() / f"dataset_{next(_numbers)}"


def _explained(**options: Any) -> None:
    data.explain(**{"explain": of_pixels(), "dataset": image(), "out": _out(), "progress": False, **options})


@functools.cache
def _written() -> Any:
    out = _out()
    _explained(out=out)
    return out


def _collected(**options: Any) -> None:
    references = concepts.References(of_pixels(), "conv")
    given = {"references": references, "dataset": image(), "out": _out(), "progress": False, **options}
    data.collect(**given)


def _samples(value: Any) -> bool:
    """A tensor, an array or a sequence whose elements are images of the model, all of one type."""
    return isinstance(value, torch.Tensor) and rights.image(value)


PATH: Right = rights.any_of(rights.text, lambda value: isinstance(value, Path))
SAMPLES: Mapping[str, Right] = {
    "dataset": _samples,
    "inputs": rights.optional(rights.function, lambda value: callable(value)),
    "target": rights.optional(rights.class_of(3), lambda value: callable(value)),
    "batch_size": rights.whole(),
    "collate_fn": rights.optional(lambda value: callable(value)),
    "progress": rights.flag,
    "out": PATH,
}
CODE = ("inputs", "target", "collate_fn")

CALLS: dict[str, Call] = {
    "data.collect": Call(
        _collected,
        dict,
        {**SAMPLES, "references": rights.never, "save_every": rights.whole()},
        takes_code=CODE,
        also=(OSError,),
    ),
    "data.Ray": Call(
        data.Ray,
        dict,
        {"actors": rights.whole(), "cpus": rights.number(0.0, 1e6), "gpus": rights.number(0.0, 1e6)},
    ),
}
if importlib.util.find_spec("zarr") is not None:
    CALLS["data.explain"] = Call(
        _explained,
        dict,
        {
            **SAMPLES,
            "explain": rights.never,
            "at": rights.optional(rights.names("", "conv", "*")),
            "bypass": rights.flag,
            "dtype": rights.optional(lambda value: value in (torch.float16, torch.float32, torch.float64)),
            "chunk_size": rights.optional(rights.whole()),
            "compress": rights.flag,
            "engine": rights.never,
        },
        takes_code=CODE,
        also=(OSError,),
    )
    CALLS["data.read"] = Call(data.read, lambda: {"path": _written()}, {"path": rights.never}, also=(OSError,))
