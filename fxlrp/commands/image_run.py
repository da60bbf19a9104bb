"""Explain images in batches."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fxlrp import show
from fxlrp.commands.images import files_of, shown
from fxlrp.commands.progress import Progress
from fxlrp.commands.subject import Subject
from fxlrp.commands.subjects import check_output, compiled
from fxlrp.commands.summary import Result
from fxlrp.errors import FxlrpError, InputError
from fxlrp.explainer import Explainer
from fxlrp.pictures import opened
from fxlrp.rules.preset import Preset


@dataclass(frozen=True)
class _Image:
    path: Path
    input: Tensor


def explained(
    subject: Subject, rules: Preset, target: int | None, options: argparse.Namespace, device: torch.device
) -> list[Result]:
    """Explain images, and write a picture for each.

    Args:
        subject: The model.
        rules: The rules.
        target: The class; None for the largest output of each image.
        options: The options of the command.
        device: The device on which the model runs.

    Returns:
        A result for each image, in their order; one without a picture has a problem.

    Raises:
        FxlrpError: The model cannot be explained, whatever the image is.
    """
    paths = files_of(options.inputs, options.out)
    names = picture_names(paths)
    _check_images_are_kept(paths, names.values(), options.out)
    subject.model.to(device)
    explain: Explainer | None = None
    results: dict[Path, Result] = {}
    progress = Progress(len(paths), "images")
    for batch in _batches(subject, paths, options.batch, results):
        progress.set(len(results))
        inputs = torch.stack([each.input for each in batch]).to(device)
        if explain is None:
            explain = compiled(subject, rules, {"": inputs})
            check_output(subject, explain(inputs[:1], return_output=True)[1], target)
        try:
            found = _of_batch(explain, subject, inputs, target, not options.no_balance)
        except (FxlrpError, torch.OutOfMemoryError) as error:
            full = isinstance(error, torch.OutOfMemoryError)
            problem = f"{len(batch)} images do not fit into memory: choose a smaller --batch" if full else str(error)
            results.update({each.path: Result(str(each.path), problem) for each in batch})
            progress.set(len(results))
            continue
        for image, (result, relevance) in zip(batch, found, strict=True):
            results[image.path] = _drawn(subject, image, result, relevance, options.out / names[image.path])
            progress.set(len(results))
    progress.end(len(results))
    return [results[path] for path in paths]


def picture_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The file of the picture of each image: of its own name, and of its folder where two have the same."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        whole = [path.parent.name, path.stem, path.suffix[1:]]
        parts = ["_".join(filter(None, each)) for each in (whole[1:2], whole[:2], whole[1:], whole)]
        numbered = (f"{path.stem}_{number}" for number in itertools.count(len(names)))
        names[path] = next(f"{part}.png" for part in itertools.chain(parts, numbered) if f"{part}.png" not in taken)
        taken.add(names[path])
    return names


def _check_images_are_kept(paths: Iterable[Path], names: Iterable[str], folder: Path) -> None:
    """Check that no picture takes the place of an image.

    Raises:
        InputError: One does.
    """
    written = {(folder / name).resolve() for name in names}
    lost = next((path for path in paths if path.resolve() in written), None)
    if lost is not None:
        raise InputError(f"--out {folder}: a picture would overwrite the image {lost}: give another folder")


def _batches(subject: Subject, paths: Sequence[Path], size: int, results: dict[Path, Result]) -> Iterator[list[_Image]]:
    """Batches of images of the same size; a file that cannot be read is a result with a problem."""
    batch: list[_Image] = []
    for path in paths:
        try:
            image = _Image(path, subject.image(opened(path)))
        except FxlrpError as error:
            results[path] = Result(str(path), str(error))
            continue
        if batch and (len(batch) == size or batch[0].input.shape != image.input.shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _of_batch(
    explain: Explainer, subject: Subject, inputs: Tensor, target: int | None, with_balance: bool
) -> list[tuple[Result, Tensor]]:
    """The results of a batch, without names, and the relevance of each image."""
    relevance, output = explain(inputs, target=target, return_output=True)
    found = []
    for index in range(len(inputs)):
        chosen = int(output[index].argmax()) if target is None else target % output.shape[1]
        balance = explain.balance(inputs[index : index + 1], target=chosen) if with_balance else None
        result = Result(
            "",
            None,
            chosen,
            subject.class_name(chosen),
            float(output[index, chosen]),
            float(relevance[index].double().sum()),
            balance,
        )
        found.append((result, relevance[index].detach().cpu()))
    return found


def _drawn(subject: Subject, image: _Image, result: Result, relevance: Tensor, path: Path) -> Result:
    try:
        heatmap = show.heatmap(relevance)
        under = shown(image.input, subject.normalization)
        heading = f"{result.class_name}: {result.score:.4g}, of which {result.at_input:.4g} at the input"
        cells = [heatmap] if under is None else [under, heatmap, show.overlay(under, relevance)]
        titles = ["relevance"] if under is None else ["image", "relevance", "overlay"]
        show.grid(cells, titles=titles, heading=heading, width=3.0).save(path)
    except FxlrpError as error:
        return Result(str(image.path), str(error))
    return replace(result, name=str(image.path), written=path)
