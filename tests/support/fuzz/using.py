"""Calls of what is built on explainers: concepts, similarity, evaluation, pictures, adapters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch

import fxlrp
from fuzz import rights, subjects
from fuzz.judge import Call
from fuzz.rights import Right
from fuzz.subjects import image, of_features, of_pixels, x
from fxlrp import concepts, evaluate, show

PLACE: Right = rights.names("", "*")
TARGET: Right = rights.optional(rights.class_of(3))


def _similar(explain: Any = None, **options: Any) -> None:
    fxlrp.similarity(of_features() if explain is None else explain, **options)


def _inputs(value: Any) -> bool:
    value = value["input"] if isinstance(value, dict) else value
    return rights.features(value) and value.shape == (2, 4)


def _references(**options: Any) -> None:
    given = {"explain": of_pixels(), "at": "conv", **options}
    found = concepts.References(given.pop("explain"), given.pop("at"), **given)
    found.add(image())


def _added(x: Any, **options: Any) -> None:
    found = concepts.References(of_pixels(), "conv")
    found.add(x, **options)
    found.top("conv", 0)
    found.statistics("conv")


@functools.cache
def _known() -> concepts.References:
    found = concepts.References(of_pixels(), "conv")
    found.add(image())
    return found


def _of_samples(value: Any) -> bool:
    given = torch.as_tensor(value)
    return tuple(given.shape) == (2,) and given.dtype in (torch.int64, torch.int32, torch.uint8, torch.uint16)


def _flipped(**options: Any) -> evaluate.Flipping:
    given = {"model": subjects.pixels(), "x": image(), "relevance": image(), "steps": 2}
    return evaluate.pixel_flipping(**{**given, **options})


FLIPPING: Mapping[str, Right] = {
    "model": rights.never,
    "x": rights.never,
    "relevance": rights.any_of(rights.function, lambda value: isinstance(value, dict) and not value),
    "target": TARGET,
    "region": rights.any_of(rights.whole(1), lambda value: len(value) == 2 and all(map(rights.whole(1), value))),
    "dims": rights.optional(lambda value: all(map(rights.whole(1, 3), value)) and len(value) > 0),
    "replace": rights.any_of(rights.number(-rights.LARGEST), rights.function, lambda value: value.numel() == 1),
    "where": rights.nothing,
    "score": rights.function,
    "steps": rights.whole(),
    "baselines": rights.optional(rights.empty),
    "arguments": rights.optional(lambda value: isinstance(value, dict) and not value),
    "batch_size": rights.whole(),
    "seed": rights.whole(-(2**63), 2**64 - 1),
}


def _of_evaluation() -> dict[str, Call]:
    assert FLIPPING.keys() == inspect.signature(evaluate.pixel_flipping).parameters.keys()
    return {
        "pixel_flipping": Call(_flipped, dict, FLIPPING, takes_code=("model", "relevance", "replace", "score")),
        "blur": Call(
            lambda **options: evaluate.blur(**options)(image()),
            lambda: {"sigma": 1.0},
            {
                "sigma": lambda value: rights.number(1e-30)(value),
                "dims": lambda value: isinstance(value, list | tuple) and all(map(rights.whole(-4, 3), value)),
            },
        ),
        "blur, an image": Call(
            lambda value: evaluate.blur(1.0)(value),
            lambda: {"value": image()},
            {"value": lambda value: rights.dense(value) and value.dim() > 1},
        ),
        "merged": Call(evaluate.merged, lambda: {"results": [_flipped()]}, {"results": rights.never}),
    }


def _of_concepts() -> dict[str, Call]:
    by: Right = rights.never
    return {
        "similarity": Call(
            _similar,
            lambda: {"x": x(), "y": x()},
            {
                "explain": rights.nothing,
                "x": _inputs,
                "y": _inputs,
                "cosine": rights.flag,
                "pool": rights.optional(rights.whole(), rights.function, lambda value: callable(value)),
                "chunk": rights.whole(),
            },
            takes_code=("pool",),
        ),
        "References": Call(
            _references,
            dict,
            {"explain": rights.never, "at": PLACE, "k": rights.whole(1, 10**6), "reduce": by, "relative": rights.flag},
        ),
        "References.add": Call(
            _added,
            lambda: {"x": image()},
            {
                "x": rights.image,
                "target": TARGET,
                "seed": rights.optional(rights.function),
                "classes": rights.optional(_of_samples),
                "samples": rights.optional(_of_samples),
            },
            takes_code=("seed",),
        ),
        "References.top": Call(
            lambda **asked: _known().top(**asked),
            lambda: {"place": "conv", "channel": 0},
            {"place": rights.never, "channel": rights.whole(-4, 3), "by": by},
        ),
        "References.statistics": Call(
            lambda **asked: _known().statistics(**asked), lambda: {"place": "conv"}, {"place": rights.never, "by": by}
        ),
        "References.save": Call(
            lambda path: _known().save(path),
            lambda: {"path": subjects.folder() / "references.pt"},
            {"path": lambda value: len(str(value)) > 0 and not isinstance(value, bytes)},
            also=(OSError,),
        ),
        "References.load": Call(
            concepts.References.load,
            lambda: {"path": subjects.folder() / "missing", "explain": of_pixels()},
            {"path": rights.never, "explain": rights.never},
            also=(OSError,),
        ),
        "channel_relevance": Call(
            lambda explain, x, **asked: concepts.channel_relevance(explain, x, **asked),
            lambda: {"explain": of_pixels(), "x": image(), "at": "conv"},
            {"explain": rights.never, "x": rights.image, "at": rights.never, "target": TARGET},
        ),
    }


def _numbers(value: Any) -> bool:
    """Real numbers in some form, all finite."""
    if isinstance(value, str | dict | set) or value is None:
        return False
    given = (
        value
        if isinstance(value, torch.Tensor)
        else torch.tensor(value.tolist() if hasattr(value, "tolist") else value)
    )
    given = given.to_dense() if given.layout != torch.strided else given
    return not given.is_complex() and given.numel() > 0 and bool(given.double().isfinite().all())


def _pixels(value: Any) -> bool:
    return _numbers(value) and torch.as_tensor(value if isinstance(value, torch.Tensor) else value.tolist()).dim() > 1


def _of_pictures() -> dict[str, Call]:
    quantile, scale = rights.number(1e-30, 1.0), rights.optional(lambda value: float(value) > 0)
    drawn: dict[str, Right] = {"quantile": quantile, "scale": scale}
    picture = torch.linspace(0, 1, 48).reshape(3, 4, 4)
    names: Right = rights.optional(lambda value: all(isinstance(each, str) for each in value))
    return {
        "heatmap": Call(show.heatmap, lambda: {"relevance": picture}, drawn | {"relevance": _pixels}),
        "overlay": Call(
            show.overlay,
            lambda: {"image": picture, "relevance": picture},
            drawn
            | {
                "image": _pixels,
                "relevance": _pixels,
                "alpha": rights.number(0.0, 1.0),
                "gray": rights.flag,
            },
        ),
        "grid": Call(
            show.grid,
            lambda: {"cells": [show.heatmap(picture)]},
            drawn
            | {
                "cells": _numbers,
                "titles": names,
                "rows": names,
                "columns": rights.optional(rights.whole(1, 100)),
                "heading": rights.text,
                "width": rights.number(0.1, 100),
            },
        ),
        "signal": Call(
            show.signal,
            lambda: {"values": torch.rand(2, 8), "relevance": torch.rand(2, 8)},
            drawn
            | {
                "values": rights.never,
                "relevance": rights.never,
                "rate": rights.optional(rights.number(1e-30)),
                "channels": names,
                "bins": rights.whole(),
            },
        ),
        "show.table": Call(
            show.table,
            lambda: {"values": torch.rand(2, 4), "relevance": torch.rand(2, 4)},
            drawn | {"values": _numbers, "relevance": _numbers, "columns": names, "rows": names},
        ),
        "show.tokens": Call(
            show.tokens,
            lambda: {"tokens": ["a", "b"], "relevance": torch.rand(2)},
            drawn | {"tokens": names, "relevance": _numbers, "space": rights.optional(rights.text)},
        ),
        "picture.save": Call(
            lambda path: show.heatmap(picture).save(path),
            lambda: {"path": subjects.folder() / "picture.png"},
            {"path": rights.never},
            also=(OSError,),
        ),
        "tokens.save": Call(
            lambda path: show.tokens(["a"], [1.0]).save(path),
            lambda: {"path": subjects.folder() / "tokens.html"},
            {"path": rights.never},
            also=(OSError,),
        ),
    }


CALLS = _of_concepts() | _of_evaluation() | _of_pictures()
