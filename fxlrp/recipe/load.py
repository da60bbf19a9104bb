"""Rebuild an explainer from its recipe."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fxlrp.arguments import flag, path_of, shown
from fxlrp.compiler import compile
from fxlrp.errors import RecipeError
from fxlrp.explainer import Explainer
from fxlrp.extensions import Extension, extend
from fxlrp.file_format import Malformed, anything, mapping_of, parse
from fxlrp.passes import Pass, pipeline
from fxlrp.recipe import fingerprint
from fxlrp.recipe.form import FORMAT, RECIPE
from fxlrp.recipe.recipe import options, versions
from fxlrp.rules.presets import default
from fxlrp.vocabulary import CANONICAL


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    extensions: Sequence[Extension] = (),
    passes: Sequence[Pass] = (),
    weights: bool = True,
) -> Explainer:
    """Rebuild the explainer of ``model`` from the recipe that :meth:`fxlrp.Explainer.save` wrote.

    The file contains the rules, the options and a fingerprint of the model, but no code and no weights.

    Args:
        path: The path of the recipe.
        model: The model, in eval mode.
        extensions: The user-defined rules with which the explainer was compiled.
        passes: The user-defined passes with which the explainer was compiled.
        weights: Whether the weights of the model must also be the same, not only its structure.

    Returns:
        The explainer.

    Raises:
        RecipeError: The model is not a module or has changed, extensions or passes differ, or the file is not a recipe
            of this version.
        RuleError: An extension was not made by :func:`fxlrp.rule_for`.
        InputError: A pass is not one, ``weights`` is not True or False, or a parameter of the model is not finite.
        CaptureError: The model is in training mode.

    Example:
        >>> import tempfile, torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> path = tempfile.mkdtemp() + "/explain.json"
        >>> fxlrp.compile(model, rules=[("0", fxlrp.rules.Gamma(0.5))]).save(path)
        >>> fxlrp.load(path, model)
        Explainer(Sequential, 3 relevance steps)
    """
    flag("weights", weights)
    # Checks that they are extensions and passes.
    extend(CANONICAL, default(), extensions)
    pipeline.place(passes, pipeline.EXPLANATION)
    if not isinstance(model, nn.Module):
        raise RecipeError(f"load takes the model of the recipe, a module, not {shown(model)}")
    saved = _read(path_of(path, error=RecipeError))
    fingerprint.check(model, saved["model"], weights=weights)
    names = [extension.function.__name__ for extension in extensions]
    if sorted(names) != sorted(saved["extensions"]):
        raise RecipeError(f"the recipe needs extensions for {saved['extensions']}, not for {names}")
    # Recipes of version 0.1 do not contain passes.
    needed = saved.get("passes", [])
    if [each.name for each in passes] != needed:
        raise RecipeError(f"the recipe needs the passes {needed}, not {[each.name for each in passes]}")
    explain = compile(model, extensions=extensions, passes=passes, **options(saved, model))
    if saved["versions"] != versions():
        warnings.warn(
            f"the recipe was saved with {_named(saved['versions'])}, but this is {_named(versions())}: changes of "
            "forward() are not detected",
            stacklevel=2,
        )
    elif explain.digest() != saved["graph"]:
        raise RecipeError("the model has changed: its forward() or the rules of its operations differ")
    return explain


def _read(path: Path) -> dict[str, Any]:
    what = f"{path} is not a recipe of an explainer"
    try:
        saved = parse(path.read_bytes(), mapping_of(anything))
        if saved.get("format") != FORMAT:
            raise RecipeError(f"{path} is not a recipe that this version of fxlrp can read")
        RECIPE(saved, "")
    except Malformed as error:
        raise RecipeError(f"{what}: {error}") from error
    checked: dict[str, Any] = saved
    return checked


def _named(known: dict[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in known.items())
