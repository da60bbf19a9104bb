"""The engine of Ray writes the store that this process would write, also if a worker is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import fxlrp
from dataset_runs import Waves, files, network
from fxlrp.errors import InputError
from reference_files import assert_same_references

pytest.importorskip("zarr", reason="zarr is not installed")

LABELS = torch.arange(200) % 5 - 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'fxlrp[ray]'")
    pytest.importorskip("ray.data", reason="ray[data] is not installed: pip install 'fxlrp[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=2**27)
    yield
    ray.shutdown()


def worker_dataset(killed: Path | None) -> Any:
    """Samples for workers that have neither the compiler nor the code of the model."""
    return read_in_workers(killed, without={"fxlrp", "dataset_runs"})


def read_in_workers(killed: Path | None, without: Collection[str] = ()) -> Any:
    """A dataset whose class is sent to the workers; one of them is killed when it reads sample 100 the first time.

    Args:
        killed: The file that is written then; None if no worker is killed.
        without: The modules that workers must not import.
    """
    home, samples = os.getpid(), torch.stack([Waves(200)[index] for index in range(200)])

    class Samples:
        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: int) -> dict[str, Any]:
            if os.getpid() != home:
                assert not sys.modules.keys() & without
                if killed is not None and index == 100 and not killed.exists():
                    killed.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return {"image": samples[index], "label": index % 5 - 2}

    return Samples()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(cluster: None, tmp_path: Path) -> None:
    dataset, killed = worker_dataset(tmp_path / "killed"), tmp_path / "killed"
    explain = fxlrp.compile(network())
    options: dict[str, Any] = {"inputs": "image", "target": LABELS, "batch_size": 8, "progress": False}
    fxlrp.data.explain(explain, dataset, tmp_path / "local.zarr", **options)
    assert not killed.exists()
    found = fxlrp.data.explain(explain, dataset, tmp_path / "ray.zarr", engine="ray", **options)
    assert killed.exists() and found.is_complete
    assert files(tmp_path / "ray.zarr") == files(tmp_path / "local.zarr")
    assert found.target[:].tolist() == (LABELS % 5).tolist()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.images, self.numbers = network(), nn.Linear(1, 5)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        out: Tensor = self.images(image) + self.numbers(label)
        return out


@pytest.mark.slow
def test_what_one_process_began_ends_on_ray(cluster: None, tmp_path: Path) -> None:
    dataset, explain = worker_dataset(None), fxlrp.compile(Two().eval())
    each = fxlrp.targets.each([0, 3])
    options: dict[str, Any] = {"target": each, "batch_size": 8, "chunk_size": 16, "progress": False}

    def inputs(batch: Any) -> Any:
        return {"label": batch["label"].float().unsqueeze(1), "image": batch["image"]}

    def failing(samples: list[Any]) -> Any:
        if torch.equal(samples[0]["image"], dataset[96]["image"]):
            raise OSError("the disk is gone")
        return torch.utils.data.default_collate(samples)

    options["inputs"] = inputs
    with pytest.raises(OSError, match="the disk is gone"):
        fxlrp.data.explain(explain, dataset, tmp_path / "x.zarr", collate_fn=failing, **options)
    found = fxlrp.data.explain(explain, dataset, tmp_path / "x.zarr", engine=fxlrp.data.Ray(actors=1), **options)
    fxlrp.data.explain(explain, dataset, tmp_path / "local.zarr", **options)
    assert found.relevance["image"].shape == (200, 2, 3, 16, 16) and found.relevance["label"].shape == (200, 2, 1)
    assert files(tmp_path / "x.zarr") == files(tmp_path / "local.zarr")


@pytest.mark.slow
def test_concepts_are_the_same_if_a_worker_is_killed(cluster: None, tmp_path: Path) -> None:
    dataset, killed = read_in_workers(tmp_path / "killed"), tmp_path / "killed"
    explain = fxlrp.compile(network())
    options: dict[str, Any] = {"inputs": "image", "target": LABELS, "batch_size": 8, "progress": False}

    def collected(out: str, engine: Any) -> fxlrp.concepts.References:
        references = fxlrp.concepts.References(explain, ["0", "2"], k=5)
        return fxlrp.data.collect(references, dataset, tmp_path / out, engine=engine, **options)

    local = collected("local", "local")
    assert not killed.exists()
    on_ray = collected("ray", fxlrp.data.Ray(actors=2))
    assert killed.exists() and on_ray.seen == local.seen == 200
    assert_same_references(tmp_path / "ray" / "references.pt", tmp_path / "local" / "references.pt")


@pytest.mark.slow
def test_concepts_that_one_process_began_end_on_ray(cluster: None, tmp_path: Path) -> None:
    dataset, explain = read_in_workers(None), fxlrp.compile(network())
    options: dict[str, Any] = {"inputs": "image", "batch_size": 8, "save_every": 4, "progress": False}

    def failing(samples: list[Any]) -> Any:
        if torch.equal(samples[0]["image"], dataset[96]["image"]):
            raise OSError("the disk is gone")
        return torch.utils.data.default_collate(samples)

    def begun(**more: Any) -> fxlrp.concepts.References:
        return fxlrp.data.collect(fxlrp.concepts.References(explain, "0"), dataset, tmp_path / "x", **options, **more)

    with pytest.raises(OSError, match="the disk is gone"):
        begun(collate_fn=failing)
    found = begun(engine="ray")
    whole = fxlrp.concepts.References(explain, "0")
    for start in range(0, 200, 8):
        whole.add(torch.stack([dataset[index]["image"] for index in range(start, start + 8)]))
    assert found.seen == 200
    for channel in range(3):
        torch.testing.assert_close(vars(found.top("0", channel)), vars(whole.top("0", channel)), rtol=0, atol=0)
    ours, theirs = found.statistics("0"), whole.statistics("0")
    torch.testing.assert_close((ours.mean, ours.std), (theirs.mean, theirs.std), rtol=0, atol=0)


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return (Waves(20)[index] for index in range(20))


@pytest.mark.parametrize(
    ("engine", "message"),
    [("ray", "needs a dataset with an index"), ("dask", "engine must be")],
)
def test_wrong_arguments(engine: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        fxlrp.data.explain(fxlrp.compile(network()), Stream(), tmp_path / "x.zarr", engine=engine, progress=False)
    with pytest.raises(InputError, match="actors must be a whole number of at least 1"):
        fxlrp.data.Ray(actors=0)
    with pytest.raises(InputError, match="gpus must be a number of at least 0"):
        fxlrp.data.Ray(gpus=-1)
