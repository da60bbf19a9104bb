"""Methods and networks on cases whose relevance is known, and how training and trained networks behave."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks.evidence import measure, networks, training
from benchmarks.evidence.candidates import CANDIDATES
from benchmarks.evidence.methods import METHODS, NotApplicable, Subject
from benchmarks.evidence.plan import Cell, Plan
from benchmarks.evidence.problems import PROBLEMS
from benchmarks.evidence.samples import Kind, Samples
from fxlrp.rules.presets import PRESETS

BY_NAME = {method.name: method for method in METHODS}
# Each gives x * w on a network that is linear and has no bias.
PRODUCTS = (
    *("epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "attnlrp", "cplrp", "mambalrp", "relp", "gradient", "default"),
    *("integrated gradients", "gradient x input", "DeepLift", "captum LRP"),
)
WEIGHTS = ("guided_backprop", "deconvnet", "beta_smooth")
# All of their rules but that of epsilon are for convolutions, which a dense network does not have.
OF_CONVOLUTIONS = ("gamma 0.25", "gamma 0.5", "gamma 1", "z+, epsilon stem")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def subject(network: nn.Module, x: Tensor, kind: Kind = "image") -> Subject:
    return Subject(network.eval(), (x,), torch.zeros(len(x)).long(), kind, f"test {id(network)}", (-1.0, 1.0))


@pytest.fixture(scope="module")
def linear() -> tuple[Subject, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(16, 2, bias=False)
    x = torch.randn(3, 1, 4, 4)
    return subject(networks.OnFlat(layer), x), layer.weight.detach()[0].view(1, 1, 4, 4)


@pytest.mark.parametrize("name", [*PRODUCTS, *OF_CONVOLUTIONS])
def test_relevance_of_a_linear_network_is_weight_times_input(linear: tuple[Subject, Tensor], name: str) -> None:
    network, weight = linear
    relevance = BY_NAME[name].explain(network)
    torch.testing.assert_close(relevance.detach(), network.inputs[0] * weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", WEIGHTS)
def test_gradient_of_a_linear_network_is_the_weight(linear: tuple[Subject, Tensor], name: str) -> None:
    network, weight = linear
    torch.testing.assert_close(BY_NAME[name].explain(network), weight.expand(3, 1, 4, 4))
    assert BY_NAME[name].is_gradient


def test_saliency_is_the_magnitude_of_the_weight(linear: tuple[Subject, Tensor]) -> None:
    network, weight = linear
    torch.testing.assert_close(BY_NAME["saliency"].explain(network), weight.abs().expand(3, 1, 4, 4))


def test_box_counts_from_the_bounds(linear: tuple[Subject, Tensor]) -> None:
    network, weight = linear
    share = network.inputs[0] * weight - weight.clamp(min=0) * -1.0 - weight.clamp(max=0) * 1.0
    output = (network.inputs[0] * weight).flatten(1).sum(1)
    expected = share * (output / share.flatten(1).sum(1)).view(3, 1, 1, 1)
    torch.testing.assert_close(BY_NAME["epsilon_gamma_box"].explain(network), expected, rtol=1e-3, atol=1e-4)


def test_gamma_of_a_candidate_reaches_convolutions() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 1, 2, bias=False)
    x = torch.rand(1, 1, 2, 2)
    contributions = x * convolution.weight.detach()
    output = contributions.sum()
    sign = contributions if output > 0 else -contributions
    weighted = contributions + 0.5 * torch.where(sign > 0, contributions, 0.0)
    network = subject(networks.OnFlat(nn.Identity(), convolution), x)
    torch.testing.assert_close(
        BY_NAME["gamma 0.5"].explain(network), weighted * output / weighted.sum(), rtol=1e-4, atol=1e-5
    )


def test_relative_epsilon_of_a_candidate_absorbs_its_share() -> None:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    relevance = BY_NAME["relative 0.1"].explain(subject(networks.OnFlat(layer), torch.tensor([[[[3.0, 1.0]]]])))
    output, other = 4.0, 2.0
    stabilizer = 0.1 * ((output**2 + other**2) / 2) ** 0.5
    expected = torch.tensor([[[[3.0, 1.0]]]]) * output / (output + stabilizer)
    torch.testing.assert_close(relevance, expected)


def test_sobel_finds_edges_and_nothing_else() -> None:
    image = torch.zeros(1, 3, 6, 6)
    image[..., 3:] = 1.0
    edges = BY_NAME["Sobel"].explain(subject(nn.Identity(), image))[0, 0]
    assert torch.equal(edges > 0, torch.tensor([False, False, True, True, False, False]).expand(6, 6))
    assert edges[edges > 0].tolist() == [4.0] * 12
    with pytest.raises(NotApplicable, match="only images"):
        BY_NAME["Sobel"].explain(subject(nn.Identity(), torch.rand(1, 4, 2), "tokens"))


def test_random_is_not_the_same_for_every_seed() -> None:
    first = subject(nn.Identity(), torch.rand(2, 1, 3, 3))
    found = BY_NAME["random"].explain(first)
    assert found.shape == (2, 1, 3, 3) and torch.equal(found, BY_NAME["random"].explain(first))


def test_every_preset_and_candidate_is_a_method_under_a_name_of_its_own() -> None:
    names = [method.name for method in METHODS]
    assert len(names) == len(set(names))
    assert {*PRESETS, *CANDIDATES} < set(names)
    assert {name for name in names if BY_NAME[name].is_gradient} == {*WEIGHTS, "saliency"}


def networks_of_every_problem() -> list[tuple[str, str]]:
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for name, problem in PROBLEMS.items():
        for network in problem.networks:
            found.setdefault((problem.kind, network), (name, network))
    return list(found.values())


@pytest.mark.parametrize(("name", "network"), networks_of_every_problem())
def test_networks_classify_their_inputs(name: str, network: str) -> None:
    problem = PROBLEMS[name]
    samples = problem.make(4, seeded())
    built = networks.build(network, problem, samples.inputs).eval()
    output = built(*networks.inputs_of(built, samples.inputs))
    assert output.shape == (4, problem.classes)
    explained, inputs = networks.explained(built, samples.inputs)
    assert inputs[0].is_floating_point()
    torch.testing.assert_close(explained(*inputs), output)


def test_both_graph_networks_collect_the_same_messages() -> None:
    samples = PROBLEMS["centre"].make(5, seeded())
    dense = networks.build("dense_graph", PROBLEMS["centre"], samples.inputs).eval()
    index = networks.build("index_graph", PROBLEMS["centre"], samples.inputs).eval()
    index.load_state_dict(dense.state_dict())
    features, edges = samples.inputs
    matrix = networks.adjacency(edges)
    assert torch.equal(matrix, matrix.transpose(1, 2)) and matrix.sum() == edges.shape[0] * edges.shape[1]
    torch.testing.assert_close(index(features, edges), dense(features, matrix))


def test_training_ends_when_the_network_is_good() -> None:
    x = torch.randn(200, 4, generator=seeded())
    samples = Samples((x,), (x[:, 0] > 0).long(), x > 9)
    torch.manual_seed(0)
    network = nn.Linear(4, 2)
    assert training.train(network, samples, samples, 400, 0.9, seeded()) < 400
    assert training.right(network, samples).double().mean() >= 0.9
    assert not network.training
    assert training.train(nn.Linear(4, 2), samples, samples, 7, 2.0, seeded()) == 7


def test_a_trained_network_is_kept_and_read_again(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    cell, plan = Cell("keyword", "textcnn", 3), Plan(samples=60, validation=20, tested=20, steps=3)
    data = PROBLEMS["keyword"].make(40, seeded())
    network, steps = measure.trained(cell, plan, PROBLEMS["keyword"], data, folder)
    again, steps_again = measure.trained(cell, plan, PROBLEMS["keyword"], data, folder)
    assert steps == steps_again == 3 and not again.training
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_a_network_that_is_not_right_is_not_explained(tmp_path: object) -> None:
    from pathlib import Path

    plan = Plan(samples=60, validation=20, tested=20, steps=1, threshold=1.01)
    record = measure.measure(Cell("keyword", "textcnn", 3), plan, Path(str(tmp_path)))
    assert "methods" not in record and record["accuracy"] <= 1


def test_what_is_compiled_once_explains_other_weights() -> None:
    torch.manual_seed(0)
    first = networks.OnFlat(networks.dense(9, 5, classes=2)).eval()
    second = copy.deepcopy(first)
    for parameter in second.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 1, 3, 3)
    shared = [Subject(net, (x,), torch.ones(3).long(), "image", "test shared") for net in (first, second)]
    alone = Subject(second, (x,), torch.ones(3).long(), "image", "test alone")
    results = [BY_NAME["epsilon"].explain(each) for each in (*shared, alone)]
    torch.testing.assert_close(results[1], results[2])
    assert not torch.allclose(results[0], results[1])
