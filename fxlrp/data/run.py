"""Explain a dataset and write the relevance: once for each sample, whatever interrupts the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from fxlrp.arguments import flag, path_of, shown, whole
from fxlrp.asked import Only
from fxlrp.concepts.channels import check_explainer
from fxlrp.data.engine import Engine, engine_of
from fxlrp.data.local import First, Part, Question, settings_of
from fxlrp.data.plan import Plan
from fxlrp.data.portable import Inputs
from fxlrp.data.progress import progress_bar
from fxlrp.data.samples import Samples, samples_of
from fxlrp.data.settings import FIRST, check_same
from fxlrp.data.store import EXTRA, Results, Store, sole_writer
from fxlrp.deploy import rules_of
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.extras import require
from fxlrp.question import At

Dtype: TypeAlias = "Literal['float16', 'float32', 'float64'] | torch.dtype | None"

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def explain(
    explain: Explainer,
    dataset: Any,
    out: str | os.PathLike[str],
    *,
    inputs: Inputs = None,
    target: Any = None,
    at: At = None,
    only: Only = None,
    bypass: bool = False,
    batch_size: int = 16,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    dtype: Dtype = None,
    chunk_size: int | None = None,
    compress: bool = False,
    progress: bool = True,
    engine: Engine = "local",
) -> Results:
    """Explain every sample of a dataset, and write the relevance and the output into a Zarr store.

    The run can be interrupted at any time, also by a kill. The same call continues it: samples that are written are
    not explained again, and the store becomes the same as that of an unbroken run, bit for bit. A store that was
    written with other settings, weights or samples is refused.

    Args:
        explain: The explainer.
        dataset: A dataset of torch that gives the same samples at every run: one with a length and an index, such as
            :class:`fxlrp.data.Images`, or an iterable one.
        out: The store, a folder.
        inputs: Which part of a batch is the input of the model, for samples of several parts: an index or a key, a list
            of these for several inputs, or a function that returns what :func:`fxlrp.compile` takes as
            ``example_inputs``. A mapping passes its entries by name.
        target: The output to explain, as for :meth:`fxlrp.Explainer.forward`. A list, an array or a tensor has an entry
            for each sample of the dataset. A function of the batch returns the target of the batch.
        at: As for :meth:`fxlrp.Explainer.forward`.
        only: As for :meth:`fxlrp.Explainer.forward`.
        bypass: As for :meth:`fxlrp.Explainer.forward`.
        batch_size: The number of samples that are explained together.
        num_workers: The number of processes that read samples; 0 reads them in this process.
        collate_fn: Makes a batch of a list of samples, as for ``torch.utils.data.DataLoader``.
        dtype: The type of the stored relevance; None for that of the relevance.
        chunk_size: The number of samples in a chunk of the store, by default ``batch_size``. One must be a multiple of
            the other.
        compress: Whether chunks are compressed, by Zstandard. Relevance in single precision hardly becomes smaller.
        progress: Whether to show a progress bar.
        engine: What explains: "local", this process; "ray", two actors of Ray Data; or :class:`fxlrp.data.Ray` with
            their number and resources. The store is the same.

    Returns:
        The results, as :func:`fxlrp.data.read` returns them.

    Raises:
        InputError: An argument is of a wrong type or value, a sample does not fit, relevance is not finite, the store
            was written with other settings, or another process writes into it.
        OSError: The store cannot be written.
        ImportError: A package of the extra ``data`` is not installed.

    Example:
        >>> import tempfile, torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> dataset = torch.utils.data.TensorDataset(torch.ones(20, 4), torch.arange(20) % 3)
        >>> results = fxlrp.data.explain(fxlrp.compile(model), dataset, tempfile.mkdtemp() + "/relevance.zarr",
        ...                              inputs=0, target=lambda batch: batch[1], progress=False)
        >>> results.relevance.shape
        (20, 4)
        >>> results.target[:4].tolist()
        [0, 1, 2, 0]
    """
    check_explainer(explain)
    path = path_of(out)
    size = whole("batch_size", batch_size)
    samples = samples_of(dataset, inputs, target, collate_fn, whole("num_workers", num_workers, 0))
    plan = Plan(size, size if chunk_size is None else whole("chunk_size", chunk_size), samples.count)
    question = Question(explain, at, only, flag("bypass", bypass), _dtype(dtype))
    flag("compress", compress)
    flag("progress", progress)
    chosen = engine_of(engine)
    require("zarr", EXTRA)
    if progress:
        require("tqdm", EXTRA)
    with sole_writer(path):
        first = First.of(question, samples, plan)
        store = _opened(path, question, samples, plan, first, compress=compress)
        if not store.is_complete:
            parts = chosen.explained(question, samples, plan, store.done(), first)
            _write(store, parts, plan, progress=progress)
    return store.results()


def _dtype(given: Any) -> torch.dtype | None:
    found = next((each for each in _DTYPES.values() if given is each), None)
    if given is None or found is not None:
        return found
    if not isinstance(given, str) or given not in _DTYPES:
        raise InputError(f"dtype must be one of {', '.join(_DTYPES)}, or None, not {shown(given)}")
    return _DTYPES[given]


def _opened(path: Path, question: Question, samples: Samples, plan: Plan, first: First, *, compress: bool) -> Store:
    """The store, a new one or one to resume."""
    settings = {
        **settings_of(question, samples, plan),
        FIRST: first.digest,
        "arrays": {name: f"{array.dtype} {list(array.shape[1:])}" for name, array in first.arrays.items()},
        "compress": compress,
    }
    if path.exists():
        store = Store.open(path, "r+")
        check_same(settings, store.attributes["settings"], repr(str(path)))
        store.clear_remains()
        return store
    made = question.explain._explanation.require("the annotated graph")
    attributes = {
        "settings": settings,
        "rules": rules_of(made.nodes, made.vocabulary),
        "zarr": require("zarr", EXTRA).__version__,
    }
    return Store.create(path, plan, first.arrays, attributes=attributes, names=samples.names, compress=compress)


def _write(store: Store, parts: Iterator[Part], plan: Plan, *, progress: bool) -> None:
    """Write the parts while the next ones are explained, and note the end."""
    done = store.done()
    written = int(sum(len(plan.rows(part)) for part, is_done in enumerate(done) if is_done))
    samples = plan.samples or 0
    with progress_bar(plan.samples, written, progress) as advance, ThreadPoolExecutor(1) as writer:
        pending: Future[None] | None = None
        for part in parts:
            samples = max(samples, part.rows.stop)
            if part.arrays is None:
                continue
            store.check_fits(part.arrays, part.rows)
            # At most one part waits, so that the memory does not grow if writing is slow.
            if pending is not None:
                pending.result()
            pending = writer.submit(store.write, part.number, part.rows, part.arrays)
            advance(len(part.rows))
        if pending is not None:
            pending.result()
    store.finish(samples)
