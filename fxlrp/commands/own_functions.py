"""``module:function``: a function of the user that returns a model, with how its inputs are made if it likes."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fxlrp.command_line import in_short
from fxlrp.commands.images import DEFAULT_IMAGES, IMAGENET, default_image
from fxlrp.commands.reasons import because
from fxlrp.commands.subject import Subject
from fxlrp.commands.weights import RANDOM, fill
from fxlrp.errors import InputError
from fxlrp.provenance import is_users_file

_RETURNS = "a model, (model, prepare) or (model, prepare, names of the classes)"


def load(name: str, weights: str, path: Path | None, count: int | None) -> Subject:
    """Return what a function makes; modules in the current folder can be imported.

    Args:
        name: ``module:function``.
        weights: As for :func:`fxlrp.commands.subjects.load`.
        path: The file of the weights, if they are in one.
        count: The number of classes; the function decides it, so it is not used.

    Raises:
        InputError: The module or the function does not exist, or it fails, or returns something else.
    """
    if weights == RANDOM:
        raise InputError(f"--weights {RANDOM} is for models of libraries: the function decides the weights of {name}")
    made = _call(name)
    parts = made if isinstance(made, tuple) else (made,)
    model, prepare, classes = (*parts, *(None, None))[:3]
    if not isinstance(model, nn.Module) or len(parts) > 3:
        raise InputError(f"{name} returned {_types(parts)}, not {_RETURNS}")
    if prepare is not None and not callable(prepare):
        raise InputError(f"{name} returned {_types(parts)}, not {_RETURNS}: prepare must be a function")
    if classes is not None and (isinstance(classes, str) or not isinstance(classes, Sequence)):
        raise InputError(f"{name} returned {_types(parts)}, not {_RETURNS}: the names of the classes must be a list")
    if path is not None:
        fill(model, path, name)
    return Subject(
        model,
        default_image if prepare is None else functools.partial(_prepared, name, prepare),
        "image" if prepare is None else None,
        tuple(map(str, classes or ())),
        normalization=IMAGENET if prepare is None else None,
        preparation=DEFAULT_IMAGES if prepare is None else "by the function",
        weights="the weights of the function" if path is None else "",
    )


def _types(parts: tuple[Any, ...]) -> str:
    return ", ".join(type(part).__name__ for part in parts)


def _call(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if Path(module_name).name != module_name or Path(module_name).is_file():
        raise InputError(
            f"--model {name}: give the module by its name, as import does: {Path(module_name).stem}:{attribute}, from "
            "the folder of the file"
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except SystemExit as error:
        raise InputError(f"--model {name}: the module ends the process (status {error.code})") from error
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(
                f"--model {name}: there is no library {module_name!r} (torchvision, timm, hf), and no module of this "
                "name in the current folder or among the installed ones"
            ) from error
        raise InputError(f"--model {name}: {because(error)}, {_where(error)}") from error
    except Exception as error:
        raise InputError(f"--model {name}: {because(error)}, {_where(error)}") from error
    function: Any = module
    for part in attribute.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        public = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        hint = f"; it has {', '.join(public[:8])}" if public else ""
        raise InputError(f"--model {name}: the module {module_name!r} has no function {attribute!r}{hint}")
    try:
        return function()
    except SystemExit as error:
        raise InputError(f"--model {name}: the function ends the process (status {error.code})") from error
    except Exception as error:
        raise InputError(f"--model {name}: {because(error)}, {_where(error)}") from error


def _prepared(name: str, prepare: Callable[[Any], Any], given: Any) -> Any:
    try:
        return prepare(given)
    except Exception as error:
        taken = f", given the text {in_short(given)!r}, which is no file or folder" if isinstance(given, str) else ""
        raise InputError(f"the function that {name} returned: {because(error)}, {_where(error)}{taken}") from error


def _where(error: Exception) -> str:
    """The line of the user's code in which an error was raised, or that called what raised it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"at {error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users_file(frame.filename)]
    own = [frame for frame in frames if not frame.filename.startswith("<")]
    return f"at {own[-1].filename}:{own[-1].lineno}" if own else "in its call"
