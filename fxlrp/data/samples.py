"""The samples of a dataset in batches, in their order, from the parts that are not written yet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fxlrp.arguments import as_tensor, shown
from fxlrp.data.images import Images
from fxlrp.data.plan import Plan
from fxlrp.data.portable import Call, Inputs, SampleError, call_of, collated
from fxlrp.errors import InputError


@contextmanager
def _input_errors() -> Iterator[None]:
    try:
        yield
    except SampleError as error:
        raise InputError(str(error)) from error


@dataclass(frozen=True)
class Samples:
    """A dataset, and how its samples become calls.

    Args:
        dataset: The dataset.
        collate: Makes a batch of samples.
        inputs: Which part of a batch is the input.
        target: The target, with tensors where it has an entry for each sample.
        workers: The number of processes that read samples.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    inputs: Inputs
    target: Any
    workers: int

    @property
    def count(self) -> int | None:
        """The number of samples; None where the dataset does not say it."""
        return _length(self.dataset)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the samples, such as files; None if the dataset has none."""
        return self.dataset.names if isinstance(self.dataset, Images) else None

    @property
    def is_iterable(self) -> bool:
        """Whether samples are read one after the other, not by index."""
        return isinstance(self.dataset, IterableDataset)

    def first(self, size: int) -> Call:
        """The call for the first samples.

        Raises:
            InputError: There are none, or the inputs are not in them.
        """
        if not self.is_iterable:
            return self.read(range(min(size, len(self.dataset))))
        return self._call(list(itertools.islice(iter(self.dataset), size)), 0)

    def read(self, rows: range) -> Call:
        """The call for samples of a dataset with an index.

        Raises:
            InputError: There are none, or the inputs are not in them.
        """
        return self._call([self.dataset[index] for index in rows], rows.start)

    def _call(self, samples: list[Any], first: int) -> Call:
        if not samples:
            raise InputError(f"the dataset {type(self.dataset).__name__} has no samples")
        with _input_errors():
            return call_of(self.collate(samples), self.inputs, self.target, first)

    def batches(self, plan: Plan, done: Sequence[bool]) -> Iterator[Batch]:
        """The batches in order; of an iterable dataset also those of parts that are done, without their calls.

        Raises:
            InputError: The inputs are not in a batch, or the dataset has another number of samples than it says.
        """
        with _input_errors():
            yield from self._batches(plan, done)

    def _batches(self, plan: Plan, done: Sequence[bool]) -> Iterator[Batch]:
        options: dict[str, Any] = {"collate_fn": self.collate, "num_workers": self.workers}
        if not self.is_iterable:
            wanted = _Wanted(plan, done)
            loader = DataLoader(self.dataset, batch_sampler=wanted, **options)
            for rows, batch in zip(wanted.rows(), loader, strict=True):
                yield Batch(rows, call_of(batch, self.inputs, self.target, rows.start))
            return
        # Samples that are done are read again, because nothing else says where the others begin.
        start = 0
        for batch in DataLoader(self.dataset, batch_size=plan.batch_size, **options):
            call = call_of(batch, self.inputs, self.target, start)
            rows = range(start, start + call.size)
            part, start = start // plan.per_part, rows.stop
            if plan.samples is not None and start > plan.samples:
                break
            yield Batch(rows, None if part < len(done) and done[part] else call)
        if plan.samples is not None and start != plan.samples:
            more = "more" if start > plan.samples else f"only {start}"
            raise InputError(f"the dataset says that it has {plan.samples} samples, but gives {more}")


@dataclass(frozen=True)
class Batch:
    """A batch of samples.

    Args:
        rows: The indices of the samples.
        call: The call that explains them; None if they are explained already.
    """

    rows: range
    call: Call | None


@dataclass(frozen=True)
class _Wanted:
    """The indices of each batch of the parts that are not done."""

    plan: Plan
    done: Sequence[bool]

    def rows(self) -> Iterator[range]:
        for part, is_done in enumerate(self.done):
            if not is_done:
                yield from self.plan.batches(part)

    def __iter__(self) -> Iterator[list[int]]:
        return map(list, self.rows())

    def __len__(self) -> int:
        return sum(1 for _ in self.rows())


def samples_of(dataset: Any, inputs: Any, target: Any, collate: Any, workers: int) -> Samples:
    """Check the arguments that describe the samples.

    Raises:
        InputError: One is of a wrong type or value.
    """
    iterable = isinstance(dataset, IterableDataset)
    by_index = hasattr(type(dataset), "__getitem__") and _length(dataset) is not None
    if not iterable and (isinstance(dataset, str | bytes | dict) or not by_index):
        hint = ": fxlrp.data.Images(folder, prepare) is one of images" if isinstance(dataset, str) else ""
        raise InputError(f"dataset must be a dataset of torch, with a length and an order, not {shown(dataset)}{hint}")
    if iterable and workers > 1:
        raise InputError(
            f"num_workers={workers}: with several workers, the order of an iterable dataset is that of its own "
            "division among them: give at most one"
        )
    if collate is not None and not callable(collate):
        raise InputError(f"collate_fn must be a function of a list of samples, not {shown(collate)}")
    many = inputs if isinstance(inputs, list | tuple) else [inputs]
    if not callable(inputs) and inputs is not None and not (many and all(map(_is_key, many))):
        raise InputError(
            f"inputs must be an index, a key, a list of these, or a function of the batch, not {shown(inputs)}"
        )
    count = _length(dataset)
    if count == 0:
        raise InputError(f"the dataset {type(dataset).__name__} has no samples")
    return Samples(dataset, collate or collated, inputs, _target_of(target, count), workers)


def _length(dataset: Any) -> int | None:
    """The number of samples; None where the dataset does not say it, as tensors without dimensions."""
    try:
        return len(dataset)
    except (TypeError, RuntimeError):
        return None


def _is_key(key: Any) -> bool:
    return isinstance(key, int | str) and not isinstance(key, bool)


def _target_of(target: Any, count: int | None) -> Any:
    """The target with tensors where it has an entry for each sample."""
    if isinstance(target, tuple):
        return tuple(_target_of(each, count) for each in target)
    if not isinstance(target, Tensor | list) and not hasattr(target, "__array__"):
        return target
    found = as_tensor("target", target)
    is_whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if found.dim() == 0 and is_whole:
        return found.item()
    if found.dim() and (count is None or len(found) != count):
        has = "does not say how many samples it has" if count is None else f"has {count} samples"
        raise InputError(f"target has entries for {len(found)} samples, but the dataset {has}")
    if not is_whole:
        raise InputError(f"target must have an integer for each sample, not {shown(target)}")
    index = found.to(torch.int64)
    if not found.dtype.is_signed and bool((index < 0).any()):
        raise InputError(f"target has integers that are larger than any class: {shown(target)}")
    return index
