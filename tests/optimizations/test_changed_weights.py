"""Weights that change between calls, in every way that torch knows, are followed by optimized programs."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import rules
from optimization_checks import TOLERANCE, as_it_is, in_place, model_of, stale
from optimization_nets import PRESETS, initialised
from oracles import assert_relevance, random

X, Y = random(3, 6, seed=3), random(3, 6, seed=4)


def step(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    F.cross_entropy(model(zoo.images(4, 8, seed=5)), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    model.zero_grad()


def fused_step(model: Any) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3, fused=True)
    model(zoo.images(4, 8, seed=5)).square().sum().backward()
    optimizer.step()
    model.zero_grad()


def other_state(model: Any) -> dict[str, Tensor]:
    return {name: value * 1.5 if value.is_floating_point() else value for name, value in model.state_dict().items()}


def load(model: Any) -> None:
    model.load_state_dict(other_state(model))


def load_and_assign(model: Any) -> None:
    model.load_state_dict(other_state(model), assign=True)


@torch.no_grad()
def one_element(model: Any) -> None:
    model.twin.weight[3, 2, 1, 0] += 3.0


@torch.inference_mode()
def in_place_in_inference_mode(model: Any) -> None:
    model.conv.weight.mul_(-1)


@torch.no_grad()
def through_a_view(model: Any) -> None:
    model.conv.weight.flatten(1)[2:4].neg_()


def through_data(model: Any) -> None:
    model.conv.weight.data.mul_(-1)


def through_data_of_a_buffer(model: Any) -> None:
    model.norm.running_mean.data.add_(0.5)


def through_data_of_one_filter(model: Any) -> None:
    """As pruning does."""
    model.conv.weight.data[4].zero_()


def through_data_of_one_element(model: Any) -> None:
    model.conv.weight.data[1, 2, 1, 1] += 3.0


def through_numpy(model: Any) -> None:
    model.left.detach().numpy()[...] *= -1


def assigned_data(model: Any) -> None:
    model.conv.weight.data = -model.conv.weight.data


def transposed_data(model: Any) -> None:
    """Other values in the same memory."""
    model.conv.weight.data = model.conv.weight.data.transpose(0, 1)


def shortened_data(model: Any) -> None:
    """A part of the same memory, which begins where the whole does."""
    model.left.data, model.right.data = model.left.data[:, :1], model.right.data[:1]


def swapped_data(model: Any) -> None:
    left, right = model.left.data, model.right.data
    model.left.data, model.right.data = right.T.contiguous(), left.T.contiguous()


def replaced_parameter(model: Any) -> None:
    model.conv.weight = nn.Parameter(-model.conv.weight.detach())


def untied(model: Any) -> None:
    model.twin.weight = nn.Parameter(model.twin.weight.detach().clone())
    with torch.no_grad():
        model.conv.weight.mul_(-1)


def tied_anew(model: Any) -> None:
    model.stem.bias = model.twin.bias


def replaced_module(model: Any) -> None:
    model.conv = copy.deepcopy(model.conv)
    with torch.no_grad():
        model.conv.weight.mul_(-1)


def replaced_buffer(model: Any) -> None:
    model.norm.running_var = 3 * model.norm.running_var


@torch.no_grad()
def running_statistics(model: Any) -> None:
    model.norm.running_var.mul_(3)
    model.norm.running_mean.add_(0.5)


@torch.no_grad()
def a_pass_in_training_mode(model: Any) -> None:
    """BatchNorm's kernel writes its statistics without saying so."""
    model.norm.train()
    model(3 * zoo.images(4, 8, seed=5) + 1)
    model.eval()


def single_precision_and_back(model: Any) -> None:
    model.float().double()
    model.left.data.neg_()


def made_in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        model.conv.weight = nn.Parameter(-model.conv.weight)


def data_made_in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        data = -model.conv.weight
    model.conv.weight.data = data


def vector_to_parameters(model: Any) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(0.7 * vector - 0.1, model.parameters())


def swapped_tensors(model: Any) -> None:
    torch.utils.swap_tensors(model.twin.bias, nn.Parameter(1 - model.twin.bias.detach()))


CHANGES = (
    *(step, fused_step, load, load_and_assign, in_place, one_element, in_place_in_inference_mode, through_a_view),
    *(through_data, through_data_of_a_buffer, through_data_of_one_filter, through_data_of_one_element, through_numpy),
    *(
        assigned_data,
        transposed_data,
        shortened_data,
        swapped_data,
        replaced_parameter,
        untied,
        tied_anew,
        replaced_module,
    ),
    *(replaced_buffer, running_statistics, a_pass_in_training_mode, single_precision_and_back),
    *(made_in_inference_mode, data_made_in_inference_mode, vector_to_parameters, swapped_tensors),
)
STALE_PRESETS = ("epsilon_gamma_box", "epsilon_alpha2_beta1_flat")


def as_compiled_now(model: nn.Module, preset: Any, x: Tensor) -> Tensor:
    """What an explainer says that knows nothing of earlier: of a copy, without optimizations."""
    relevance = fxlrp.compile(copy.deepcopy(model), preset, optimize=False)(x)
    assert isinstance(relevance, Tensor)
    return relevance


@pytest.mark.slow
@pytest.mark.parametrize("preset", STALE_PRESETS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_the_weights_is_followed(change: Callable[[Any], None], preset: str) -> None:
    """At the next call, twice over, also of an explainer that was compiled but not asked before."""
    model, x = stale()
    asked, unasked = (fxlrp.compile(model, PRESETS[preset]) for _ in range(2))
    before = asked(x)
    for _ in range(2):
        change(model)
        expected = as_compiled_now(model, PRESETS[preset], x)
        assert (expected - before).abs().max() > 1e-3 * before.abs().max()
        for explain in (asked, unasked, asked):
            assert_relevance(explain(x), expected, 1e-12)
        before = expected
        if change in (untied, tied_anew, through_data_of_one_filter, shortened_data):
            break


def zeroed(data: Tensor) -> None:
    """As pruning does."""
    data.zero_()


def negated(data: Tensor) -> None:
    """One bit changes of each element."""
    data.neg_()


def with_two_channels_swapped(data: Tensor) -> None:
    """The same values in other places."""
    data[[2, 5]] = data[[5, 2]]


def with_two_elements_swapped(data: Tensor) -> None:
    data[7, 1, 1:] = data[7, 1, 1:].flip(0)


def with_one_element_negated(data: Tensor) -> None:
    data[3, 1, 1] *= -1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "change",
    [zeroed, negated, with_two_channels_swapped, with_two_elements_swapped, with_one_element_negated],
    ids=lambda change: change.__name__,
)
def test_a_change_of_any_filter_is_followed(change: Callable[[Tensor], None], dtype: torch.dtype) -> None:
    """Through `.data`, which PyTorch does not count, one filter after the other of a layer of common size."""
    model = initialised(nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.Flatten(1))).to(dtype)
    x = zoo.images(1, 6).to(dtype)
    explain, plain = (fxlrp.compile(model, "epsilon_plus", optimize=each) for each in (True, False))
    before = explain(x, seed=torch.ones_like)
    changed: Any = model.get_submodule("2")
    for index in range(64):
        change(changed.weight.data[index])
        expected = plain(x, seed=torch.ones_like)
        assert_relevance(explain(x, seed=torch.ones_like), expected, TOLERANCE[dtype])
    assert (expected - before).abs().max() > 2e-5 * before.abs().max()


def test_a_change_of_a_parameter_that_is_a_part_of_another_tensor() -> None:
    """Its elements do not lie side by side, and there are fewer of them than the memory that they span."""
    rows = random(12, 6, seed=1)
    model: Any = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).double().eval()
    for part in (rows[::2], rows.T[:, 3:9], rows[:1].expand(6, 6), rows[3:9].T):
        model[0].weight = nn.Parameter(part)
        explain, plain = (fxlrp.compile(model, [("linear", rules.ZPlus())], optimize=each) for each in (True, False))
        explain(X)
        for index in range(12):
            rows.data[index].mul_(-1.5)
            assert_relevance(explain(X), plain(X))


@pytest.mark.parametrize(
    "change", [in_place, through_data, assigned_data, replaced_parameter], ids=lambda c: c.__name__
)
def test_a_change_between_calls_of_two_threads(change: Callable[[Any], None]) -> None:
    model, x = stale()
    explain = fxlrp.compile(model)
    barrier = threading.Barrier(2, timeout=60)

    def ask(_: int) -> Tensor:
        barrier.wait()
        relevance = explain(x)
        assert isinstance(relevance, Tensor)
        return relevance

    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            expected = as_compiled_now(model, None, x)
            for relevance in pool.map(ask, range(2)):
                assert_relevance(relevance, expected, 1e-12)
            pool.submit(change, model).result()


def test_a_change_while_another_thread_explains() -> None:
    """Whatever that call saw, the next one sees the change."""
    model, x = stale()
    explain = fxlrp.compile(model)
    for _ in range(10):
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(explain, x)
            in_place(model)
            asked.result()
        assert_relevance(explain(x), as_compiled_now(model, None, x), 1e-12)


def test_two_explainers_of_one_model() -> None:
    model, x = stale()
    explainers = {name: fxlrp.compile(model, PRESETS[name]) for name in STALE_PRESETS}
    for change in (as_it_is, in_place, replaced_parameter, through_data):
        change(model)
        for name in (*STALE_PRESETS, *STALE_PRESETS):
            assert_relevance(explainers[name](x), as_compiled_now(model, PRESETS[name], x), 1e-12)


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not_asked"])
@pytest.mark.parametrize(
    "change",
    [in_place, load, load_and_assign, through_data, replaced_parameter, replaced_buffer],
    ids=lambda c: c.__name__,
)
def test_a_copy_of_an_explainer_has_weights_of_its_own(change: Callable[[Any], None], asked: bool) -> None:
    model, x = stale()
    explain = fxlrp.compile(model)
    before = explain(x) if asked else as_compiled_now(model, None, x)
    twin = copy.deepcopy(explain)
    change(model_of(twin))
    changed = as_compiled_now(model_of(twin), None, x)
    assert (changed - before).abs().max() > 1e-3 * before.abs().max()
    assert_relevance(twin(x), changed, 1e-12)
    assert_relevance(explain(x), before, 1e-12)
    # And the other way round.
    through_data(model)
    assert_relevance(explain(x), as_compiled_now(model, None, x), 1e-12)
    assert_relevance(twin(x), changed, 1e-12)
    twin.float()
    assert_relevance(twin(x.float()), changed.float(), 1e-4)
    assert_relevance(explain(x), as_compiled_now(model, None, x), 1e-12)


def test_in_and_out_of_inference_mode() -> None:
    model, x = stale()
    explain = fxlrp.compile(model)
    for inside in (True, False, True, True, False):
        expected = as_compiled_now(model, None, x)
        with torch.inference_mode(inside):
            assert_relevance(explain(x).clone(), expected, 1e-12)
        in_place(model)
    # Compiled and first asked inside, with an input made there.
    with torch.inference_mode():
        explain = fxlrp.compile(model)
        made_inside = x.clone()
        inside = explain(made_inside)
    expected = as_compiled_now(model, None, x)
    assert_relevance(inside.clone(), expected, 1e-12)
    assert_relevance(explain(x.clone().requires_grad_()), expected, 1e-12)
    assert_relevance(explain(made_inside), expected, 1e-12)


@pytest.mark.cuda
def test_changes_on_a_device() -> None:
    model, x = stale()
    model, x = model.cuda(), x.cuda()
    explain = fxlrp.compile(model)
    for change in (in_place, through_data, assigned_data, replaced_parameter, load, load_and_assign):
        explain(x)
        change(model)
        assert_relevance(explain(x), as_compiled_now(model, None, x), 1e-12)
    model.cpu()
    assert_relevance(explain(x.cpu()), as_compiled_now(model, None, x.cpu()), 1e-12)


@pytest.mark.cuda
def test_a_captured_cuda_graph_follows_the_weights() -> None:
    model, x = stale()
    model, x = model.cuda(), x.cuda()
    explain = fxlrp.compile(model)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            explain(x, seed=torch.ones_like)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = explain(x, seed=torch.ones_like)
    for _ in range(2):
        graph.replay()
        expected = fxlrp.compile(model, optimize=False)(x, seed=torch.ones_like)
        assert_relevance(captured, expected, 1e-9)
        in_place(model)
