"""Relevance of datasets: against gradient x input, in the order of the samples, once for each."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import fxlrp
from fxlrp.errors import InputError
from oracles import random

pytest.importorskip("zarr", reason="zarr is not installed")

X, LABELS = random(23, 2, 6, 6, seed=5), torch.arange(23) % 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4, bias=False))
    return nn.Sequential(*layers).double().eval()


def gradient_times_input(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """LRP-0 of a network of ReLU without biases."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).gather(1, target.unsqueeze(1)).sum(), x)
    return (gradient * x).detach()


@functools.cache
def compiled() -> fxlrp.Explainer:
    return fxlrp.compile(network(), "gradient")


def explained(out: Path, dataset: Any = None, model: nn.Module | None = None, **options: Any) -> fxlrp.data.Results:
    explain = compiled() if model is None else fxlrp.compile(model, "gradient")
    given = TensorDataset(X, LABELS) if dataset is None else dataset
    if isinstance(given, TensorDataset):
        options.setdefault("inputs", 0)
    return fxlrp.data.explain(explain, given, out, **{"batch_size": 4, "progress": False, **options})


def as_tensor(array: Any) -> Tensor:
    return torch.from_numpy(array[:])


def label(batch: Any) -> Tensor:
    found: Tensor = batch[1]
    return found


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, None),
        (2, torch.full((23,), 2)),
        (-1, torch.full((23,), 3)),
        (LABELS, LABELS),
        (LABELS.tolist(), LABELS),
        (LABELS.numpy(), LABELS),
        (label, LABELS),
    ],
    ids=["largest", "index", "negative", "tensor", "list", "array", "function"],
)
def test_relevance_output_and_target(given: Any, meant: Tensor | None, tmp_path: Path) -> None:
    model = network()
    target = model(X).argmax(1) if meant is None else meant
    found = explained(tmp_path / "x.zarr", target=given)
    assert torch.allclose(as_tensor(found.relevance), gradient_times_input(model, X, target), atol=1e-6)
    assert torch.allclose(as_tensor(found.output), model(X), atol=1e-6)
    assert torch.equal(as_tensor(found.target), target)
    assert found.is_complete and found.samples == 23
    assert found.relevance.chunks[0] == 4


@pytest.mark.parametrize(("batch_size", "chunk_size"), [(4, 12), (6, 2), (30, 30)])
def test_chunks_and_batches(batch_size: int, chunk_size: int, tmp_path: Path) -> None:
    found = explained(tmp_path / "x.zarr", target=LABELS, batch_size=batch_size, chunk_size=chunk_size)
    assert torch.allclose(as_tensor(found.relevance), gradient_times_input(network(), X, LABELS), atol=1e-6)
    assert found.relevance.chunks[0] == min(chunk_size, 23)


class Read(Dataset[Tensor]):
    """Notes which samples are read, and fails at one as long as it is told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at, self.read = fails_at, list[int]()

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Tensor:
        if index == self.fails_at:
            raise OSError("the disk is gone")
        self.read.append(index)
        return X[index]


def files(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_a_run_that_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    dataset = Read(fails_at=13)
    with pytest.raises(OSError, match="the disk is gone"):
        explained(tmp_path / "x.zarr", dataset, target=1)
    begun = fxlrp.data.read(tmp_path / "x.zarr")
    assert not begun.is_complete and begun.samples == 23
    dataset.fails_at = None
    dataset.read.clear()
    found = explained(tmp_path / "x.zarr", dataset, target=1)
    # The first batch is read to see that the samples are the same.
    assert dataset.read == [*range(4), *range(12, 23)]
    assert found.is_complete
    explained(tmp_path / "whole.zarr", Read(), target=1)
    assert files(tmp_path / "x.zarr") == files(tmp_path / "whole.zarr")
    dataset.read.clear()
    explained(tmp_path / "x.zarr", dataset, target=1)
    assert dataset.read == [*range(4)]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"target": 2}, "target is 2, and was 1"),
        ({"batch_size": 2, "chunk_size": 4}, "batch_size is 2, and was 4"),
        ({"chunk_size": 8}, "chunk_size is 8, and was 4"),
        ({"dtype": "float32"}, "arrays is .*float32"),
        ({"compress": True}, "compress is True, and was False"),
        ({"at": "0"}, "at is '0', and was None"),
        ({"only": {"0": 1}}, "only is {'0': 1}, and was None"),
        ({"inputs": [0]}, r"inputs is \[0\], and was 0"),
        ({"dataset": TensorDataset(X[:20], LABELS[:20])}, "samples is 20, and was 23"),
        ({"dataset": TensorDataset(X + 1, LABELS)}, "first_batch is"),
        ({"rules": "epsilon"}, "rules is"),
        ({"weights": 2.0}, "weights is"),
    ],
    ids="target batch chunk dtype compress at only inputs samples values rules weights".split(),
)
def test_a_store_of_other_settings_is_refused(changed: dict[str, Any], name: str, tmp_path: Path) -> None:
    model, out = network(), tmp_path / "x.zarr"
    given: dict[str, Any] = {
        "dataset": TensorDataset(X, LABELS),
        "inputs": 0,
        "target": 1,
        "batch_size": 4,
        "progress": False,
    }
    fxlrp.data.explain(fxlrp.compile(model, "gradient"), out=out, **given)
    before = files(out)
    changed = dict(changed)
    explain = fxlrp.compile(model, changed.pop("rules", "gradient"))
    with torch.no_grad():
        model.get_parameter("3.weight").mul_(changed.pop("weights", 1.0))
    with pytest.raises(InputError, match=f"other settings: .*{name}"):
        fxlrp.data.explain(explain, out=out, **{**given, **changed})
    assert files(out) == before


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4, bias=False), nn.Linear(5, 4, bias=False)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        out: Tensor = self.left(left) + self.right(right)
        return out


class Named(Dataset[dict[str, Tensor]]):
    left, right = random(11, 3, seed=1), random(11, 5, seed=2)

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"right": self.right[index], "left": self.left[index], "label": torch.tensor(index % 4)}


def both(batch: Any) -> tuple[Tensor, Tensor]:
    return batch["left"], batch["right"]


@pytest.mark.parametrize("form", ["names", "function", "positions"])
def test_several_inputs(form: str, tmp_path: Path) -> None:
    model, named = Pair().double().eval(), Named()
    labels = torch.arange(11) % 4
    dataset: Any = named if form != "positions" else TensorDataset(labels, named.left, named.right)
    forms: dict[str, Any] = {"names": ["left", "right"], "positions": [1, 2], "function": both}
    found = explained(tmp_path / "x.zarr", dataset, model, inputs=forms[form], target=labels)
    assert set(found.relevance) == {"left", "right"}
    for name, layer in (("left", model.left), ("right", model.right)):
        given = getattr(named, name)
        assert torch.allclose(as_tensor(found.relevance[name]), given * layer.weight[labels], atol=1e-6)


def test_several_targets_have_the_samples_in_front(tmp_path: Path) -> None:
    model = network()
    found = explained(tmp_path / "x.zarr", target=fxlrp.targets.each([0, 3]))
    want = torch.stack([gradient_times_input(model, X, torch.full((23,), target)) for target in (0, 3)], 1)
    assert torch.allclose(as_tensor(found.relevance), want, atol=1e-6)
    assert found.target is None


def test_relevance_at_a_place(tmp_path: Path) -> None:
    model = network()
    found = explained(tmp_path / "x.zarr", at=["0", "input"], target=1)
    want = gradient_times_input(model, X, torch.ones(23, dtype=torch.long))
    assert torch.allclose(as_tensor(found.relevance["input"]), want, atol=1e-6)
    value = model.get_submodule("0")(X)
    assert torch.allclose(
        as_tensor(found.relevance["0"]), value.relu() * model.get_parameter("3.weight")[1].view(3, 4, 4), atol=1e-6
    )


def test_workers_keep_the_order(tmp_path: Path) -> None:
    found = explained(tmp_path / "x.zarr", target=LABELS, num_workers=2)
    assert torch.allclose(as_tensor(found.relevance), gradient_times_input(network(), X, LABELS), atol=1e-6)


class Stream(IterableDataset[Tensor]):
    def __init__(self, count: int = 23) -> None:
        self.count, self.started = count, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.started += 1
        return iter(X[: self.count])


class Sized(Stream):
    def __len__(self) -> int:
        return 22


def test_an_iterable_dataset_without_a_length(tmp_path: Path) -> None:
    stream = Stream(14)
    first = explained(tmp_path / "x.zarr", stream, target=1, batch_size=2)
    want = gradient_times_input(network(), X, torch.ones(23, dtype=torch.long))
    assert torch.allclose(as_tensor(first.relevance), want[:14], atol=1e-6)
    assert first.samples == 14 and first.output.shape == (*first.target.shape, 4) == (14, 4)


@pytest.mark.parametrize(("count", "more"), [(23, "more"), (20, "only 20")])
def test_a_wrong_length_is_an_error(count: int, more: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"says that it has 22 samples, but gives {more}"):
        explained(tmp_path / "x.zarr", Sized(count), target=1)
    assert not fxlrp.data.read(tmp_path / "x.zarr").is_complete


class Augmented(Read):
    def __getitem__(self, index: int) -> Tensor:
        return X[index] + torch.rand(())


def test_samples_that_change_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gives other samples when it is read again"):
        explained(tmp_path / "x.zarr", Augmented(), target=1)


def test_half_precision_in_the_store(tmp_path: Path) -> None:
    found = explained(tmp_path / "x.zarr", target=LABELS, dtype="float16", compress=True)
    assert found.relevance.dtype == "float16" and found.output.dtype == "float64"
    want = gradient_times_input(network(), X, LABELS)
    assert torch.allclose(as_tensor(found.relevance).double(), want, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), None), (1e6, "float16")], ids=["nan", "range"])
def test_what_cannot_be_stored_is_an_error(value: float, dtype: Any, tmp_path: Path) -> None:
    x = X.clone()
    x[9] *= value
    with pytest.raises(InputError, match="relevance of sample 9 is not finite, or not in the range of float"):
        explained(tmp_path / "x.zarr", TensorDataset(x, LABELS), target=1, dtype=dtype)


def test_samples_of_other_sizes_are_an_error(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).double().eval()
    dataset: Any = [*X[:4], *random(4, 2, 8, 8, seed=1)]
    with pytest.raises(InputError, match=r"samples 4 to 7 has the shape \(4, 2, 8, 8\).*give inputs of one size"):
        explained(tmp_path / "x.zarr", dataset, model, target=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": None}, "the samples have 2 parts: say which are inputs"),
        ({"inputs": 2}, "inputs=2: a batch of the dataset is a list of 2"),
        ({"inputs": "image"}, "inputs='image': a batch of the dataset is a list of 2"),
        ({"inputs": []}, "inputs must be an index, a key"),
        ({"target": LABELS[:5]}, "entries for 5 samples, but the dataset has 23"),
        ({"target": X[:, 0, 0, 0]}, "target must have an integer for each sample"),
        ({"chunk_size": 6}, "chunk_size=6 must be a multiple or a divisor of batch_size=4"),
        ({"dtype": "int8"}, "dtype must be one of float16, float32, float64"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"num_workers": -1}, "num_workers must be a whole number of at least 0"),
        ({"dataset": "photos/"}, "dataset must be a dataset of torch.*fxlrp.data.Images"),
        ({"dataset": X[:0]}, "has no samples"),
        ({"dataset": Stream(), "num_workers": 2}, "the order of an iterable dataset"),
        ({"dataset": Stream(), "target": LABELS}, "does not say how many samples it has"),
        ({"collate_fn": 3}, "collate_fn must be a function"),
        ({"progress": 1}, "progress must be True or False"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        explained(tmp_path / "x.zarr", **options)
    assert not (tmp_path / "x.zarr").exists()


def test_a_folder_that_is_not_a_store_is_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a store that"):
        explained(tmp_path, target=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    class Nested(Read):
        def __getitem__(self, index: int) -> Tensor:
            with pytest.raises(InputError, match="another process writes into"):
                explained(tmp_path / "x.zarr", target=1)
            return X[index]

    assert explained(tmp_path / "x.zarr", Nested(), target=1).is_complete


def test_a_folder_of_images(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    for name, value in (("b/2.png", 40), ("a.png", 10), ("b/1.png", 20)):
        pillow.new("L", (6, 6), value).save(folder / name)
    (folder / "notes.txt").write_text("not an image")

    def prepare(image: Any) -> Tensor:
        return torch.full((2, 6, 6), image.getpixel((0, 0)) / 100, dtype=X.dtype)

    found = explained(tmp_path / "x.zarr", fxlrp.data.Images(folder, prepare), target=1, batch_size=2)
    assert list(found.names[:]) == ["a.png", "b/1.png", "b/2.png"]
    x = torch.stack([torch.full((2, 6, 6), value, dtype=X.dtype) for value in (0.1, 0.2, 0.4)])
    want = gradient_times_input(network(), x, torch.ones(3, dtype=torch.long))
    assert torch.allclose(as_tensor(found.relevance), want, atol=1e-6)
    pillow.new("L", (6, 6), 1).save(folder / "b/3.png")
    with pytest.raises(InputError, match=r"names is .*samples is 4, and was 3"):
        explained(tmp_path / "x.zarr", fxlrp.data.Images(folder, prepare), target=1, batch_size=2)


def test_what_the_store_says(tmp_path: Path) -> None:
    found = explained(tmp_path / "x.zarr", target=label)
    assert found.settings["target"].startswith("function ") and found.settings["target"].endswith("label")
    assert found.settings["fxlrp"] == fxlrp.__version__
    assert {each["operation"] for each in found.rules.values()} >= {"conv2d", "relu", "linear"}
