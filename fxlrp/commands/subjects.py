"""Find the subject with a name, compile its explainer, and check what it returns."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

import fxlrp
from fxlrp.commands.subject import Subject
from fxlrp.commands.weights import DEFAULT, RANDOM
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.rules.preset import Preset

LIBRARIES = ("torchvision", "timm", "hf", "transformers")


def compiled(subject: Subject, rules: Preset, inputs: Mapping[str, Tensor] | None) -> Explainer:
    """Return the explainer of a subject.

    Args:
        subject: The subject.
        rules: The rules.
        inputs: Example inputs, as :meth:`Subject.text` returns them; None for none.

    Raises:
        FxlrpError: The model cannot be explained.
    """
    options = dict(subject.options)
    options["constants"] = [name for name in options.get("constants", ()) if name in (inputs or ())]
    example = inputs[""] if inputs is not None and list(inputs) == [""] else inputs
    return fxlrp.compile(subject.model, rules, example_inputs=example, **options)


def check_output(subject: Subject, output: Tensor, target: int | None) -> None:
    """Check the output of a model.

    Args:
        subject: The model.
        output: Its output.
        target: The class; None for the largest output.

    Raises:
        InputError: It is not a classifier, it has fewer classes, or as many classes as there are no names for.
    """
    if output.dim() != 2:
        raise InputError(
            f"the output of the model has the shape {tuple(output.shape)}: fxlrp explain is for classifiers, "
            "(batch, classes)"
        )
    if target is not None and not -output.shape[1] <= target < output.shape[1]:
        raise InputError(f"--target {target}: the model has the classes 0 to {output.shape[1] - 1}")
    if subject.classes and len(subject.classes) != output.shape[1]:
        raise InputError(
            f"the model has {output.shape[1]} classes, and there are {len(subject.classes)} names of classes: give one "
            "for each"
        )


def load(name: str, weights: str, classes: Path | None) -> Subject:
    """Return the subject with a name such as ``timm:resnet18`` or ``module:function``.

    Args:
        name: The name.
        weights: "DEFAULT" for the weights of the library, "RANDOM" for an untrained model, or a file.
        classes: A file with the name of a class in each line; None for the names that the weights have.

    Raises:
        InputError: There is no such model, or its weights cannot be read or do not fit.
        ImportError: The library is not installed.
    """
    names = _read_classes(classes) if classes else ()
    library, colon, model = name.partition(":")
    if not (library and colon and model):
        raise InputError(
            f"the model {name!r} is not torchvision:NAME, timm:NAME, hf:NAME or module:function (a function that "
            "returns a model)"
        )
    path = None if weights in (DEFAULT, RANDOM) else Path(weights)
    if path is not None and not path.is_file():
        raise InputError(f"--weights {weights}: there is no such file; other choices are {DEFAULT} and {RANDOM}")
    # Its errors say the same as its warnings about every attempt.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    subject = _loader(library)(name, weights, path, len(names) or None)
    subject.model.eval()
    said = {DEFAULT: "its default weights", RANDOM: "random weights"}.get(weights, f"weights of {path}")
    return replace(subject, classes=names or subject.classes, weights=subject.weights or said)


def classifier_of(options: argparse.Namespace) -> Subject:
    """Return the subject that the options of :func:`fxlrp.commands.arguments.add_classifier` choose.

    Raises:
        InputError: As for :func:`load`.
        ImportError: The library is not installed.
    """
    subject = load(options.model, options.weights, options.classes)
    if options.output is None:
        return subject
    output = int(options.output) if options.output.isdecimal() else options.output
    return replace(subject, options={**subject.options, "output": output})


def _loader(library: str) -> Callable[[str, str, Path | None, int | None], Subject]:
    # Imported here: each needs a library of its own.
    if library in ("hf", "transformers"):
        from fxlrp.commands import hugging_face

        return hugging_face.load
    if library in LIBRARIES:
        from fxlrp.commands import vision_libraries

        return vision_libraries.load
    from fxlrp.commands import own_functions

    return own_functions.load


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        names = lines_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes {path}: {error}") from error
    if not names:
        raise InputError(f"--classes {path} has no lines: write the name of a class in each")
    return names


def lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a file in UTF-8 that are not empty, without the spaces around them.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: It is not a text in UTF-8.
    """
    text = path.read_text(encoding="utf-8-sig")  # editors of Windows start a file with a mark
    return tuple(line.strip() for line in text.splitlines() if line.strip())
