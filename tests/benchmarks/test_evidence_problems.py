"""The generated problems: what is said to decide is what differs between the classes, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks.evidence import graphs, shapes, tokens, tris
from benchmarks.evidence.problems import PROBLEMS
from benchmarks.evidence.samples import Samples


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", PROBLEMS)
def test_samples_have_the_declared_form(name: str) -> None:
    problem = PROBLEMS[name]
    samples = problem.make(400, seeded())
    assert samples.masks.dtype == torch.bool and samples.masks.flatten(1).any(1).all()
    assert sorted(set(samples.labels.tolist())) == list(range(problem.classes))
    assert samples.labels.bincount().min() > 400 / problem.classes / 2
    places = {"image": (0, 2, 3), "tokens": (0, 1), "graph": (0, 1)}[problem.kind]
    assert samples.masks.shape == tuple(samples.inputs[0].shape[place] for place in places)
    if problem.bounds is not None:
        assert problem.bounds[0] <= samples.inputs[0].min() and samples.inputs[0].max() <= problem.bounds[1]
    if problem.kind == "tokens":
        assert samples.inputs[0].min() >= 0 and samples.inputs[0].max() < problem.vocabulary
    again, other = problem.make(400, seeded()), problem.make(400, seeded(1))
    torch.testing.assert_close(again.inputs, samples.inputs, rtol=0, atol=0)
    assert not torch.equal(other.inputs[0], samples.inputs[0])


def test_halves_share_no_problem_and_have_every_family() -> None:
    halves = [{problem.kind for problem in PROBLEMS.values() if problem.half == half} for half in ("choose", "report")]
    assert halves == [{"image", "tokens", "graph"}] * 2
    for axis in (0, 1):
        scenarios = [
            {
                name.split()[axis]
                for name, problem in PROBLEMS.items()
                if "TRIS" in problem.title and problem.half == half
            }
            for half in ("choose", "report")
        ]
        assert scenarios[0] == scenarios[1] == set((tris.SCENARIOS, tris.NOISES)[axis])


def test_smoothing_is_a_gaussian_filter() -> None:
    images = torch.randn(3, tris.SIZE, tris.SIZE, generator=seeded()).double()
    matrix = tris.smoothing(tris.SIZE, 3.0).double()
    expected = gaussian_filter(images.numpy(), (0, 3.0, 3.0))
    torch.testing.assert_close(matrix @ images @ matrix.T, torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def differing(scenario: str, noise: str) -> Tensor:
    """The pixels whose means differ between the classes, or whose magnitudes or products with a reference do."""
    samples = tris.make(scenario, noise, 20_000, seeded())
    images = samples.inputs[0][:, 0]
    if scenario == "multiplicative":
        images = images.square()
    if scenario == "xor":
        images = images * images[:, 2:3, 2:3]  # the sign of each pixel relative to that of one pixel of the T
    first, second = images[samples.labels == 0], images[samples.labels == 1]
    gap = (first.mean(0) - second.mean(0)).abs()
    noise_of_mean = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
    return gap > 5 * noise_of_mean


@pytest.mark.parametrize("scenario", ["linear", "multiplicative"])
def test_masks_are_the_pixels_that_differ_between_classes(scenario: str) -> None:
    (mask,) = tris.make(scenario, "white", 50, seeded()).masks.unique(dim=0)
    assert mask.sum() == 8
    assert torch.equal(differing(scenario, "white"), mask)


def test_in_xor_only_relations_of_masked_pixels_differ() -> None:
    (mask,) = tris.make("xor", "white", 50, seeded()).masks.unique(dim=0)
    ell = tris.placed(tris.L, *tris.PLACES[1]).bool()
    assert mask.sum() == 8 and torch.equal(differing("xor", "white"), ell)
    samples = tris.make("xor", "white", 20_000, seeded())
    means = [samples.inputs[0][samples.labels == label].mean(0) for label in (0, 1)]
    assert (means[0] - means[1]).abs().max() < 0.01


def test_rigid_images_are_a_turned_tetromino_inside_the_image() -> None:
    labels = torch.arange(400) % 2
    pattern, masks = tris.PATTERNS["rigid"](labels, seeded())
    assert (masks.flatten(1).sum(1) == 4).all() and torch.equal(pattern.bool(), masks)
    turned = [{tuple(torch.rot90(p, k).flatten().tolist()) for k in range(4)} for p in (tris.T, tris.L)]
    for label, mask in zip(labels.tolist(), masks, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert tuple(box.float().flatten().tolist()) in turned[label]
    assert masks.any(0).all()  # anywhere


def test_signal_and_noise_have_the_stated_shares() -> None:
    pattern, _ = tris.PATTERNS["linear"](torch.arange(1000) % 2, seeded())
    assert tris.normalized(pattern).norm().item() == pytest.approx(1.0, abs=1e-5)
    images = tris.make("rigid", "white", 4000, seeded())
    signal = images.inputs[0][:, 0][images.masks]
    noise = images.inputs[0][:, 0][~images.masks]
    # The norm of the signal is that of 4 pixels in each image, the norm of the noise that of 64.
    share = signal.mean() * math.sqrt(4) / (noise.std() * math.sqrt(64))
    assert share.item() == pytest.approx(0.65 / 0.35, rel=0.05)


def test_correlated_noise_is_correlated_between_neighbours() -> None:
    for noise, low, high in (("white", -0.1, 0.1), ("correlated", 0.8, 1.0)):
        images = tris.make("multiplicative", noise, 2000, seeded()).inputs[0][:, 0]
        pair = torch.stack([images[:, 0, 6], images[:, 0, 7]])
        assert low < torch.corrcoef(pair)[0, 1] < high


@pytest.mark.parametrize("maker", ["shape_of_red", "shape_of_bright", "shape_in_clutter"])
def test_the_square_of_an_object_holds_its_shape(maker: str) -> None:
    samples: Samples = getattr(shapes, maker)(60, seeded())
    brightest = samples.inputs[0].amax(1)
    for image, label, mask in zip(brightest, samples.labels, samples.masks, strict=True):
        assert mask.sum() == shapes.SIDE**2
        drawn = (image[mask] > 0.9).view(shapes.SIDE, shapes.SIDE)
        assert torch.equal(drawn, shapes.GLYPHS[label].bool())
    # Every pixel of the square is drawn in some class, so none of them is without information.
    assert shapes.GLYPHS.amax(0).all() and not shapes.GLYPHS.amin(0).all()


def test_the_red_object_is_red_and_others_are_not() -> None:
    samples = shapes.shape_of_red(60, seeded())
    red = samples.inputs[0][:, 0] - samples.inputs[0][:, 1:].amax(1) > 0.5
    assert not (red & ~samples.masks).any() and red.flatten(1).any(1).all()


def test_the_colour_of_the_cross_is_the_class() -> None:
    samples = shapes.colour_of_cross(60, seeded())
    for image, label, mask in zip(samples.inputs[0], samples.labels, samples.masks, strict=True):
        assert mask.sum() == shapes.GLYPHS[shapes.CROSS].sum()
        torch.testing.assert_close(image[:, mask], shapes.COLOURS[label][:, None].expand(3, int(mask.sum())))


def test_objects_do_not_touch() -> None:
    corners = shapes.places(500, 3, seeded())
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert ((corners[:, first] - corners[:, second]).abs().amax(1) > shapes.SIDE).all()
    assert corners.min() == 0 and corners.max() + shapes.SIDE < shapes.SIZE


def words(samples: Samples) -> list[tuple[list[int], int, list[int]]]:
    masks = [mask.nonzero()[:, 0].tolist() for mask in samples.masks]
    return list(zip(samples.inputs[0].tolist(), samples.labels.tolist(), masks, strict=True))


def test_keyword_is_the_only_word_with_a_meaning() -> None:
    for tokens_, label, (place,) in words(tokens.keyword(200, seeded())):
        assert [index for index, token in enumerate(tokens_) if token >= tokens.WORDS] == [place]
        assert (tokens_[place] - tokens.WORDS) // 3 == label


def test_order_is_that_of_the_two_words() -> None:
    for tokens_, label, places in words(tokens.order(200, seeded())):
        assert [index for index, token in enumerate(tokens_) if token >= tokens.WORDS] == places
        assert [tokens_[place] - tokens.WORDS for place in places] == [label, 1 - label]


def test_negation_turns_the_word_after_it_around() -> None:
    elsewhere = 0
    for tokens_, label, (before, place) in words(tokens.negation(400, seeded())):
        assert place == before + 1
        meaning = [index for index, token in enumerate(tokens_) if token > tokens.WORDS]
        assert meaning == [place]
        good = tokens_[place] > tokens.WORDS + 4
        assert label == (good != (tokens_[before] == tokens.WORDS))
        elsewhere += any(token == tokens.WORDS for index, token in enumerate(tokens_) if index != before)
    assert elsewhere == 400  # its presence alone says nothing


def test_recall_is_the_value_after_the_same_key() -> None:
    for tokens_, label, places in words(tokens.recall(200, seeded())):
        key, value, last = places
        assert last == len(tokens_) - 1 and value == key + 1
        assert [index for index, token in enumerate(tokens_) if token == tokens_[last]] == [key, last]
        assert tokens_[value] == tokens.KEYS + label


def edges_of(pairs: Tensor) -> set[frozenset[int]]:
    return {frozenset(pair) for pair in pairs.tolist()}


def test_the_centre_of_the_path_is_the_class() -> None:
    samples = graphs.centre(60, seeded())
    features, edges = samples.inputs
    for nodes, pairs, label, mask in zip(features, edges, samples.labels, samples.masks, strict=True):
        assert (nodes.sum(1) == 1).all()
        motif = set(mask.nonzero()[:, 0].tolist())
        assert {int(node) for node in (nodes[:, :3].sum(1) > 0).nonzero()[:, 0]} == motif and len(motif) == 3
        inside = [edge for edge in edges_of(pairs) if edge <= motif]
        assert len(inside) == 2
        (middle,) = inside[0] & inside[1]
        assert nodes[middle].argmax() == label


def test_cycles_alternate_in_one_class() -> None:
    samples = graphs.alternating(60, seeded())
    features, edges = samples.inputs
    for nodes, pairs, label, mask in zip(features, edges, samples.labels, samples.masks, strict=True):
        motif = set(mask.nonzero()[:, 0].tolist())
        inside = [edge for edge in edges_of(pairs) if edge <= motif]
        assert len(inside) == 4 and nodes[:, :2].sum() == 4
        same = sum(len({int(nodes[node].argmax()) for node in edge}) == 1 for edge in inside)
        assert same == (0 if label else 2)
        assert len(edges_of(pairs)) == graphs.NODES  # a tree with one cycle, in both classes


def test_graphs_are_symmetric_and_in_random_order() -> None:
    samples = graphs.centre(200, seeded())
    half = samples.inputs[1].shape[1] // 2
    assert torch.equal(samples.inputs[1][:, :half], samples.inputs[1][:, half:].flip(-1))
    assert samples.masks.float().mean(0).std() < 0.1
