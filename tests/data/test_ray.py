"""The engine of Ray writes the store that this process would write, also if a worker is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import fxlrp
from dataset_runs import Waves, files, network
from fxlrp.errors import InputError

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
    """A dataset whose class is sent to the workers; one of them is killed when it reads sample 100 the first time."""
    home, samples = os.getpid(), torch.stack([Waves(200)[index] for index in range(200)])

    class Samples:
        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: int) -> dict[str, Any]:
            if os.getpid() != home:
                # Neither the compiler nor the code of the model.
                assert not {"fxlrp", "dataset_runs"} & {*sys.modules}
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
