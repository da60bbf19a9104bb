"""Reference samples over a dataset, against one call with all samples."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import fxlrp
from fxlrp.concepts import References
from fxlrp.concepts.scored import Measure
from fxlrp.data.ray_concepts import Scorer, new_on_cpu, packed, unpacked
from fxlrp.data.samples import samples_of
from fxlrp.errors import InputError
from oracles import random
from reference_files import assert_same_references

X = random(22, 2, 6, 6, seed=5)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    return nn.Sequential(*layers).double().eval()


class Failing(Dataset[tuple[Tensor, int]]):
    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at, self.read = fails_at, list[int]()

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self.fails_at:
            raise OSError("the disk is gone")
        self.read.append(index)
        return X[index], index % 4


def label(batch: Any) -> Tensor:
    found: Tensor = batch[1]
    return found


def collected(out: Path, dataset: Any, **options: Any) -> References:
    references = References(fxlrp.compile(network(), "epsilon"), ["0", "2"], k=options.pop("k", 5))
    given = {"inputs": 0, "target": label, "batch_size": 4, "save_every": 2, "progress": False, **options}
    return fxlrp.data.collect(references, dataset, out, **given)


def test_a_run_that_failed_goes_on(tmp_path: Path) -> None:
    dataset = Failing(fails_at=17)
    with pytest.raises(OSError, match="the disk is gone"):
        collected(tmp_path / "x", dataset)
    dataset.fails_at = None
    dataset.read.clear()
    found = collected(tmp_path / "x", dataset)
    assert dataset.read == [*range(4), *range(16, 22)] and found.seen == 22
    # Values of one run over all samples, and the bits of an unbroken run over batches.
    whole = References(fxlrp.compile(network(), "epsilon"), ["0", "2"], k=5)
    whole.add(X, target=torch.arange(22) % 4)
    unbroken = collected(tmp_path / "unbroken", Failing())
    measures: tuple[Measure, ...] = ("relevance", "activation")
    for channel in range(3):
        for by in measures:
            top, best = found.top("0", channel, by=by), whole.top("0", channel, by=by)
            assert torch.equal(top.samples, best.samples) and torch.allclose(top.scores, best.scores)
    ours, at_once, exact = (each.statistics("2") for each in (found, whole, unbroken))
    assert torch.allclose(ours.mean, at_once.mean) and torch.allclose(ours.std, at_once.std)
    assert torch.equal(ours.mean, exact.mean) and torch.equal(ours.std, exact.std)
    assert References.load(tmp_path / "x" / "references.pt", fxlrp.compile(network(), "epsilon")).seen == 22


def test_scores_of_another_process_are_those_of_one_run(tmp_path: Path) -> None:
    references = References(fxlrp.compile(network(), "epsilon"), ["0", "2"], k=5)
    samples = samples_of(Failing(), 0, label, None, 0)
    batches = {number: range(start, min(start + 4, 22)) for number, start in enumerate(range(0, 22, 4))}
    scorer = Scorer(new_on_cpu(references), samples, batches, threads=1, device="cpu")
    # What Ray does with it.
    scorer = pickle.loads(pickle.dumps(scorer))
    for number in batches:
        references.include(unpacked(packed(scorer.scored(number))))
    references.save(tmp_path / "references.pt")
    collected(tmp_path / "local", Failing())
    assert_same_references(tmp_path / "references.pt", tmp_path / "local" / "references.pt")


def test_the_engine_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="engine must be 'local' or 'ray'"):
        collected(tmp_path / "x", Failing(), engine="dask")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2}, "batch_size is 2, and was 4"),
        ({"k": 3}, "k is 3, and was 5"),
        ({"target": 1}, "target is 1, and was 'function"),
    ],
    ids=["batch size", "k", "target"],
)
def test_other_settings_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    collected(tmp_path / "x", Failing())
    with pytest.raises(InputError, match=message):
        collected(tmp_path / "x", Failing(), **options)


@pytest.mark.parametrize("content", [None, "{", "[]"], ids=["nothing", "broken", "list"])
def test_a_folder_that_is_something_else_is_kept(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    if content is not None:
        (tmp_path / "settings.json").write_text(content)
    with pytest.raises(InputError, match=r"settings"):
        collected(tmp_path, Failing())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_references_must_be_new(tmp_path: Path) -> None:
    references = References(fxlrp.compile(network(), "epsilon"), "0")
    references.add(X[:2])
    with pytest.raises(InputError, match="without samples"):
        fxlrp.data.collect(references, X, tmp_path / "x", progress=False)
