"""Calls of an explainer, and its targets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fxlrp
from fuzz import rights, subjects
from fuzz.judge import CONTAINER, Call
from fuzz.rights import Right
from fuzz.subjects import of_features, of_pixels, of_tokens

Subject = tuple[Callable[[], fxlrp.Explainer], Callable[[], Tensor], str, dict[str, Right]]


def _condition(right: Right, name: str) -> Right:
    """Conditions of the pool: mappings with one channel."""
    one: Right = lambda value: isinstance(value, dict) and list(value) == [name] and right(value[name])  # noqa: E731
    many: Right = lambda value: isinstance(value, list) and len(value) > 0 and all(map(one, value))  # noqa: E731
    return rights.any_of(one, many)


# A module of three tokens has no target with one index.
_OF_TOKENS: Right = rights.optional(
    rights.one_of(..., (...,)),
    lambda value: (
        isinstance(value, tuple) and len(value) == 2 and rights.whole(-3, 2)(value[0]) and rights.whole(-7, 6)(value[1])
    ),
)
SUBJECTS: dict[str, Subject] = {
    "features": (
        of_features,
        subjects.x,
        "0",
        {
            "x": rights.features,
            "target": rights.optional(rights.class_of(3)),
            "at": rights.optional(rights.names("", "0", "*")),
            "only": rights.optional(_condition(rights.channels(4), "0")),
        },
    ),
    "tokens": (
        of_tokens,
        subjects.ids,
        "head",
        {
            "x": rights.ids,
            "target": _OF_TOKENS,
            "at": rights.optional(rights.names("", "*")),
            "only": rights.nothing,
        },
    ),
    "pixels": (
        of_pixels,
        subjects.image,
        "conv",
        {
            "x": rights.image,
            "target": rights.optional(rights.class_of(3)),
            "at": rights.optional(rights.names("", "*")),
            "only": rights.nothing,
        },
    ),
}
SEEDS: Right = rights.optional(rights.function)


def _method(made: Callable[[], fxlrp.Explainer], method: str, x: Any, **options: Any) -> None:
    explain = made()
    if method == "graph":
        explain.graph(options.pop("path", None), x, **options)
    else:
        getattr(explain, method)(x, **options)


def _given(value: Callable[[], Tensor], extra: dict[str, Any]) -> dict[str, Any]:
    return {"x": value(), **extra}


def _of_methods() -> dict[str, Call]:
    found = {}
    for name, (made, value, place, right) in SUBJECTS.items():
        asked = right | {"seed": SEEDS, "bypass": rights.flag}
        one = asked | {"only": lambda each, only=right["only"]: only(each) and not isinstance(each, list)}
        # Where relevance is read, a condition on a value that comes later in the walk is not reached.
        read = one | {"at": lambda each, at=right["at"]: each is not None and at(each)}
        methods: dict[str, dict[str, Right]] = {
            "forward": asked | {"coefficients": rights.flag, "return_output": rights.flag},
            "balance": one,
            "debug": one | {"keep": rights.flag},
            "graph": one | {"path": rights.nothing},
            "read": read,
        }
        if name == "features":
            methods["check_stages"] = {"x": right["x"], "target": right["target"], "seed": SEEDS}
        for method, rights_of in methods.items():
            extra = {"at": place} if method == "read" else {}
            found[f"{method}, {name}"] = Call(
                functools.partial(_method, made, method),
                functools.partial(_given, value, extra),
                rights_of,
                takes_code=("seed", "only"),
                also=(OSError,) if method == "graph" else (),
            )
    return found


def _of_targets() -> dict[str, Call]:
    targets, index = fxlrp.targets, rights.class_of(3)
    dims = rights.optional(rights.one_of(1, -1))

    def asked(function: Callable[..., Any], **arguments: Any) -> None:
        of_features()(subjects.x(), target=function(**arguments))

    def spanned(**arguments: Any) -> None:
        of_tokens()(subjects.ids(), target=targets.span(**arguments))

    def seeded(seeds: Any) -> None:
        of_features()(subjects.x(), seed=targets.each(seeds))

    def of_pixels_(**arguments: Any) -> None:
        explain = fxlrp.compile(torch.nn.Conv2d(3, 3, 1).eval())
        explain(torch.ones(2, 3, 2, 4), target=targets.region(**arguments))

    def mask(value: Any) -> bool:
        fits = isinstance(value, Tensor) and value.dtype == torch.bool and not value.is_meta
        return fits and tuple(value.shape) in ((4,), (2, 4), (1, 4), (2, 1), (2, 2, 4))

    def several(value: Any) -> bool:
        given = list(value) if not isinstance(value, str | dict | Tensor) else value
        return len(given) > 0 and all(map(index, given))

    return {
        "each": Call(functools.partial(asked, targets.each), lambda: {"targets": [0]}, {"targets": several}),
        "each, seeds": Call(seeded, lambda: {"seeds": [torch.ones(2, 3)]}, {"seeds": rights.never}),
        "each, one": Call(
            lambda one: of_features()(subjects.x(), target=targets.each([one, 0])), lambda: {"one": 0}, {"one": index}
        ),
        "contrast": Call(
            functools.partial(asked, targets.contrast),
            lambda: {"of": 0},
            {"of": index, "against": rights.optional(index), "dim": dims},
        ),
        "clrp": Call(functools.partial(asked, targets.clrp), lambda: {"of": 0}, {"of": index, "dim": dims}),
        "span": Call(
            spanned, lambda: {"start": 1, "stop": 3}, {"start": rights.whole(1, 2), "stop": rights.whole(2, 3)}
        ),
        "region": Call(
            of_pixels_, lambda: {"of": 0, "mask": torch.ones(2, 4, dtype=torch.bool)}, {"of": index, "mask": mask}
        ),
        "condition": Call(
            lambda kept: of_features()(subjects.x(), only={"0": kept}),
            lambda: {"kept": 0},
            {"kept": rights.any_of(rights.channels(4), lambda value: value.dtype == torch.bool)},
            takes_code=("kept",),
        ),
        "conditions": Call(
            lambda kept: of_features()(subjects.x(), only=[{"0": kept}, {"0": 1}]),
            lambda: {"kept": 0},
            {"kept": rights.any_of(rights.channels(4), lambda value: value.dtype == torch.bool)},
            takes_code=("kept",),
        ),
    }


def _of_results() -> dict[str, Call]:
    tolerance = rights.number(-rights.LARGEST)
    index = rights.any_of(rights.whole(-100, 100), lambda value: isinstance(value, bool | slice))
    return {
        "table": Call(
            lambda **view: of_features().table(**view),
            dict,
            {
                "only": rights.optional(rights.names("", "0", "*")),
                "relevance": rights.optional(rights.flag),
                "hide": rights.empty,
                "width": rights.optional(rights.whole(10)),
                "fold": rights.optional(rights.flag),
                "constants": rights.flag,
            },
        ),
        "save": Call(
            lambda path: of_features().save(path),
            lambda: {"path": subjects.folder() / "saved.json"},
            {"path": lambda value: len(str(value)) > 0 and not isinstance(value, bytes)},
            also=(OSError,),
        ),
        "on": Call(lambda model: of_features().on(model), lambda: {"model": subjects.dense()}, {"model": rights.never}),
        "stages": Call(
            lambda which: of_features().stages[which], lambda: {"which": 0}, {"which": index}, also=CONTAINER
        ),
        "stages.diff": Call(
            lambda which: of_features().stages.diff(which), lambda: {"which": 0}, {"which": index}, also=CONTAINER
        ),
        "read, a place": Call(
            lambda which: of_features().read(subjects.x(), at="0")[which],
            lambda: {"which": "0"},
            {"which": rights.one_of("0")},
            also=CONTAINER,
        ),
        "debug, a node": Call(
            lambda which: of_features().debug(subjects.x())[which],
            lambda: {"which": "_0"},
            {"which": rights.never},
            also=CONTAINER,
        ),
        "balance.leaks": Call(
            lambda tolerance: of_features().balance(subjects.x()).leaks(tolerance),
            lambda: {"tolerance": 0},
            {"tolerance": tolerance},
        ),
        "check_stages.wrong": Call(
            lambda tolerance: of_features().check_stages(subjects.x()).wrong(tolerance),
            lambda: {"tolerance": 0},
            {"tolerance": tolerance},
        ),
        "graph.save": Call(
            lambda path: of_features().graph().save(path),
            lambda: {"path": subjects.folder() / "graph.html"},
            {"path": rights.never},
            also=(OSError,),
        ),
        "export": Call(
            lambda **options: of_features().export(**{"path": subjects.folder() / "file.pt2", **options}),
            lambda: {"example_inputs": subjects.x()},
            {
                "path": rights.never,
                "example_inputs": lambda value: rights.features(value) or isinstance(value, list | tuple | dict),
                "format": rights.never,
                "target": rights.class_of(3),
                "at": SUBJECTS["features"][3]["at"],
                "only": SUBJECTS["features"][3]["only"],
                "bypass": rights.flag,
                "outputs": rights.never,
                "dynamic_shapes": rights.optional(lambda value: isinstance(value, dict)),
            },
            takes_code=("only",),
            also=(OSError,),
        ),
        "metadata": Call(
            fxlrp.deploy.metadata,
            lambda: {"path": subjects.folder() / "missing.pt2"},
            {"path": rights.never},
            also=(OSError,),
        ),
    }


CALLS = _of_methods() | _of_targets() | _of_results()
