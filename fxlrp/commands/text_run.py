"""Explain texts, one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp import show
from fxlrp.commands.images import existing
from fxlrp.commands.progress import Progress
from fxlrp.commands.subject import Subject
from fxlrp.commands.subjects import check_output, compiled, lines_of
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
            tokens, inputs = subject.text(text)
        except FxlrpError as error:
            results.append(Result(text, str(error)))
            progress.set(number)
            continue
        inputs = {name: value.to(device) for name, value in inputs.items()}
        if explain is None:
            explain = compiled(subject, rules, inputs)
            check_output(subject, _call(explain, inputs, return_output=True)[1], target)
        try:
            results.append(_of_text(explain, subject, text, tokens, inputs, target, path, not options.no_balance))
        except FxlrpError as error:
            results.append(Result(text, str(error)))
        progress.set(number)
    progress.end(len(texts))
    return results


def _texts(given: list[str]) -> list[str]:
    found: list[str] = []
    for each in given:
        path = existing(each)
        if path is None:
            found.append(each)
            continue
        try:
            lines = lines_of(path)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not a text file: {error}") from error
        if not lines:
            raise InputError(f"{path} has no lines")
        found.extend(lines)
    return found


def _call(explain: Any, inputs: dict[str, Tensor], **asked: Any) -> Any:
    own = [value for name, value in inputs.items() if not name]
    return explain(*own, **{name: value for name, value in inputs.items() if name}, **asked)


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
