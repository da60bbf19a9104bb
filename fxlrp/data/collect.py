"""Collect the reference samples of concepts over a dataset, resumable."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fxlrp.arguments import flag, path_of, shown, whole
from fxlrp.concepts.references import References
from fxlrp.data.engine import Engine, engine_of
from fxlrp.data.local import Question, settings_of
from fxlrp.data.plan import Plan
from fxlrp.data.portable import Inputs
from fxlrp.data.progress import progress_bar
from fxlrp.data.samples import samples_of
from fxlrp.data.settings import FIRST, check_same, digest_of_call
from fxlrp.data.store import sole_writer
from fxlrp.errors import InputError

_STATE, _SETTINGS = "references.pt", "settings.json"


def collect(
    references: References,
    dataset: Any,
    out: str | os.PathLike[str],
    *,
    inputs: Inputs = None,
    target: Any = None,
    batch_size: int = 16,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    save_every: int = 100,
    progress: bool = True,
    engine: Engine = "local",
) -> References:
    """Add every sample of a dataset to reference samples and statistics of concepts, once.

    The state is saved now and then. The same call continues from there after a kill, with the result of an unbroken
    run, bit for bit.

    Args:
        references: The references, without samples.
        dataset: As for :func:`fxlrp.data.explain`.
        out: A folder for the state, whose ``references.pt`` is read by :meth:`fxlrp.concepts.References.load`.
        inputs: As for :func:`fxlrp.data.explain`.
        target: As for :func:`fxlrp.data.explain`.
        batch_size: The number of samples that are explained together.
        num_workers: As for :func:`fxlrp.data.explain`.
        collate_fn: As for :func:`fxlrp.data.explain`.
        save_every: After how many batches the state is saved.
        progress: Whether to show a progress bar.
        engine: What explains, as for :func:`fxlrp.data.explain`. The result is the same.

    Returns:
        The references with all samples. Those that were passed are not to be used further.

    Raises:
        InputError: An argument is of a wrong type or value, a sample does not fit, or the state is of a run with other
            settings.

    Example:
        >>> import tempfile, torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...                             torch.nn.Linear(32, 5)).eval()
        >>> references = fxlrp.concepts.References(fxlrp.compile(model), "0", k=4)
        >>> found = fxlrp.data.collect(references, torch.rand(50, 3, 4, 4), tempfile.mkdtemp() + "/concepts",
        ...                            progress=False)
        >>> found.seen
        50
    """
    if not isinstance(references, References) or references.seen:
        raise InputError(f"references must be fxlrp.concepts.References without samples, not {shown(references)}")
    path, size = path_of(out), whole("batch_size", batch_size)
    flag("progress", progress)
    every = whole("save_every", save_every)
    samples = samples_of(dataset, inputs, target, collate_fn, whole("num_workers", num_workers, 0))
    plan, chosen = Plan(size, size, samples.count), engine_of(engine)
    question = Question(references.explain, references.settings["at"], None, False, None)
    with sole_writer(path):
        first = samples.first(size)
        question.relevance(first)
        settings = {
            **settings_of(question, samples, plan),
            FIRST: digest_of_call(first),
            **references.settings,
        }
        found = _begun(path, references, settings)
        done = [True] * plan.parts_of(found.seen)
        done += [False] * (plan.parts_of(samples.count or 0) - len(done))
        with progress_bar(samples.count, found.seen, progress) as advance:
            for rows, scored in chosen.scored(found, samples, plan, done):
                found.include(scored)
                advance(len(rows))
                if (rows.start // size + 1) % every == 0:
                    _save(found, path)
        _save(found, path)
    return found


def _begun(path: Path, references: References, settings: dict[str, Any]) -> References:
    """The references with what a run before has saved.

    Raises:
        InputError: It had other settings, or the folder is something else.
    """
    file = path / _SETTINGS
    if not path.exists():
        started = Path(f"{path}.started")
        if started.exists():
            shutil.rmtree(started)
        started.mkdir()
        (started / _SETTINGS).write_text(json.dumps(settings))
        started.rename(path)
    if not file.is_file():
        raise InputError(f"{str(path)!r} is not a folder that fxlrp.data.collect wrote: it has no {_SETTINGS}")
    try:
        written = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{str(file)!r} is not JSON: {error}") from error
    if not isinstance(written, dict):
        raise InputError(f"{str(file)!r} does not have the settings of a run")
    check_same(json.loads(json.dumps(settings)), written, repr(str(path)))
    state = path / _STATE
    return References.load(state, references.explain) if state.exists() else references


def _save(references: References, path: Path) -> None:
    """Replace the state; a kill leaves the one before or this one."""
    started = path / f"{_STATE}.started"
    references.save(started)
    os.replace(started, path / _STATE)
