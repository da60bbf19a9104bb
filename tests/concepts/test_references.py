"""Reference samples of channels against brute force over a small dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.concepts import References, channel_relevance
from fxlrp.errors import InputError
from oracles import random
from questions import language_model, skips

IMAGES = random(23, 2, 6, 6, seed=5)
PLACES = ["stem", "block.0", "head"]


def gradient_times_value(model: nn.Module, place: str, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The value of a module, and its relevance under the preset "gradient", by a hook and autograd."""
    kept: list[Tensor] = []
    handle = model.get_submodule(place).register_forward_hook(lambda module, args, out: kept.append(out))
    output = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(output.gather(1, target.unsqueeze(1)).sum(), kept[0])
    return kept[0].detach(), (gradient * kept[0]).detach()


def collected(explain: fxlrp.Explainer, targets: Tensor, size: int, **options: Any) -> References:
    references = References(explain, PLACES, **options)
    for images, target in zip(IMAGES.split(size), targets.split(size), strict=True):
        references.add(images, target=target)
    return references


@pytest.mark.parametrize("by", ["relevance", "activation"])
@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_the_best_samples_are_those_of_brute_force(reduce: Any, by: Any) -> None:
    model, targets = skips(), torch.arange(23) % 3
    explain = fxlrp.compile(model, "gradient")
    references = collected(explain, targets, 5, k=4, reduce=reduce)
    assert references.seen == 23 and references.places == tuple(PLACES)
    for place in PLACES:
        value, relevance = gradient_times_value(model, place, IMAGES, targets)
        measured = (relevance if by == "relevance" else value).flatten(2) if value.dim() > 2 else None
        for channel in range(value.shape[1]):
            if measured is None:
                score = (relevance if by == "relevance" else value)[:, channel]
            else:
                score = getattr(measured[:, channel], "sum" if reduce == "sum" else "amax")(-1)
            expected = sorted(range(23), key=lambda index: (-float(score[index].round(decimals=12)), index))[:4]
            top = references.top(place, channel, by=by)
            assert top.samples.tolist() == expected
            torch.testing.assert_close(top.scores, score[expected])
            assert top.classes.tolist() == targets[expected].tolist()
            for sample, position in zip(expected, top.positions.tolist(), strict=True):
                if measured is None:
                    assert position == []
                else:
                    row, column = position
                    assert measured[sample, channel, row * value.shape[3] + column] == pytest.approx(
                        float(measured[sample, channel].max())
                    )


def test_statistics_of_each_class() -> None:
    model, targets = skips(), torch.arange(23) % 2 * 2
    references = collected(fxlrp.compile(model, "gradient"), targets, 4)
    for place in PLACES[:2]:
        value, relevance = gradient_times_value(model, place, IMAGES, targets)
        measures: list[tuple[Any, Tensor]] = [("relevance", relevance), ("activation", value)]
        for by, measured in measures:
            found = references.statistics(place, by=by)
            assert found.classes.tolist() == [0, 2]
            assert found.count.tolist() == [12, 11]
            for row, label in enumerate((0, 2)):
                scores = measured[targets == label].sum((2, 3))
                torch.testing.assert_close(found.mean[row], scores.mean(0))
                torch.testing.assert_close(found.std[row], scores.std(0, correction=0))


def test_batches_do_not_matter() -> None:
    explain, targets = fxlrp.compile(skips(), "epsilon_plus"), torch.arange(23) % 3
    one, many = (collected(explain, targets, size, k=6) for size in (23, 4))
    for place in PLACES:
        for channel in range(3):
            for by in ("relevance", "activation"):
                whole, parts = one.top(place, channel, by=by), many.top(place, channel, by=by)
                assert whole.samples.tolist() == parts.samples.tolist()
                assert whole.positions.tolist() == parts.positions.tolist()
                torch.testing.assert_close(whole.scores, parts.scores)


def test_continuing_is_one_pass(tmp_path: Path) -> None:
    model, targets = skips(), torch.arange(24) % 3
    batches = list(zip(random(24, 2, 6, 6).split(6), targets.split(6), strict=True))
    whole = References(fxlrp.compile(model), PLACES, k=5)
    first = References(fxlrp.compile(model), PLACES, k=5)
    for images, target in batches:
        whole.add(images, target=target)
    for images, target in batches[:2]:
        first.add(images, target=target)
    first.save(tmp_path / "references.pt")
    second = References.load(tmp_path / "references.pt", fxlrp.compile(model))
    assert second.seen == 12
    for images, target in batches[2:]:
        second.add(images, target=target)
    for references, name in ((whole, "whole"), (second, "second")):
        references.save(tmp_path / name)
    states = [torch.load(tmp_path / name, weights_only=True) for name in ("whole", "second")]
    for place in PLACES:
        for part in ("best", "sums"):
            for measure in ("relevance", "activation"):
                ours, theirs = (state[part][place][measure] for state in states)
                assert ours.keys() == theirs.keys()
                assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_explainer_does_not_continue(tmp_path: Path) -> None:
    model = skips()
    references = References(fxlrp.compile(model, "epsilon"), "stem")
    references.add(IMAGES)
    references.save(tmp_path / "references.pt")
    again = References.load(tmp_path / "references.pt", fxlrp.compile(model, "epsilon_plus"))
    with pytest.raises(InputError, match="collected with another explainer"):
        again.add(IMAGES)


@pytest.mark.parametrize(
    "state",
    [
        b"nothing",
        [1],
        {"best": {}},
        {"at": 3},
        {"seen": torch.ones(1)},
        {"best": {"stem": 3}, "sums": {"stem": 3}},
        {"best": {"stem": {"relevance": {}, "activation": {}}}},
    ],
)
def test_a_file_that_anyone_wrote(tmp_path: Path, state: Any) -> None:
    references = References(fxlrp.compile(skips()), "stem")
    references.add(IMAGES)
    path = tmp_path / "references.pt"
    references.save(path)
    if isinstance(state, bytes):
        path.write_bytes(state)
    else:
        torch.save({**torch.load(path, weights_only=True), **state} if len(state) and state != [1] else state, path)
    with pytest.raises(InputError, match="is not a file of reference samples"):
        References.load(path, fxlrp.compile(skips()))


def test_equal_scores_go_to_the_smaller_index() -> None:
    image = random(1, 2, 6, 6)
    references = References(fxlrp.compile(skips()), "stem", k=3)
    references.add(image.expand(2, -1, -1, -1), samples=[9, 4])
    references.add(image.expand(2, -1, -1, -1), samples=[7, 2])
    for by in ("relevance", "activation"):
        assert references.top("stem", 1, by=by).samples.tolist() == [2, 4, 7]


def test_fewer_samples_than_k() -> None:
    references = References(fxlrp.compile(skips()), "stem", k=9)
    references.add(IMAGES[:2], target=1)
    top = references.top("stem", 0)
    assert len(top) == 2 and top.classes.tolist() == [1, 1]
    assert sorted(top.samples.tolist()) == [0, 1]


def test_relative_relevance() -> None:
    model = skips()
    explain = fxlrp.compile(model)
    references = References(explain, "stem", k=23, relative=True)
    references.add(IMAGES, target=1)
    relevance = explain(IMAGES, target=1, at="stem")
    shares = relevance.sum((2, 3)) / relevance.abs().sum((1, 2, 3)).unsqueeze(1)
    top = references.top("stem", 2)
    torch.testing.assert_close(top.scores, shares[:, 2].sort(descending=True).values)


def test_the_class_of_a_sample() -> None:
    model = skips()
    explain = fxlrp.compile(model)
    predicted = model(IMAGES[:4]).argmax(1).tolist()
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, predicted),
        ({"target": -1}, [2, 2, 2, 2]),
        ({"target": (1,)}, [1, 1, 1, 1]),
        ({"target": [0, 1, 2, 0]}, [0, 1, 2, 0]),
        ({"target": fxlrp.targets.contrast(0, 1)}, [-1] * 4),
        ({"seed": torch.zeros_like}, [-1] * 4),
        ({"target": 1, "classes": [5, 6, 7, 8]}, [5, 6, 7, 8]),
    ]
    for question, expected in cases:
        references = References(explain, "stem", k=4)
        references.add(IMAGES[:4], **question)
        top = references.top("stem", 0, by="activation")
        assert [expected[sample] for sample in top.samples.tolist()] == top.classes.tolist()
        assert references.statistics("stem").classes.tolist() == sorted(set(expected))


def test_features_of_tokens() -> None:
    """The channels of a transformer are its features, and positions are those of tokens."""
    model, ids = language_model(), torch.tensor([[1, 4, 2, 7, 3], [5, 5, 0, 9, 10]])
    explain = fxlrp.compile(model, "attnlrp", example_inputs=ids)
    references = References(explain, "blocks.0", k=2, reduce="max")
    references.add(ids, target=(-1, 3), classes=[3, 3])
    relevance = explain(ids, target=(-1, 3), at="blocks.0")
    for feature in range(8):
        top = references.top("blocks.0", feature)
        largest, where = relevance[..., feature].max(1)
        torch.testing.assert_close(top.scores, largest[top.samples])
        assert top.positions.squeeze(1).tolist() == where[top.samples].tolist()


def test_the_relevance_of_channels() -> None:
    explain = fxlrp.compile(skips())
    expected = explain(IMAGES, target=1, at="block.1").sum((2, 3))
    torch.testing.assert_close(channel_relevance(explain, IMAGES, at="block.1", target=1), expected)
    with pytest.raises(InputError, match="must be the name of one place"):
        channel_relevance(explain, IMAGES, at="block.?")


def test_what_does_not_fit() -> None:
    explain = fxlrp.compile(skips())
    for options in ({"k": 0}, {"k": 1.5}, {"reduce": "mean"}):
        with pytest.raises(InputError, match="must be"):
            References(explain, "stem", **options)
    references = References(explain, "stem")
    with pytest.raises(InputError, match="nothing to save"):
        references.save("nowhere")
    with pytest.raises(InputError, match="none before the first batch"):
        references.top("stem", 0)
    references.add(IMAGES)
    with pytest.raises(InputError, match="4 channels: there is no channel 4"):
        references.top("stem", 4)
    with pytest.raises(InputError, match="there is no place 'head'; the places are: 'stem'"):
        references.statistics("head")
    with pytest.raises(InputError, match='by must be "relevance"'):
        references.top("stem", 0, by="both")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one integer for each of the 2 samples"):
        references.add(IMAGES[:2], samples=[1])
    with pytest.raises(InputError, match="one integer for each of the 2 samples"):
        references.add(IMAGES[:2], classes=torch.tensor([0.5, 1.0]))
    with pytest.raises(InputError, match="must not be negative"):
        references.add(IMAGES[:2], samples=[3, -1])
    with pytest.raises(InputError, match="NaN"):
        references.add(IMAGES[:2] * torch.nan)
    assert references.seen == 23
    with pytest.raises(InputError, match="give one target"):
        references.add(IMAGES[:2], target=fxlrp.targets.each([0, 1]))


def test_other_channels_in_a_later_batch_change_nothing() -> None:
    class AnyWidth(nn.Module):
        """Its last place has as many channels as the input has features."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Identity(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.first(x) * 2)
            return out

    references = References(fxlrp.compile(AnyWidth().eval()), "second", k=3)
    references.add(torch.rand(2, 5), target=1)
    before = references.statistics("second")
    with pytest.raises(InputError, match="there are 4 channels with positions of 0 dimensions"):
        references.add(torch.rand(2, 4), target=1)
    assert references.seen == 2
    torch.testing.assert_close(references.statistics("second").mean, before.mean)
