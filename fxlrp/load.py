"""An explainer made again from its recipe."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fxlrp.compiler import compile
from fxlrp.errors import RecipeError
from fxlrp.explainer import Explainer
from fxlrp.extensions import Extension
from fxlrp.passes import Pass
from fxlrp.recipe import fingerprint
from fxlrp.recipe.recipe import FORMAT, KEYS, options, versions


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    extensions: Sequence[Extension] = (),
    passes: Sequence[Pass] = (),
    weights: bool = True,
) -> Explainer:
    """Make the explainer of ``model`` again that :meth:`fxlrp.Explainer.save` wrote the recipe of.

    The file holds no code and no weights: the rules, the options, and a fingerprint of the model.

    Args:
        path: Of the recipe.
        model: The model, in eval mode.
        extensions: The rules of one's own that the explainer was made with.
        passes: The passes of one's own that the explainer was made with.
        weights: Whether the model's weights must be the same too, not only its structure.

    Raises:
        RecipeError: The model has changed since, the extensions are others, or the file is no recipe of this version.

    Example:
        >>> import tempfile, torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> path = tempfile.mkdtemp() + "/explain.json"
        >>> fxlrp.compile(model, rules=[("0", fxlrp.rules.Gamma(0.5))]).save(path)
        >>> fxlrp.load(path, model)
        Explainer(Sequential, 3 relevance steps)
    """
    saved = _read(path)
    fingerprint.check(model, saved["model"], weights=weights)
    names = [extension.function.__name__ for extension in extensions]
    if sorted(names) != sorted(saved["extensions"]):
        raise RecipeError(f"the recipe needs extensions for {saved['extensions']}, not for {names}")
    # Recipes of version 0.1 know no passes.
    needed = saved.get("passes", [])
    if [each.name for each in passes] != needed:
        raise RecipeError(f"the recipe needs the passes {needed}, not {[each.name for each in passes]}")
    explain = compile(model, extensions=extensions, passes=passes, **options(saved, model))
    if saved["versions"] != versions():
        warnings.warn(
            f"the recipe is of {_named(saved['versions'])}, this is {_named(versions())}: whether forward() has "
            "changed is not checked",
            stacklevel=2,
        )
    elif explain.digest() != saved["graph"]:
        raise RecipeError("the model has changed: its forward() computes something else, or its rules are others")
    return explain


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        saved = json.loads(Path(path).read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecipeError(f"{os.fspath(path)} is no recipe of an explainer: {error}") from error
    if not isinstance(saved, dict) or saved.get("format") != FORMAT or not saved.keys() >= KEYS:
        raise RecipeError(f"{os.fspath(path)} is no recipe that this version of fxlrp can read")
    return saved


def _named(known: dict[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in known.items())
