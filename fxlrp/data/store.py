"""The Zarr store of a dataset's relevance: arrays with the samples in front, and which parts of them are written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fxlrp.arguments import path_of, shown
from fxlrp.data.plan import Plan
from fxlrp.data.portable import OUTPUT, TARGET, Arrays
from fxlrp.errors import InputError
from fxlrp.extras import require

RELEVANCE = "relevance"
NAMES = "name"
EXTRA = "data"

_KEY = "fxlrp"
_FORMAT_VERSION = 1
_DONE = "done"
# The marks of so many parts are in one chunk, which is replaced for each part.
_MARKS = 8192


@dataclass(frozen=True)
class Results:
    """The relevance of a dataset in a store, as :func:`fxlrp.data.explain` wrote it. All arrays are read from the file.

    Args:
        relevance: The relevance, an array of Zarr with the samples in front; a dict of arrays by the name of the input
            or the place if there are several.
        output: The output of the model.
        target: The explained class of each sample; None if the explained outputs are not single classes.
        names: The names of the samples; None if the dataset has none.
        samples: The number of samples; None where it is not known before the end.
        is_complete: Whether all samples are written.
        settings: The settings with which the store was written.
        rules: The operation, the rule and its origin for every relevance step.
    """

    relevance: Any
    output: Any
    target: Any
    names: Any
    samples: int | None
    is_complete: bool
    settings: Mapping[str, Any] = field(repr=False)
    rules: Mapping[str, Mapping[str, str]] = field(repr=False)


def read(path: str | os.PathLike[str]) -> Results:
    """Open a store that :func:`fxlrp.data.explain` wrote, whole or in part.

    Args:
        path: The store.

    Raises:
        InputError: There is no such store.
        OSError: The path cannot be read.
        ImportError: Zarr is not installed.
    """
    return Store.open(path_of(path), "r").results()


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keep other processes from writing into a store. The lock ends with the process, however it ends.

    Raises:
        InputError: Another process writes into it.
    """
    filelock = require("filelock", EXTRA)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(f"{path}.lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise InputError(f"another process writes into {str(path)!r}") from error


class Store:
    """A store that is open."""

    def __init__(self, path: Path, group: Any) -> None:
        """Take an open group of Zarr."""
        self._path, self._group = path, group
        self._arrays = {name: group[name] for name in self.attributes["arrays"]}
        self._done = group[_DONE]

    @property
    def attributes(self) -> dict[str, Any]:
        """What the store says about itself."""
        found: dict[str, Any] = self._group.attrs[_KEY]
        return found

    @staticmethod
    def create(
        path: Path,
        plan: Plan,
        first: Arrays,
        *,
        attributes: Mapping[str, Any],
        names: Sequence[str] | None,
        compress: bool,
    ) -> Store:
        """Create a store without samples. It appears whole, or not at all.

        Args:
            path: The store.
            plan: The parts.
            first: The arrays of a first batch, which have the names, the sizes and the types.
            attributes: What the store says about itself.
            names: The names of the samples.
            compress: Whether chunks are compressed.
        """
        zarr = require("zarr", EXTRA)
        started = Path(f"{path}.started")
        if started.exists():
            shutil.rmtree(started)
        samples = plan.per_part if plan.samples is None else plan.samples
        group = zarr.create_group(started)
        if any(name.startswith(f"{RELEVANCE}/") for name in first):
            group.create_group(RELEVANCE)
        for name, array in first.items():
            chunks = (min(plan.chunk_size, samples), *array.shape[1:])
            group.create_array(
                name,
                shape=(samples, *array.shape[1:]),
                chunks=chunks,
                dtype=array.dtype,
                compressors="auto" if compress else None,
                config={"write_empty_chunks": True},
            )
        parts = plan.parts_of(samples)
        group.create_array(_DONE, shape=(parts,), chunks=(_MARKS,), dtype="bool", compressors=None)
        if names is not None:
            import numpy as np  # which Zarr needs

            listed = group.create_array(NAMES, shape=(samples,), chunks=(min(samples, _MARKS),), dtype=str)
            listed[:] = np.array(names, dtype=np.dtypes.StringDType())
        group.attrs[_KEY] = {
            "format_version": _FORMAT_VERSION,
            **attributes,
            "arrays": list(first),
            "samples": plan.samples,
            "complete": False,
        }
        os.replace(started, path)
        return Store.open(path, "r+")

    @staticmethod
    def open(path: Path, mode: str) -> Store:
        """Open a store.

        Raises:
            InputError: There is none.
        """
        zarr = require("zarr", EXTRA)
        what = f"{str(path)!r} is not a store that fxlrp.data.explain wrote"
        if not (path / "zarr.json").is_file():
            missing = "there is no Zarr group" if path.exists() else "it does not exist"
            raise InputError(f"{what}: {missing}")
        group = zarr.open_group(path, mode=mode)
        found = group.attrs.get(_KEY)
        if not isinstance(found, dict) or found.get("format_version") != _FORMAT_VERSION:
            version = found.get("format_version") if isinstance(found, dict) else None
            raise InputError(f"{what}, or one of another version of fxlrp: the version of its format is {version!r}")
        return Store(path, group)

    def clear_remains(self) -> None:
        """Remove what a writer that was killed left beside whole chunks."""
        for name in self._path.rglob("*.partial"):
            name.unlink()

    @property
    def is_complete(self) -> bool:
        """Whether all samples are written."""
        return bool(self.attributes["complete"])

    def done(self) -> list[bool]:
        """Whether each part is written, as far as the store has room."""
        found: list[bool] = self._done[:].tolist()
        return found

    def check_fits(self, arrays: Arrays, rows: range) -> None:
        """Check that arrays of samples fit into the store.

        Raises:
            InputError: A size or a type differs, or a value is not finite.
        """
        if arrays.keys() != self._arrays.keys():
            raise InputError(f"the results are {', '.join(arrays)}, but those before were {', '.join(self._arrays)}")
        for name, array in arrays.items():
            known = self._arrays[name]
            if array.shape[1:] != known.shape[1:] or array.dtype != known.dtype or len(array) != len(rows):
                raise InputError(
                    f"{name} of the samples {rows.start} to {rows.stop - 1} has the shape {array.shape} and the type "
                    f"{array.dtype}, but a store has one shape for all samples, here {known.shape[1:]} of "
                    f"{known.dtype}: give inputs of one size"
                )
            values = torch.from_numpy(array)
            # The least and the largest value are NaN if one is; this reads the values once, isfinite() several times.
            if values.numel() and not torch.stack(values.aminmax()).isfinite().all():
                finite = values.isfinite().reshape(len(values), -1).all(1)
                bad = rows.start + finite.tolist().index(False)
                raise InputError(
                    f"{name} of sample {bad} is not finite, or not in the range of {array.dtype}: explain.debug(...) "
                    "shows where NaN and infinity first appear"
                )

    def write(self, part: int, rows: range, arrays: Arrays) -> None:
        """Write the samples of a part, and mark it after that."""
        if part >= self._done.shape[0]:
            self._grow(2 * part + 1)
        for name, array in arrays.items():
            self._arrays[name][rows.start : rows.stop] = array
        self._done[part] = True

    def _grow(self, parts: int) -> None:
        settings = self.attributes["settings"]
        plan = Plan(settings["batch_size"], settings["chunk_size"])
        for array in self._arrays.values():
            array.resize((parts * plan.per_part, *array.shape[1:]))
        # Last, so that a writer that is killed before grows the arrays again.
        self._done.resize((parts,))

    def finish(self, samples: int) -> None:
        """Note that all samples are written."""
        for array in self._arrays.values():
            if array.shape[0] != samples:
                array.resize((samples, *array.shape[1:]))
        self._group.attrs[_KEY] = {**self.attributes, "samples": samples, "complete": True}

    def results(self) -> Results:
        """What the store contains, for readers."""
        attributes = self.attributes
        several = {
            name.partition("/")[2]: array for name, array in self._arrays.items() if name.startswith(f"{RELEVANCE}/")
        }
        return Results(
            relevance=several or self._arrays[RELEVANCE],
            output=self._arrays[OUTPUT],
            target=self._arrays.get(TARGET),
            names=self._group.get(NAMES),
            samples=attributes["samples"],
            is_complete=self.is_complete,
            settings=attributes["settings"],
            rules=attributes["rules"],
        )


def array_names(relevance: Any) -> dict[str, str]:
    """Return the names of the arrays for the relevance of a call, by the names in its dict; "" for a single tensor.

    Raises:
        InputError: A name cannot be that of an array.
    """
    if not isinstance(relevance, Mapping):
        return {"": RELEVANCE}
    for name in relevance:
        if "/" in name or name.startswith("__"):
            raise InputError(f"the relevance of {shown(name)} cannot be stored: Zarr has no such name for an array")
    return {name: f"{RELEVANCE}/{name}" for name in relevance}
