"""reuse_memory: what nothing reads any more is written over, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fxlrp
import zoo
from fxlrp import Optimizations, rules
from fxlrp.relevance.quotients import rescale_positive_in_two_
from helpers import as_tuple, module_calls, modules_of
from optimization_checks import (
    CHAINS,
    CONFIGURATIONS,
    BasicBlock,
    Fire,
    alone,
    assert_same,
    calibrated,
    chain,
    counts,
    kernels,
    small_net,
    untrained,
)
from optimization_nets import PRESETS, mixed
from oracles import One, assert_relevance, random

WEIGHT, OTHER = random(6, 6, seed=1), random(6, 6, seed=2)
X, Y = random(3, 6, seed=3), random(3, 6, seed=4)


@pytest.mark.parametrize(
    ("name", "count", "shares"),
    [("vgg16", 15 + 1, 15), ("resnet18", 17 + 8 + 1, 17), ("squeezenet1_0", 26 + 8 + 1, 8 + 2)],
)
def test_reuse_memory_counts(name: str, count: int, shares: int) -> None:
    """Every ReLU, the sum of what two branches hand to the value that both read, and the input's relevance.

    Also the division by the output of every layer before a ReLU, unless its relevance is a part of that of a cat, as in
    squeezenet but for the first and the last convolution and those that squeeze.
    """
    model = untrained(name)
    assert module_calls(model, nn.ReLU) + modules_of(model, BasicBlock, Fire) + 1 == count
    assert counts(model, "epsilon")["reuse_memory"] == count + shares


def test_reuse_memory_runs_every_relu_in_place() -> None:
    model, x = calibrated("resnet18", torch.float32, 64)
    with_reuse, without = (
        kernels(fxlrp.compile(model, "epsilon", optimize=Optimizations(reuse_memory=reuse)), x).count
        for reuse in (True, False)
    )
    # Steps also write into their own memory; of these, some add the stabilizer to a value that is not read again.
    called = [node.target for node in fxlrp.compile(model, "epsilon").graph_module.graph.nodes]
    stabilized = called.count(rescale_positive_in_two_)
    expected = {"relu_": 17, "add_": 8 + stabilized}
    assert stabilized and {name: with_reuse[name] - without[name] for name in expected} == expected


def test_reuse_memory_spares_what_is_read_later() -> None:
    def function(x: Tensor) -> Tensor:
        a = F.linear(x, WEIGHT)
        b = F.linear(F.relu(a) - a, OTHER)
        flat = F.linear(x, OTHER).flatten(1)
        return b + F.relu(flat)

    in_place = fxlrp.compile(One(function).eval(), "epsilon", optimize=alone("reuse_memory")).graph_module
    assert not [node for node in in_place.graph.nodes if node.target is torch.relu_]
    assert_same(One(function).eval(), "epsilon", X, configurations=list(CONFIGURATIONS), seed=torch.ones_like)


@pytest.mark.parametrize(
    ("view", "back"),
    [
        (lambda a: a.t(), lambda v: v.t()),
        (lambda a: a.transpose(0, 1), lambda v: v.transpose(0, 1)),
        (lambda a: a.permute(1, 0), lambda v: v.permute(1, 0)),
        (lambda a: a.movedim(0, 1), lambda v: v.movedim(0, 1)),
        (lambda a: a[:, 2:], lambda v: F.pad(v, (0, 2))),
        (lambda a: a.unsqueeze(0), lambda v: v.squeeze(0)),
        (lambda a: a.chunk(2, 1)[0], lambda v: torch.cat([v, v], 1)),
        (lambda a: a.reshape(-1), lambda v: v.reshape(-1, 6)),
        (lambda a: a.unbind(0)[1], lambda v: v.unsqueeze(0)),
        (lambda a: a.expand(2, -1, -1), lambda v: v.sum(0)),
    ],
    ids="t transpose permute movedim getitem unsqueeze chunk reshape unbind expand".split(),
)
def test_reuse_memory_spares_what_a_view_shows(view: Callable[..., Tensor], back: Callable[..., Tensor]) -> None:
    """A view that was taken before its value could be overwritten, and is read behind that."""

    def function(x: Tensor) -> Tensor:
        a = F.linear(x, WEIGHT)
        seen = view(a)
        return F.linear(F.relu(a), OTHER) + F.linear(back(seen), WEIGHT)

    for rule in (rules.ZPlus(), rules.Flat(), rules.Epsilon()):
        for name in ("all", "reuse_memory alone"):
            assert_same(One(function).eval(), [("linear", rule)], X, configurations=[name], seed=torch.ones_like)


class Writes(TorchDispatchMode):
    """Tells whether kernels write into memory that was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, Any] = {}
        self.into_own: list[str] = []
        self.into_others: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for position, parameter in enumerate(func._schema.arguments):
            value = args[position] if position < len(args) else kwargs.get(parameter.name)
            if parameter.alias_info is not None and parameter.alias_info.is_write and isinstance(value, Tensor):
                (self.into_own if storage(value) in self.made else self.into_others).append(str(func))
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and storage(tensor) not in given:
                self.made[storage(tensor)] = tensor  # held, so that its memory is not given to another
        return result


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(len(zoo.SMALL_NETS)), ids=list(zoo.SMALL_NETS))
def test_only_memory_of_the_calls_own_is_written(turn: int) -> None:
    """Not into inputs, parameters, buffers, kept constants, the seed, or what was returned before."""
    name = list(zoo.SMALL_NETS)[turn]
    model, inputs = small_net(name)
    for preset in (list(PRESETS.values())[turn % 8], mixed(model, turn, *inputs)):
        asked = fxlrp.compile(model, preset, example_inputs=inputs, checkpoint=turn % 3 == 0)
        with torch.no_grad():
            logits = model(*(x.clone() for x in inputs))
        held = [*inputs, *model.parameters(), *model.buffers(), logits]
        results: list[Tensor] = []
        for called_with in ({}, {"target": (1,) + (0,) * (logits.dim() - 2)}, {"seed": logits}, {"seed": lambda y: y}):
            kept = [tensor.detach().clone() for tensor in (*held, *results)]
            with Writes() as writes:
                relevance = as_tuple(asked(*inputs, **called_with))
            assert not writes.into_others
            assert all(torch.equal(now, then) for now, then in zip((*held, *results), kept, strict=True))
            results += relevance
    assert writes.into_own or name not in ("residual", "module_twice", "nested_skips")


def test_writes_are_seen() -> None:
    x = torch.zeros(3)
    with Writes() as writes:
        (x + 1).flatten().relu_()
        x.view(3, 1).add_(1)
    assert (writes.into_own, writes.into_others) == (["aten.relu_.default"], ["aten.add_.Tensor"])


def assert_the_callers_own(relevance: Tensor, *others: Tensor) -> None:
    """The result shares memory with nothing, and its elements do not share memory with each other."""
    assert storage(relevance) not in {storage(other) for other in others}
    kept = [other.detach().clone() for other in others]
    expected = relevance * 3
    relevance.mul_(3)
    assert torch.equal(relevance, expected)
    assert all(torch.equal(other, then) for other, then in zip(others, kept, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["residual", "concatenation", "pooling", "shapes", "one_dimensional", "two_inputs"])
def test_a_result_is_the_callers_own(name: str, preset: str) -> None:
    model, inputs = small_net(name)
    explain = fxlrp.compile(model, PRESETS[preset])
    seed = torch.ones(2, 5, dtype=torch.float64)
    earlier: list[Tensor] = []
    for _ in range(2):
        results = as_tuple(explain(*inputs, seed=seed))
        for relevance in results:
            assert_the_callers_own(relevance, *inputs, *model.parameters(), *model.buffers(), seed, *earlier)
        earlier += results
    for optimize in (False, True):
        answers = as_tuple(fxlrp.compile(model, PRESETS[preset], optimize=optimize)(*inputs, seed=seed))
        for relevance, asked_before in zip(answers, earlier[-len(answers) :], strict=True):
            assert_relevance(3 * relevance, asked_before)


@pytest.mark.parametrize("rule", [rules.Flat(), rules.WSquare(), rules.ZBox(-3.0, 3.0)], ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_the_result_of_a_first_layers_rule_is_the_callers_own(name: str, rule: rules.Rule) -> None:
    model, shape = chain(name)
    x = random(2, *shape)
    explain = fxlrp.compile(model, [(rules.FirstLayer(), rule)])
    assert_the_callers_own(explain(x, seed=torch.ones_like), x, *model.parameters())


@pytest.mark.parametrize(
    "function",
    [
        *(lambda x: x.squeeze(1), lambda x: x.flatten(1), lambda x: F.relu(x), lambda x: x.flip(1), lambda x: x * 2),
        *(lambda x: x.reshape(3), lambda x: x + x, lambda x: F.relu(x).squeeze(1), lambda x: x.expand(-1, 2)),
    ],
    ids="squeeze flatten relu flip times reshape twice relu_and_squeeze expand".split(),
)
def test_the_result_of_a_small_function_is_the_callers_own(function: Callable[[Tensor], Tensor]) -> None:
    """Also where nothing is computed on the way, and whatever the seed is."""
    x = random(3, 1)
    explain = fxlrp.compile(One(function).eval())
    output = function(x).clone()
    for seed in (None, output, lambda y: y, torch.ones_like):
        assert_the_callers_own(explain(x, seed=seed), x, output)
