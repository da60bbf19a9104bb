"""Values of which only the form is read are freed, and cheap ones are computed again from what is kept anyway."""

from __future__ import annotations

import weakref
from importlib import import_module
from inspect import isfunction
from pkgutil import iter_modules
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxlrp
from fxlrp import Optimizations, relevance
from fxlrp.relevance import element_relevance as element
from fxlrp.relevance import layouts, numerics, positions, products
from fxlrp.relevance.form import Form, form_of, forms_of
from fxlrp.relevance.initial_relevance import initial_relevance
from helpers import assert_close
from oracles import One, random
from pass_programs import EVERY, program_after

X = random(2, 5, 4, seed=1)
WIDE, NARROW = random(8, 4, seed=2), random(4, 8, seed=3)


def gated(x: Tensor) -> Tensor:
    return x + F.linear(F.silu(F.linear(x, WIDE)) * F.linear(x, WIDE + 1), NARROW)


def normalized(x: Tensor) -> Tensor:
    y = F.linear(x, NARROW @ WIDE)
    return F.linear(F.layer_norm(y, (4,)), WIDE) + F.linear(y, WIDE)


def nodes(function: Any, preset: str = "attnlrp", **optimizations: bool) -> list[str]:
    explain = fxlrp.compile(One(function).eval(), preset, optimize=Optimizations(**optimizations))
    return [node.name for node in explain.graph_module.graph.nodes]


@pytest.mark.parametrize("function", [gated, normalized])
def test_the_explanation_is_the_same(function: Any) -> None:
    plain = fxlrp.compile(One(function).eval(), "attnlrp", optimize=False)(X, target=(2, 1))
    for options in ({}, {"release_values": False}, {"recompute_values": False}, {"reuse_memory": False}):
        explain = fxlrp.compile(One(function).eval(), "attnlrp", optimize=Optimizations(**options))
        assert_close(explain(X, target=(2, 1)), plain)


def test_cheap_values_are_computed_again() -> None:
    assert "silu_again" in nodes(gated)
    assert "layer_norm_again" in nodes(normalized)
    assert not [name for name in nodes(gated, recompute_values=False) if name.endswith("_again")]


class Gated(nn.Module):
    """Attention with grouped heads, and a gated layer."""

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.linear(x, WIDE).unflatten(-1, (2, 4)).transpose(1, 2), F.linear(x, NARROW.T[:4]).unsqueeze(1)
        mixed = F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        y = F.linear(mixed, NARROW)
        gate = F.silu(F.linear(y, WIDE)).transpose(0, 1).transpose(0, 1)
        return y + F.linear(gate * F.linear(y, WIDE + 1), NARROW)


def test_no_step_reads_what_is_computed_again() -> None:
    """Neither its elements, nor those of a view, nor only the form."""
    written_out = Optimizations(fuse_attention=False)
    explain = fxlrp.compile(Gated().eval(), "attnlrp", example_inputs=X, optimize=written_out)
    found = {node.name: node for node in explain.graph_module.graph.nodes}
    order = {node: index for index, node in enumerate(found.values())}
    (start,) = (index for node, index in order.items() if node.target is initial_relevance)
    repeated = [name for name in found if name.endswith("_again")]
    assert any("silu" in name for name in repeated) and sum("repeat_heads" in name for name in repeated) == 2
    assert any("transpose" in name for name in repeated)
    for name in repeated:
        assert all(order[user] < start for user in found[name.removesuffix("_again")].users)
    plain = fxlrp.compile(Gated().eval(), "attnlrp", example_inputs=X, optimize=False)
    assert_close(explain(X, target=(2, 1)), plain(X, target=(2, 1)))


def test_the_last_step_of_a_product_writes_into_the_memory_of_what_it_receives() -> None:
    """Also where the other factor has more dimensions than the first, or another type."""
    called = [node.target for node in fxlrp.compile(One(gated).eval(), "attnlrp").graph_module.graph.nodes]
    assert called.count(products.product_factor) == called.count(products.product_factor_) == 1
    factor, other, operand = random(3, 5, 4, seed=1), random(5, 1, seed=2), random(5, 4, seed=3)
    for divided, dtype in ((False, torch.float64), (True, torch.float64), (False, torch.float32)):
        own, how = factor.to(dtype), dict[str, Any](share=0.5, divided=divided)
        expected = (0.5 * (own / other if divided else own * other)).sum(0)
        assert_close(products.product_factor(own, other, operand, **how), expected)
        assert_close(own, factor.to(dtype))
        assert_close(products.product_factor_(own, other, operand, **how), expected)


def test_values_are_kept_that_are_made_of_others() -> None:
    """The operand is not kept otherwise, so that computing the result again would keep another value instead."""

    def function(x: Tensor) -> Tensor:
        return F.linear(F.silu(x * 2.0), NARROW.T[:, :4])

    assert not [name for name in nodes(function, "epsilon_plus") if name.endswith("_again")]


@pytest.mark.parametrize("release", [True, False])
def test_products_are_freed_before_the_relevance_steps(release: bool) -> None:
    """The step of a sum reads only the form of its operands."""

    def function(x: Tensor) -> Tensor:
        return F.linear(x + F.linear(x, NARROW @ WIDE) * 2.0, WIDE)

    explain = fxlrp.compile(One(function).eval(), "attnlrp", optimize=Optimizations(release_values=release))
    watch = Watch(explain.graph_module)
    with torch.no_grad():
        watch.run(X, (2, 1), None)
    assert watch.is_alive is not release


class Watch(fx.Interpreter):
    """Runs a program, and records whether the product is alive when relevance starts."""

    product: weakref.ref[Tensor]
    is_alive: bool

    def run_node(self, n: fx.Node) -> Any:
        if n.target is initial_relevance:
            self.is_alive = self.product() is not None
        result = super().run_node(n)
        if n.name == "mul":
            self.product = weakref.ref(result)
        return result


INDEX = torch.tensor([[[1], [0], [1], [2], [2]]] * 2)
CHOSEN = random(2, 5, 4, seed=4) > 0
# Functions that read only the form of the value ``X``, each with its arguments.
READ_FORM: dict[Any, Any] = {
    numerics.unbroadcast: lambda x: (random(3, 2, 5, 4, seed=2), x),
    numerics.part: lambda x: (x, random(3, 2, 5, 4, seed=2)),
    products.product_factor: lambda x: (random(3, 2, 5, 4, seed=2), 2.0, x),
    element.reshape_relevance: lambda x: (x, random(40, seed=2)),
    element.expand_relevance: lambda x: (x, random(3, 2, 5, 4, seed=2)),
    element.repeat_relevance: lambda x: (x, random(3, 2, 10, 4, seed=2), (3, 1, 2, 1)),
    element.repeat_interleave_relevance: lambda x: (x, random(2, 10, 4, seed=2), 2, 1),
    element.repeat_heads_relevance: lambda x: (x, random(6, 5, 4, seed=2)),
    element.select_relevance: lambda x: (x, random(2, 4, seed=2), 1, 3),
    element.narrow_relevance: lambda x: (x, random(2, 2, 4, seed=2), 1, -3, 2),
    element.index_select_relevance: lambda x: (x, random(2, 3, 4, seed=2), 1, torch.tensor([0, 4, 4])),
    element.gather_relevance: lambda x: (x, random(2, 5, 1, seed=2), 2, INDEX),
    element.take_along_dim_relevance: lambda x: (x, random(2, 5, 1, seed=2), INDEX, 2),
    element.index_relevance: lambda x: (x, random(2, 2, 4, seed=2), (slice(None), [0, 0])),
    element.pad_relevance: lambda x: (x, random(2, 8, 4, seed=2), (0, 0, 1, 2), "reflect"),
    element.unfold_relevance: lambda x: (x, random(8, 12, seed=2), 2),
    element.windows_relevance: lambda x: (x, random(2, 2, 4, 3, seed=2), 1, 3, 2),
    element.diagonal_relevance: lambda x: (x, random(5, 2, seed=2), 1, 0, 2),
    element.sorted_relevance: lambda x: (x, (INDEX, INDEX), {0: random(2, 5, 1, seed=2)}, 2),
    element.to_relevance: lambda x: (x, random(2, 5, 4, seed=2).float()),
    element.masked_fill_relevance: lambda x: (x, random(3, 2, 5, 4, seed=2), CHOSEN),
    element.masked_select_relevance: lambda x: (x, random(int(CHOSEN.sum()), seed=2), CHOSEN),
    element.where_relevance: lambda x: (x, random(3, 2, 5, 4, seed=2), CHOSEN),
    element.cat_relevance: lambda x: (random(2, 5, 8, seed=2), (x, x), -1),
    element.stack_relevance: lambda x: (random(2, 5, 2, 4, seed=2), (x, x), 2),
    element.dimensionwise_relevance: lambda x: (random(4, 5, 4, seed=2), (x, x), 0),
    element.chunk_relevance: lambda x: (x, {1: random(2, 2, 4, seed=2)}, 3, 1),
    element.split_relevance: lambda x: (x, {-1: random(2, 4, 4, seed=2)}, [1, 4], 1),
    element.unbind_relevance: lambda x: (x, {0: random(2, 4, seed=2), 3: random(2, 4, seed=3)}, 1),
    positions.at_positions_relevance: lambda x: (x, random(2, 2, 4, seed=2), torch.tensor([[0, 4], [2, 1]])),
    layouts.from_local_relevance: None,
    layouts.redistribute_relevance: None,
    layouts.to_local_relevance: None,
}


def test_all_functions_that_read_a_form_are_known() -> None:
    """Those of values on several devices have tests of their own."""
    modules = (import_module(f"fxlrp.relevance.{each.name}") for each in iter_modules(relevance.__path__))
    functions = (each for module in modules for each in vars(module).values() if isfunction(each))
    assert {each for each in functions if forms_of(each)} == set(READ_FORM)


@pytest.mark.parametrize("function", [each for each, arguments in READ_FORM.items() if arguments is not None])
def test_functions_that_read_a_form_accept_one(function: Any) -> None:
    options = {"share": 0.5} if function in (numerics.part, products.product_factor) else {}
    options = {**options, "divided": False} if function is products.product_factor else options
    expected = function(*READ_FORM[function](X), **options)
    found = function(*READ_FORM[function](form_of(X)), **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_value_is_freed_that_is_only_converted() -> None:
    """Norms that compute in single precision, as those of Llama do, keep no normalized value."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mul = x * torch.rsqrt((x * x).mean(-1, keepdim=True))
            return F.linear(mul.to(x.dtype), WIDE)

    explain = fxlrp.compile(Net().eval(), "attnlrp")
    forms = [node.args[0].name for node in explain.graph_module.graph.nodes if node.target is form_of]
    assert "mul_1" in forms


def test_a_form_says_what_a_tensor_says() -> None:
    form = form_of(X)
    assert isinstance(form, Form)
    found = (form.shape, form.dtype, form.device, form.dim(), form.size(-1))
    assert found == (X.shape, X.dtype, X.device, X.dim(), X.size(-1))
    assert form.is_floating_point() and not form.is_complex()


def test_views_of_parameters_are_not_kept_between_calls() -> None:
    """They would need a copy of the parameter, to notice when it changes."""

    class Chunks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(random(8, 4, seed=1))

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.weight.chunk(2)
            return F.linear(x, first) + F.linear(x, second.abs())

    program = program_after(EVERY, Chunks().double())
    assert [node.name for node in program.emitted.kept] == ["abs_1"]
