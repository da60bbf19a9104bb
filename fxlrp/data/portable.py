"""What reads samples and turns results into arrays, without fxlrp: workers on other machines have only torch and NumPy.

This module is sent to them as it is, so it must not import fxlrp.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import default_collate

Inputs: TypeAlias = "int | str | Sequence[int | str] | Callable[[Any], Any] | None"
Arrays: TypeAlias = "dict[str, Any]"

OUTPUT = "output"
TARGET = "target"


class SampleError(ValueError):
    """A batch does not have the form that is needed; the message says which, and what to do."""


@dataclass(frozen=True)
class Call:
    """The call that explains a batch.

    Args:
        args: The inputs by position.
        kwargs: The inputs by name.
        target: The target.
        size: The number of samples.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any
    size: int


def collated(samples: list[Any]) -> Any:
    """Make a batch of samples, as ``torch.utils.data.DataLoader`` does by default.

    Raises:
        SampleError: Their sizes or types do not fit.
    """
    try:
        return default_collate(samples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SampleError(f"the samples cannot be made a batch: {error}; collate_fn may make one of them") from error


def call_of(batch: Any, inputs: Inputs, target: Any, first: int) -> Call:
    """Return the call for a batch.

    Args:
        batch: The batch, as the dataset's samples are collated.
        inputs: Which part of it is the input.
        target: The target: a tensor or tuples of tensors with an entry for each sample of the dataset, a function of
            the batch, or what is the same for all samples.
        first: The index of the first sample.

    Raises:
        SampleError: The inputs are not in the batch.
    """
    args, kwargs = _arguments(_selected(batch, inputs))
    size = next((len(each) for each in tensors_in((args, kwargs)) if each.dim()), None)
    if size is None:
        raise SampleError(f"there is no tensor with samples among the inputs of a batch of type {type(batch).__name__}")
    return Call(args, kwargs, _target_of(target, batch, first, size), size)


def _selected(batch: Any, inputs: Inputs) -> Any:
    if callable(inputs):
        return inputs(batch)
    if inputs is None:
        if isinstance(batch, list | tuple) and len(batch) > 1:
            raise SampleError(
                f"the samples have {len(batch)} parts: say which are inputs of the model, such as inputs=0, and which "
                "is the target, such as target=lambda batch: batch[1]"
            )
        return batch
    if isinstance(inputs, int | str):
        return _entry(batch, inputs)
    if isinstance(batch, Mapping):
        return {name: _entry(batch, name) for name in inputs}
    return [_entry(batch, each) for each in inputs]


def _entry(batch: Any, key: int | str) -> Any:
    has_keys = isinstance(batch, Mapping) if isinstance(key, str) else isinstance(batch, list | tuple)
    try:
        if has_keys:
            return batch[key]
    except (KeyError, IndexError):
        has_keys = False
    entries = (
        f"a mapping with {', '.join(map(str, batch))}"
        if isinstance(batch, Mapping)
        else f"a {type(batch).__name__} of {len(batch)}"
        if isinstance(batch, list | tuple)
        else f"a {type(batch).__name__}"
    )
    raise SampleError(f"inputs={key!r}: a batch of the dataset is {entries}")


def _arguments(selected: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(selected, Mapping):
        return (), selected
    return (tuple(selected), {}) if isinstance(selected, list | tuple) else ((selected,), {})


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a value, in order."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def _target_of(target: Any, batch: Any, first: int, size: int) -> Any:
    if isinstance(target, Tensor):
        return target[first : first + size]
    if isinstance(target, tuple):
        return tuple(_target_of(each, batch, first, size) if isinstance(each, Tensor) else each for each in target)
    return target(batch) if callable(target) else target


def moved(value: Any, device: torch.device) -> Any:
    """Return a value with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: moved(each, device) for key, each in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(moved(each, device) for each in value)
    return value


def arrays_of(
    relevance: Mapping[str, Tensor], output: Tensor, target: Any, dtype: torch.dtype | None, stacked: bool
) -> Arrays:
    """Return what is stored of a batch, as arrays with the samples in front.

    Args:
        relevance: The relevance by the name of the array.
        output: The output.
        target: The target of the call.
        dtype: The type of the stored relevance; None for its own.
        stacked: Whether the results for several questions are stacked in front.
    """
    rows = {name: each.movedim(0, 1) if stacked else each for name, each in relevance.items()}
    arrays = {name: _array(each, dtype) for name, each in rows.items()}
    arrays[OUTPUT] = _array(output, None)
    explained = _explained_classes(output, target)
    if explained is not None:
        arrays[TARGET] = explained.cpu().numpy()
    return arrays


def _array(value: Tensor, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        dtype = torch.float32 if value.dtype == torch.bfloat16 else value.dtype
    return value.detach().to("cpu", dtype).contiguous().numpy()


def _explained_classes(output: Tensor, target: Any) -> Tensor | None:
    """The explained class of each sample; None where it is not an index of the second dimension."""
    if output.dim() != 2:
        return None
    if target is None:
        return output.argmax(1)
    is_index = isinstance(target, int | Tensor | list) or hasattr(target, "__array__")
    if isinstance(target, bool) or not is_index:
        return None
    given = torch.as_tensor(target, device=output.device).to(torch.int64)
    if given.dim() > 1:
        return None
    return given.expand(len(output)) % output.shape[1]


@dataclass(frozen=True)
class Worker:
    """What an actor needs to explain parts of a dataset.

    Args:
        program: The file of the exported program.
        order: The names of its inputs, in order.
        names: The names of the arrays of relevance, in the order of its results.
        stacked: Whether the results for several questions are stacked in front.
        dtype: The type of the stored relevance; None for its own.
        class_count: The number of classes, if the last input of the program is the target of each sample.
        threads: The number of threads.
        device: The device on which the program runs.
        dataset: The dataset.
        collate: Makes a batch of samples.
        inputs: Which part of a batch is the input.
        target: The target, as for :func:`call_of`.
        batches: The first sample of each batch of a part, and the one after the last.
    """

    program: bytes = field(repr=False)
    order: tuple[str, ...]
    names: tuple[str, ...]
    stacked: bool
    dtype: torch.dtype | None
    class_count: int | None
    threads: int
    device: str
    dataset: Any
    collate: Callable[[list[Any]], Any]
    inputs: Inputs
    target: Any
    batches: Mapping[int, Sequence[tuple[int, int]]]

    def loaded(self) -> Callable[..., Any]:
        """Load the program onto the device."""
        program = torch.export.load(io.BytesIO(self.program))
        weights = [*program.state_dict.values(), *program.constants.values()]
        if any(isinstance(each, Tensor) and each.device.type != self.device for each in weights):
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, self.device)
        found: Callable[..., Any] = program.module()
        return found

    def arrays(self, run: Callable[..., Any], part: int) -> Arrays:
        """Explain a part by the loaded program."""
        found = []
        for start, stop in self.batches[part]:
            batch = self.collate([self.dataset[index] for index in range(start, stop)])
            call = call_of(batch, self.inputs, self.target, start)
            given = dict(zip(self.order, call.args, strict=False)) if call.args else call.kwargs
            values = [given[name] for name in self.order]
            if self.class_count is not None:
                index = torch.as_tensor(call.target).to(torch.int64).expand(call.size)
                values.append(torch.where(index < 0, index + self.class_count, index))
            with torch.no_grad():
                *relevance, output = run(*moved(values, torch.device(self.device)))
            named = dict(zip(self.names, relevance, strict=True))
            found.append(arrays_of(named, output, call.target, self.dtype, self.stacked))
        return joined(found)


class Actor:
    """The actor of Ray that explains parts."""

    def __init__(self, worker: Any) -> None:
        """Load the program.

        Args:
            worker: A reference to the :class:`Worker`.
        """
        import ray

        self._worker: Worker = ray.get(worker)
        torch.set_num_threads(self._worker.threads)
        self._run = self._worker.loaded()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Explain the part whose number is in a batch of one row."""
        part = int(batch["part"][0])
        return {"part": [part], "arrays": [packed(self._worker.arrays(self._run, part))]}


def joined(batches: Sequence[Arrays]) -> Arrays:
    """The arrays of a part, from those of its batches."""
    import numpy as np

    return {name: np.concatenate([each[name] for each in batches]) for name in batches[0]}


def packed(arrays: Arrays) -> bytes:
    """Return arrays as bytes."""
    import numpy as np

    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpacked(content: bytes) -> Arrays:
    """Return the arrays that :func:`packed` turned into bytes."""
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
