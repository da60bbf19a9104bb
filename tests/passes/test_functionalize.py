"""functionalize: changes in place become ordinary calls, or are refused."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fxlrp
import fxlrp.passes
import zoo
from fxlrp.errors import CaptureError, UnsupportedOpError
from fxlrp.passes.base import run_passes
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.normalize import normalize
from fxlrp.passes.remove_dead_code import remove_dead_code
from oracles import One, assert_relevance, random
from pass_programs import program_after, program_of, value


class InPlace(TorchDispatchMode):
    """Counts the kernels that write into their arguments while a model runs."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.is_mutable
        return func(*args, **(kwargs or {}))


def in_place_kernels(model: nn.Module, *inputs: Tensor) -> int:
    with InPlace() as mode, torch.no_grad():
        model(*inputs)
    return mode.count


def linear(x: Tensor) -> Tensor:
    return F.linear(x, WEIGHT)


WEIGHT = random(6, 6, seed=3)
X = random(2, 6, seed=4)


def add_(x: Tensor) -> Tensor:
    h = linear(x)
    early = h.sigmoid()
    h.add_(1)
    return h * early + h


def relu_used_later(x: Tensor) -> Tensor:
    h = linear(x)
    y = torch.relu_(h)
    return h - 2 * y


def relu_module_used_later(x: Tensor) -> Tensor:
    h = linear(x)
    F.relu(h, inplace=True)
    return h.flatten(1)


def relu_keyword(x: Tensor) -> Tensor:
    h = linear(x)
    F.relu(input=h, inplace=True)
    return h + 1


def positional_inplace(x: Tensor) -> Tensor:
    h = linear(x)
    F.leaky_relu(h, 0.1, True)
    return h


def chained(x: Tensor) -> Tensor:
    h = linear(x)
    h.add_(1).relu_().mul_(2)
    return h


def twice(x: Tensor) -> Tensor:
    h = linear(x)
    h += 1
    g = h
    g *= 2
    g.relu_()
    return h + x


def through_a_view(x: Tensor) -> Tensor:
    h = linear(x).view(-1, 2, 3)
    h.relu_()
    return h.flatten(1)


def argument_twice(x: Tensor) -> Tensor:
    h = linear(x)
    h.add_(h)
    return torch.cat([h, h], 1)


def inside_a_list(x: Tensor) -> Tensor:
    h, g = linear(x), x + 1
    h.relu_()
    g.neg_()
    return torch.cat([h, g], dim=1) + torch.stack((g, h)).sum(0).repeat(1, 2)


def by_operator(x: Tensor) -> Tensor:
    h = linear(x)
    operator.iadd(h, x)
    operator.isub(h, 1)
    operator.itruediv(h, 2)
    return h


def dead_in_place_calls(x: Tensor) -> Tensor:
    h = linear(x)
    h.clamp_(min=0)
    torch.relu_(h)
    F.hardtanh_(h)
    return h


def item_assignment(x: Tensor) -> Tensor:
    h = linear(x)
    h[:, 1] = 0
    h[:, 2:4] = x[:, :2]
    return h


def the_input_itself(x: Tensor) -> Tensor:
    x += 1
    x.relu_()
    return linear(x)


IN_PLACE: dict[Callable[[Tensor], Tensor], int] = {
    add_: 1,
    relu_used_later: 1,
    relu_module_used_later: 1,
    relu_keyword: 1,
    positional_inplace: 1,
    chained: 3,
    twice: 3,
    through_a_view: 1,
    argument_twice: 1,
    inside_a_list: 2,
    by_operator: 3,
    dead_in_place_calls: 3,
    item_assignment: 2,
    the_input_itself: 2,
}


@pytest.mark.parametrize("function", IN_PLACE, ids=lambda f: f.__name__)
def test_functionalize(function: Callable[[Tensor], Tensor]) -> None:
    """Later uses read the change, earlier ones do not, and dead-code removal loses none."""
    program = program_of(function)
    assert functionalize(program) == IN_PLACE[function]
    x = X.clone()
    expected = function(x.clone())
    assert_relevance(value(program, x), expected, 1e-13)
    # Only the out-of-place meaning is left: nothing is written, and unused calls may go.
    normalize(program)
    remove_dead_code(program)
    program.graph_module.recompile()
    assert in_place_kernels(program.graph_module, x) in (0, 2 * (function is item_assignment))
    assert torch.equal(x, X)
    assert_relevance(value(program, x), expected, 1e-13)


def test_functionalize_with_uses_before_and_after() -> None:
    program = program_of(add_)
    functionalize(program)
    (added,) = (node for node in program.graph.nodes if "add_" in str(node.target))
    (sigmoid,) = (node for node in program.graph.nodes if "sigmoid" in str(node.target))
    assert [node.name for node in sigmoid.all_input_nodes] == ["linear"]
    assert {user.target for user in added.users} == {operator.mul, operator.add}


def view_with_base_used_later(x: Tensor) -> Tensor:
    base = linear(x)
    view = base.view(-1, 2, 3)
    view.relu_()
    return base


def base_with_view_used_later(x: Tensor) -> Tensor:
    base = linear(x)
    view = base[:, :3]
    base.relu_()
    return view


def view_of_a_view(x: Tensor) -> Tensor:
    base = linear(x)
    base.view(-1, 2, 3).transpose(1, 2).relu_()
    return base


def sibling_views(x: Tensor) -> Tensor:
    left, right = linear(x).view(-1, 2, 3), linear(x)
    other = right.unsqueeze(0)
    right.unsqueeze(1).relu_()
    return left.flatten(1) + other.squeeze(0)


def part_of_a_chunk(x: Tensor) -> Tensor:
    base = linear(x)
    base.chunk(2, 1)[0].relu_()
    return base


def detached(x: Tensor) -> Tensor:
    base = linear(x)
    base.detach().relu_()
    return base


def view_by_keyword(x: Tensor) -> Tensor:
    base = linear(x)
    torch.flatten(input=base, start_dim=1).relu_()
    return base


def view_as(x: Tensor) -> Tensor:
    base = linear(x)
    base.view_as(x).relu_()
    return base


def matrix_transpose(x: Tensor) -> Tensor:
    base = linear(x)
    base.t().relu_()
    return base


def transpose_attribute(x: Tensor) -> Tensor:
    base = linear(x)
    base.mT.relu_()
    return base


def data_attribute(x: Tensor) -> Tensor:
    base = linear(x)
    base.data.relu_()
    return base


def diagonal(x: Tensor) -> Tensor:
    base = linear(x)
    base.diagonal().zero_()
    return base


def unfolded(x: Tensor) -> Tensor:
    base = linear(x)
    base.unfold(1, 2, 2).relu_()
    return base


def swapped(x: Tensor) -> Tensor:
    base = linear(x)
    base.swapaxes(0, 1).relu_()
    return base


def assigned_through_a_view(x: Tensor) -> Tensor:
    base = linear(x)
    base[0][:, None][1] = 0
    return base


@pytest.mark.parametrize(
    "function",
    [
        view_with_base_used_later,
        base_with_view_used_later,
        view_of_a_view,
        sibling_views,
        part_of_a_chunk,
        detached,
        view_by_keyword,
        view_as,
        matrix_transpose,
        transpose_attribute,
        data_attribute,
        diagonal,
        unfolded,
        swapped,
        assigned_through_a_view,
    ],
    ids=lambda f: f.__name__,
)
def test_functionalize_refuses_a_change_that_reaches_another_value(function: Callable[[Tensor], Tensor]) -> None:
    """Memory that two values share: refused, with the names of both and the line; or followed, but never lost."""
    program = program_of(function)
    try:
        functionalize(program)
    except CaptureError as error:
        assert "in-place" in str(error) and "test_functionalize.py" in str(error)
        assert sum(f"{node.name!r}" in str(error) for node in program.graph.nodes) >= 2, error
        return
    run_passes(program, (normalize, remove_dead_code))
    assert_relevance(value(program, X), function(X.clone()), 1e-13)


def expanded(x: Tensor) -> Tensor:
    y = x.unsqueeze(-1).expand(-1, -1, 3)
    y[..., 0] = 0.0
    return y * 2


def windows(x: Tensor) -> Tensor:
    y = x.unfold(1, 2, 1)
    y[..., 0] *= 3.0
    return y.flatten(1)


def meshed(x: Tensor) -> Tensor:
    first, _ = torch.meshgrid(x[0] * 1.0, torch.arange(3.0, dtype=x.dtype), indexing="ij")
    first[:, 0] += 1.0
    return first


@pytest.mark.parametrize("function", [expanded, windows, meshed])
def test_functionalize_refuses_a_change_of_elements_that_share_memory(function: Callable[[Tensor], Tensor]) -> None:
    """All of them change, which a copy would not show."""
    with pytest.raises(CaptureError, match="share memory with each other"):
        functionalize(program_of(function))


def doubled_windows(x: Tensor) -> Tensor:
    y = x.unfold(1, 3, 1)
    return y.add_(y).flatten(1)


@pytest.mark.parametrize("function", [expanded, meshed, doubled_windows])
def test_export_refuses_a_change_of_elements_that_share_memory(function: Callable[[Tensor], Tensor]) -> None:
    model, x = One(lambda x: function(x * 1.0)).eval(), random(2, 4)
    with pytest.raises(CaptureError, match=r"share memory with each other|may share"):
        fxlrp.compile(model, "epsilon", example_inputs=x, capture="export")


def test_what_is_expanded_to_its_own_size_may_change_under_export() -> None:
    def function(x: Tensor) -> Tensor:
        y = (x * 1.0).unsqueeze(-1).expand(-1, -1, 1)
        y[:, 0] = 0.0
        return y

    x, seed = random(2, 4), random(2, 4, 1, seed=1)
    explain = fxlrp.compile(One(function).eval(), "epsilon", example_inputs=x)
    assert_relevance(explain(x, seed=seed), seed[..., 0] * torch.tensor([0.0, 1.0, 1.0, 1.0]))


def test_a_copy_of_an_expanded_value_may_change() -> None:
    def copied(x: Tensor) -> Tensor:
        y = x.unsqueeze(-1).expand(-1, -1, 3).clone()
        y[..., 0] = 0.0
        return y

    x, seed = random(2, 4), random(2, 4, 3, seed=1)
    expected = (seed * torch.tensor([0.0, 1.0, 1.0])).sum(-1)
    captures: tuple[Any, ...] = ("symbolic", "export")
    for capture in captures:
        explain = fxlrp.compile(One(copied).eval(), "epsilon", example_inputs=x, capture=capture)
        assert_relevance(explain(x, seed=seed), expected)


def test_functionalize_names_what_it_refuses() -> None:
    program = program_of(view_with_base_used_later)
    with pytest.raises(CaptureError, match=r"'linear'.*'output'.*'relu_'.*test_functionalize.py.*view\.relu_\(\)"):
        functionalize(program)


class ChangesItsWeight(nn.Module):
    seen: Tensor

    def __init__(self, change: Callable[[nn.Module], None]) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(6, 6))
        self.register_buffer("seen", torch.zeros(6, dtype=torch.float64))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        self.change(self)
        return F.linear(x, self.weight) + self.seen


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.weight.mul_(2),
        lambda m: operator.iadd(m.seen, 1),
        lambda m: m.seen.add_(1),
        lambda m: m.weight.view(-1).relu_(),
        lambda m: m.weight.t().mul_(2),
        lambda m: m.weight[0].zero_(),
        lambda m: m.weight.data.mul_(2),
        lambda m: F.relu(m.weight, inplace=True),
    ],
    ids=["mul_", "iadd", "buffer", "view", "t", "row", "data", "inplace"],
)
def test_functionalize_refuses_a_change_of_a_parameter(change: Callable[[nn.Module], Any]) -> None:
    model = ChangesItsWeight(change).eval()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(CaptureError, match=r"parameter or buffer in place.*test_functionalize.py"):
        program = program_of(model)
        functionalize(program)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def ipow(x: Tensor) -> Tensor:
    h = linear(x)
    alias = h
    alias **= 2
    return h


def ifloordiv(x: Tensor) -> Tensor:
    h = linear(x)
    alias = h
    alias //= 2
    return h


def exp_(x: Tensor) -> Tensor:
    h = linear(x)
    h.exp_()
    return h


def out_argument(x: Tensor) -> Tensor:
    h = linear(x)
    torch.mul(h, 2, out=h)
    return h


def copy_(x: Tensor) -> Tensor:
    h = linear(x)
    h.copy_(x.sigmoid())
    return h


@pytest.mark.parametrize("function", [ipow, ifloordiv, exp_, out_argument, copy_], ids=lambda f: f.__name__)
def test_in_place_operations_without_a_rule_are_not_lost(function: Callable[[Tensor], Tensor]) -> None:
    """No rule knows these, so the answer is an error that names the line, never a graph without them."""
    try:
        fxlrp.compile(One(function).eval(), capture="symbolic")
    except (CaptureError, UnsupportedOpError) as error:
        assert "test_functionalize.py" in str(error)
    else:
        program = program_after((functionalize, normalize, remove_dead_code), function)
        assert_relevance(value(program, X), function(X.clone()), 1e-13)


def test_a_size_that_is_counted_up_is_no_change_of_a_tensor() -> None:
    def function(x: Tensor) -> Tensor:
        width = x.shape[1]
        width += 6
        width //= 2
        return linear(x).reshape(-1, width)

    program = program_of(function)
    assert functionalize(program) == 0
    assert_relevance(value(program, X), function(X), 1e-13)


@pytest.mark.parametrize(
    ("name", "count"),
    [("alexnet", 7), ("resnet18", 25), ("squeezenet1_1", 26), ("densenet121", 121), ("shufflenet_v2_x0_5", 37)],
)
def test_functionalize_counts(name: str, count: int) -> None:
    """As many as the model runs in-place kernels; in resnet18 17 ReLUs and 8 `+=`."""
    model = zoo.build(name)
    assert in_place_kernels(model, zoo.model_images(name, 1)) == count
    assert functionalize(program_of(model)) == count


def test_functionalize_counts_in_place_dropout_too() -> None:
    """MobileNetV3 has 30 kernels in place, and one dropout that would be in training mode."""
    model = zoo.build("mobilenet_v3_small")
    assert in_place_kernels(model, zoo.images(1, 32)) == 30
    assert sum(isinstance(module, nn.Dropout) and module.inplace for module in model.modules()) == 1
    assert functionalize(program_of(model)) == 31
