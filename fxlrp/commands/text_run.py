"""Explain texts, one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fxlrp
from fxlrp import show
from fxlrp.commands.progress import Progress
from fxlrp.commands.subjects import Subject
from fxlrp.commands.summary import Result
from fxlrp.errors import FxlrpError, InputError
from fxlrp.explainer import Explainer
from fxlrp.rules.preset import Preset


def explained(
    subject: Subject, rules: Preset, target: int | None, options: argparse.Namespace, device: torch.device
) -> list[Result]:
    """Explain texts: print their tokens, and write an HTML page for each.

    Args:
        subject: The model.
        rules: The rules.
        target: The class; None for the largest output of each text.
        options: The options of the command.
        device: The device on which the model runs.

    Returns:
        A result for each text, in their order; one without a page has a problem.

    Raises:
        FxlrpError: The model cannot be explained, whatever the text is.
    """
    texts = _texts(options.inputs)
    subject.model.to(device)
    explain: Explainer | None = None
    results: list[Result] = []
    progress = Progress(len(texts), "texts")
    for number, text in enumerate(texts, 1):
        path = options.out / f"text-{number}.html"
        try:
            tokens, inputs = _prepared(subject, text)
        except FxlrpError as error:
            results.append(Result(text, str(error)))
            continue
        inputs = {name: value.to(device) for name, value in inputs.items()}
        if explain is None:
            explain = _compiled(subject, rules, inputs, target)
        try:
            results.append(_of_text(explain, subject, text, tokens, inputs, target, path, not options.no_balance))
        except FxlrpError as error:
            results.append(Result(text, str(error)))
        progress.add(1)
    progress.end()
    return results


def _texts(given: list[str]) -> list[str]:
    found: list[str] = []
    for each in given:
        path = Path(each)
        if path.suffix != ".txt" or not path.is_file():
            found.append(each)
            continue
        try:
            lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not a text file: {error}") from error
        if not lines:
            raise InputError(f"{path} has no lines")
        found.extend(lines)
    return found


def _prepared(subject: Subject, text: str) -> tuple[list[str], dict[str, Tensor]]:
    """The tokens, and the inputs by name; an input without a name is the first one of the model."""
    made = subject.prepare(text)
    tokens, inputs = made if isinstance(made, tuple) and len(made) == 2 else (None, None)
    inputs = {"": inputs} if isinstance(inputs, Tensor) else inputs
    if not isinstance(inputs, Mapping) or not isinstance(tokens, list | tuple):
        raise InputError(
            "the function that prepares texts must return (tokens, inputs): a list of strings, and a tensor of shape "
            "(1, tokens) or a dictionary of tensors"
        )
    return list(tokens), dict(inputs)


def _call(explain: Any, inputs: dict[str, Tensor], **asked: Any) -> Any:
    own = [value for name, value in inputs.items() if not name]
    return explain(*own, **{name: value for name, value in inputs.items() if name}, **asked)


def _compiled(subject: Subject, rules: Preset, inputs: dict[str, Tensor], target: int | None) -> Explainer:
    """The explainer of the model.

    Raises:
        InputError: The model is not a classifier, or has fewer classes.
    """
    options = dict(subject.options)
    options["constants"] = [name for name in options.get("constants", ()) if name in inputs]
    example: Any = inputs[""] if list(inputs) == [""] else inputs
    explain = fxlrp.compile(subject.model, rules, example_inputs=example, **options)
    _, output = _call(explain, inputs, return_output=True)
    if output.dim() != 2:
        raise InputError(
            f"the output of the model has the shape {tuple(output.shape)}: fxlrp explain is for classifiers, "
            "(batch, classes)"
        )
    if target is not None and not -output.shape[1] <= target < output.shape[1]:
        raise InputError(f"--target {target}: the model has the classes 0 to {output.shape[1] - 1}")
    return explain


def _of_text(
    explain: Explainer,
    subject: Subject,
    text: str,
    tokens: list[str],
    inputs: dict[str, Tensor],
    target: int | None,
    path: Path,
    with_balance: bool,
) -> Result:
    relevance, output = _call(explain, inputs, target=target, return_output=True)
    parts = list(relevance.values()) if isinstance(relevance, Mapping) else [relevance]
    chosen = int(output[0].argmax()) if target is None else target % output.shape[1]
    page = show.tokens(tokens, parts[0])
    page.save(path)
    total, score = sum(float(part.double().sum()) for part in parts), float(output[0, chosen])
    name = subject.class_name(chosen)
    print(f"\n{text}\n{name}: {score:.4g}, of which {total:.4g} at the input\n\n{page}")
    balance = _call(explain.balance, inputs, target=chosen) if with_balance else None
    return Result(text, None, chosen, name, score, total, balance, path)
