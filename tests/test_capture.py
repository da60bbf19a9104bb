"""The front end: modules, lines, inputs, hooks, computed weights; and that capturing leaves no trace on the model."""

import copy
import functools
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import fxlrp
import zoo
from fxlrp import presets
from fxlrp.capture.symbolic import capture
from fxlrp.errors import CaptureError, InputError
from fxlrp.provenance import module_path, module_stack, source_line
from oracles import One, Two, assert_relevance, random, randomize

HERE = Path(__file__)


def line_of(marker: str) -> int:
    """The line of this file that ends with the comment `# here: marker`."""
    lines = HERE.read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.endswith(f"# here: {marker}"))
    return number


def here(marker: str) -> str:
    """How errors and tables name that line."""
    return f"{HERE}:{line_of(marker)}"


def lrp0(model: nn.Module, **options: Any) -> fxlrp.Explainer:
    return fxlrp.compile(model.eval(), presets.epsilon(0.0), **options)


def assert_is_gradient(explain: fxlrp.Explainer, model: nn.Module, *inputs: Tensor) -> None:
    """LRP-0 of nets of linear maps and ReLUs is gradient x input: the forward pass was captured, and all of it."""
    relevance = explain(*inputs)
    expected = zoo.gradient_times_input(model, *inputs)
    for actual, wanted in zip(relevance if isinstance(relevance, tuple) else (relevance,), expected, strict=True):
        assert wanted.abs().max() > 1e-4
        assert_relevance(actual, wanted, 1e-9)


class Unchanged:
    """Law 1 around a piece of code: attributes, tensors and their bits, hooks and flags of every module."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for path, module in self.model.named_modules():
            facts[path] = (
                id(module),
                type(module),
                list(vars(module)),
                {key: list(value) for key, value in vars(module).items() if isinstance(value, dict)},
                {key: id(value) for key, value in vars(module).items() if not isinstance(value, dict)},
                {key: id(value) for key, value in module._parameters.items()},
            )
        return facts

    def __enter__(self) -> None:
        self.before = self.facts()
        self.state = {name: (tensor, tensor._version, tensor.clone()) for name, tensor in self.tensors()}

    def tensors(self) -> list[tuple[str, Tensor]]:
        return list(self.model.state_dict(keep_vars=True).items())

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is not None:
            return
        assert self.facts() == self.before
        after = dict(self.tensors())
        assert after.keys() == self.state.keys()
        for name, (tensor, version, value) in self.state.items():
            assert after[name] is tensor and tensor._version == version, name
            assert torch.equal(bits(tensor), bits(value)), name


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def proxies_in(value: Any, depth: int = 0) -> bool:
    if isinstance(value, fx.Proxy | fx.Node):
        return True
    if depth > 6:
        return False
    if isinstance(value, dict):
        return any(proxies_in(item, depth + 1) for item in [*value.keys(), *value.values()])
    if isinstance(value, list | tuple | set | frozenset):
        return any(proxies_in(item, depth + 1) for item in value)
    if isinstance(value, nn.Module):
        return any(proxies_in(vars(module), depth + 1) for module in value.modules())
    return hasattr(value, "__dict__") and not isinstance(value, type | Tensor) and proxies_in(vars(value), depth + 1)


# ----------------------------------------------------------------------------------------------------
# Module paths and source lines


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.gate(x))  # here: gate
        return x * weight  # here: product


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.act = nn.ReLU()
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 3))

    def helper(self, x: Tensor) -> Tensor:
        return x + 1  # here: helper

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.act(block(x))  # here: block
        return self.head(self.helper(x))  # here: head


def test_every_node_has_its_module_path() -> None:
    explain = fxlrp.compile(Stacked().eval())
    paths = {node.name: module_path(node) for node in explain.nodes if node.op == "call_function"}
    assert paths == {
        "blocks_0_gate": "blocks.0.gate",
        "blocks_0_sigmoid": "blocks.0",
        "blocks_0_mul": "blocks.0",
        "act": "act",
        "blocks_1_gate": "blocks.1.gate",
        "blocks_1_sigmoid": "blocks.1",
        "blocks_1_mul": "blocks.1",
        "act_1": "act",
        "add": "",
        "head_1": "head.1",
    }
    (gate,) = (node for node in explain.nodes if node.name == "blocks_1_gate")
    assert [(path, cls.__name__) for path, cls in module_stack(gate)] == [
        ("", "Stacked"),
        ("blocks.1", "Attention"),
        ("blocks.1.gate", "Linear"),
    ]


def test_every_node_has_the_users_line() -> None:
    """The innermost line that is the user's own: where torch's layer is called, not inside it."""
    explain = fxlrp.compile(Stacked().eval())
    lines = {node.name: source_line(node) for node in explain.nodes if node.op == "call_function"}
    expected = {
        "blocks_0_gate": "gate",
        "blocks_0_sigmoid": "gate",
        "blocks_0_mul": "product",
        "act": "block",
        "act_1": "block",
        "blocks_1_mul": "product",
        "add": "helper",
        "head_1": "head",
    }
    for name, marker in expected.items():
        assert lines[name].startswith(f"{here(marker)}: "), name
    assert lines["blocks_0_mul"] == f"{here('product')}: return x * weight  # here: product"
    parameters = [node for node in explain.nodes if node.op == "get_attr"]
    assert len(parameters) == 6 and all(HERE.name in source_line(node) for node in parameters)


def test_lines_in_torchvision_are_torchvisions() -> None:
    explain = fxlrp.compile(zoo.build("resnet18"))
    assert all("resnet.py:" in source_line(node) for node in explain.nodes if node.op == "call_function")


def test_lines_of_a_model_defined_in_no_file() -> None:
    namespace: dict[str, Any] = {"torch": torch, "nn": nn}
    exec("class Net(nn.Module):\n    def forward(self, x):\n        return torch.relu(x)\n", namespace)
    explain = fxlrp.compile(namespace["Net"]().eval())
    assert "<string>:3" in source_line(explain.nodes[-1])
    assert torch.equal(explain(torch.ones(1, 2), target=0), torch.tensor([[1.0, 0.0]]))


def test_module_paths_of_a_module_with_two_names() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    model = randomize(Shared())
    explain = lrp0(model)
    assert_is_gradient(explain, model, random(2, 4))
    assert sum(node.op == "call_function" and "first" in module_path(node) for node in explain.nodes) == 2


# ----------------------------------------------------------------------------------------------------
# Inputs


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: float = 2.5, shift: Tensor | None = None, *, double: bool = True) -> Tensor:
        x = self.linear(x) * scale
        if double:
            x = 2 * x
        return x if shift is None else x + shift


def inputs_of(explain: fxlrp.Explainer) -> list[str]:
    return [node.name for node in explain.nodes if node.op == "placeholder"]


def test_default_arguments_are_used() -> None:
    model = randomize(Scaled())
    explain = lrp0(model)
    assert inputs_of(explain) == ["x"]
    assert_is_gradient(explain, model, random(2, 4))
    # scale and double are in the program as the numbers they are by default
    factors = [node.args[1] if node.args[0] != 2 else 2 for node in explain.nodes if "mul" in node.name]
    assert factors == [2.5, 2]


def test_example_inputs_say_how_many_arguments_are_given() -> None:
    model = randomize(Scaled())
    explain = lrp0(model, example_inputs=[random(2, 4), torch.full((2, 1), 1.5, dtype=torch.float64), random(2, 3)])
    assert inputs_of(explain) == ["x", "scale", "shift"]
    relevance = explain(random(2, 4), torch.ones(2, 1, dtype=torch.float64), random(2, 3, seed=5))
    assert [tuple(r.shape) for r in relevance] == [(2, 4), (2, 1), (2, 3)]


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        return self.linear(first + sum(other * (i + 1) for i, other in enumerate(others)))


def test_any_number_of_arguments_needs_example_inputs() -> None:
    model = randomize(Sum())
    with pytest.raises(CaptureError, match=r"Sum.forward takes \*others: give example_inputs"):
        lrp0(model)
    xs = [random(2, 4, seed=seed) for seed in range(3)]
    explain = lrp0(model, example_inputs=xs)
    assert len(inputs_of(explain)) == 3
    assert_is_gradient(explain, model, *xs)
    with pytest.raises(InputError, match="expected 3 inputs"):
        explain(*xs[:2])
    alone = lrp0(model, example_inputs=xs[:1])
    assert alone(xs[0]).shape == (2, 4)


def test_several_inputs_in_the_order_of_forward() -> None:
    weight = random(3, 4)
    model = Two(lambda a, b: F.linear(a, weight) - b)
    explain = lrp0(model)
    assert inputs_of(explain) == ["a", "b"]
    assert_is_gradient(explain, model, random(2, 4), random(2, 3))


def test_an_index_beside_a_tensor() -> None:
    """An integer input is read, and gets no relevance of its own."""

    class Picks(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x.index_select(1, index)

    x = random(2, 4)
    relevance = lrp0(Picks())(x, torch.tensor([3, 0]), seed=torch.ones(2, 2).double())
    assert torch.equal(relevance, torch.tensor([[1.0, 0, 0, 1.0]] * 2).double())


def test_arguments_by_keyword_only() -> None:
    class Needs(nn.Module):
        def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
            return x * mask

    with pytest.raises(CaptureError, match=r"Needs\.forward needs the keyword argument 'mask'"):
        fxlrp.compile(Needs().eval())


@pytest.mark.parametrize(
    ("model", "examples", "named"),
    [
        (One(torch.relu), [torch.ones(1), torch.ones(1)], "One.forward takes 1 inputs, not 2"),
        (nn.Module(), None, "forward"),
    ],
    ids=["too_many", "no_forward"],
)
def test_wrong_number_of_arguments(model: nn.Module, examples: Any, named: str) -> None:
    with pytest.raises(CaptureError, match=named):
        fxlrp.compile(model.eval(), example_inputs=examples)


def test_no_argument_at_all() -> None:
    class Constant(nn.Module):
        def forward(self) -> Tensor:
            return torch.ones(1)

    with pytest.raises(CaptureError, match=r"Constant.forward takes 0 inputs"):
        fxlrp.compile(Constant().eval())


@pytest.mark.parametrize("names", ["target seed", "self_ relevance", "out r_x", "input torch", "x model", "lambda_ F"])
def test_inputs_may_have_any_name(names: str) -> None:
    first, second = names.split()
    namespace: dict[str, Any] = {"nn": nn}
    exec(
        f"class Net(nn.Module):\n    def forward(self, {first}, {second}):\n        return {first} - {second}",
        namespace,
    )
    one, other = random(2, 3), random(2, 3, seed=1)
    assert_is_gradient(lrp0(namespace["Net"]()), namespace["Net"](), one, other)


# ----------------------------------------------------------------------------------------------------
# Nothing is left on the model


class Stores(nn.Module):
    """Keeps what it computes: by attribute, in a list, in a dictionary, on a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)
        self.kept: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        self.last = x
        self.kept.append(x)
        self.by_name["conv"] = x
        self.conv.seen = x
        self.new_attribute = x
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("ran_before", [False, True], ids=["fresh", "has_run"])
@pytest.mark.parametrize("gradient", [False, True], ids=["no_grad", "grad"])
def test_a_model_that_stores_activations_keeps_no_proxy(ran_before: bool, gradient: bool) -> None:
    model, x = randomize(Stores()), random(2, 3, 5, 5)
    if ran_before:
        with torch.set_grad_enabled(gradient):
            model(x)
    kept = list(model.kept)
    with Unchanged(model):
        explain = lrp0(model)
        assert not proxies_in(model)
        explain(x)
        str(explain), explain.code
        assert not proxies_in(model)
    assert len(model.kept) == len(kept) == int(ran_before)
    assert hasattr(model, "new_attribute") == ran_before
    assert_is_gradient(explain, model, x)


def test_a_model_that_counts_its_calls_counts_none() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.linear(x)

    model = randomize(Counts())
    with Unchanged(model):
        lrp0(model)(random(2, 4))
    assert model.calls == 0


class MakesConstants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        x = self.linear(x + torch.arange(4, dtype=torch.float64))
        return x[:, torch.tensor([2, 0])] + torch.eye(2, dtype=torch.float64)[0]


def test_constants_made_in_forward_do_not_land_on_the_model() -> None:
    model, x = randomize(MakesConstants()), random(2, 4)
    keys = list(vars(model))
    with Unchanged(model):
        explain = lrp0(model)
        explain(x)
    assert list(vars(model)) == keys
    assert not [name for name, _ in model.named_buffers()]
    assert_is_gradient(explain, model, x)
    # They belong to the product: they move with it, and its state is complete.
    held = dict(explain.graph_module.named_buffers())
    assert len(held) >= 4
    single = explain.float()
    assert single(x.float()).dtype == torch.float32


def test_two_explainers_of_one_model_share_no_constants() -> None:
    model, x = randomize(MakesConstants()), random(2, 4)
    first, second = lrp0(model), lrp0(model)
    names = {id(buffer) for buffer in first.graph_module.buffers()}
    assert not names & {id(buffer) for buffer in second.graph_module.buffers()}
    assert torch.equal(first(x), second(x))


class Tables(nn.Module):
    """Tensors that are neither parameters nor buffers: an attribute, a list, a dictionary, one of another object."""

    def __init__(self) -> None:
        super().__init__()
        self.attribute = random(4, seed=1)
        self.listed = [random(4, seed=2)]
        self.named = {"gain": random(4, seed=3)}

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attribute + x * self.listed[0] - x * self.named["gain"]


@pytest.mark.parametrize("place", ["attribute", "listed", "named"])
def test_tensors_that_are_no_buffers_are_live(place: str) -> None:
    """Never stale: a change in place is followed, wherever the tensor is kept."""
    model, x = Tables().eval(), random(2, 4)
    with Unchanged(model):
        explain = lrp0(model)
    assert_is_gradient(explain, model, x)
    changed = {"attribute": model.attribute, "listed": model.listed[0], "named": model.named["gain"]}[place]
    before = explain(x)
    changed.mul_(-2.0)
    assert_is_gradient(explain, model, x)
    assert not torch.equal(explain(x), before)


def test_a_tensor_attribute_that_is_replaced_is_followed() -> None:
    model, x = Tables().eval(), random(2, 4)
    explain = lrp0(model)
    explain(x)
    model.attribute = random(4, seed=8)
    assert_is_gradient(explain, model, x)


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "not_persistent"])
def test_buffers_are_live(persistent: bool) -> None:
    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("gain", random(4), persistent=persistent)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain + x

    model, x = Buffered().eval(), random(2, 4)
    with Unchanged(model):
        explain = lrp0(model)
    assert_is_gradient(explain, model, x)
    model.gain.mul_(3)
    assert_is_gradient(explain, model, x)
    model.gain = random(4, seed=5)
    assert_is_gradient(explain, model, x)


def test_an_explainer_keeps_its_model_and_nothing_else_alive() -> None:
    model = randomize(Stacked())
    watch = weakref.ref(model)
    explain = lrp0(model)
    assert watch() is model and explain.graph_module.model is model
    del model, explain
    import gc

    gc.collect()
    assert watch() is None


def test_a_model_that_cannot_be_copied_is_named() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = (item for item in ())

        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(CaptureError, match=r"Holds cannot be copied.*generator"):
        fxlrp.compile(Holds().eval())


def test_methods_and_functions_kept_as_attributes() -> None:
    """A bound method of the model, a partial, a function that closes over nothing: all belong to what is traced."""

    class Bound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.norm = functools.partial(torch.mul, torch.tensor(2.0, dtype=torch.float64))
            self.steps: list[Callable[[Tensor], Tensor]] = [self.first, torch.relu, self.linear]

        def first(self, x: Tensor) -> Tensor:
            return self.linear(x) + 1

        def forward(self, x: Tensor) -> Tensor:
            for step in self.steps:
                x = self.norm(step(x))
            return x

    model, x = randomize(Bound()), random(2, 4)
    with Unchanged(model):
        explain = lrp0(model)
        explain(x)
    assert not proxies_in(model)
    assert_is_gradient(explain, model, x)


# ----------------------------------------------------------------------------------------------------
# Hooks


def hooked() -> nn.Module:
    return randomize(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)))


def double_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


def negate_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (-args[0],)


def scale_by_keyword(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return (args[0] * 0.5,), kwargs


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda m: m[0].register_forward_hook(double_output),
    "pre": lambda m: m[2].register_forward_pre_hook(negate_input),
    "pre_with_kwargs": lambda m: m[2].register_forward_pre_hook(scale_by_keyword, with_kwargs=True),
    "always_called": lambda m: m[0].register_forward_hook(double_output, always_call=True),
    "prepended": lambda m: m[1].register_forward_hook(double_output, prepend=True),
    "on_the_model": lambda m: m.register_forward_hook(double_output),
    "before_the_model": lambda m: m.register_forward_pre_hook(negate_input),
    "twice": lambda m: (m[0].register_forward_hook(double_output), m[0].register_forward_hook(double_output)),
}


@pytest.mark.parametrize("place", HOOKS)
def test_forward_hooks_are_part_of_what_is_traced_and_stay(place: str) -> None:
    plain, model, x = hooked(), hooked(), random(2, 4)
    HOOKS[place](model)
    with Unchanged(model):
        explain = lrp0(model)
        explain(x)
    assert not torch.equal(model(x), plain(x))  # the hook does change something, and still does
    assert_is_gradient(explain, model, x)


def test_hooks_that_only_look_change_nothing() -> None:
    seen: list[type] = []
    model, x = hooked(), random(2, 4)
    model[1].register_forward_hook(lambda module, args, output: seen.append(type(output)))
    model[0].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    with Unchanged(model):
        explain = lrp0(model)
        seen.clear()
        explain(x)
    assert seen == []  # the product has no hooks
    assert_is_gradient(explain, model, x)


def test_a_hook_method_that_stores_on_its_module_leaves_no_proxy() -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.activations: dict[str, Tensor] = {}
            self.inner.register_forward_hook(self.record)

        def record(self, module: nn.Module, args: Any, output: Tensor) -> None:
            self.activations["inner"] = output

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.inner(x))

    model, x = randomize(Recorder()), random(2, 4)
    with Unchanged(model):
        explain = lrp0(model)
        explain(x)
    assert not proxies_in(model) and model.activations == {}
    assert_is_gradient(explain, model, x)


# ----------------------------------------------------------------------------------------------------
# Computed weights


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def weight_norm(layer: nn.Module) -> nn.Module:
    return parametrizations.weight_norm(layer)


def weight_norm_over_all(layer: nn.Module) -> nn.Module:
    return parametrizations.weight_norm(layer, dim=None)


def spectral_norm(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(layer)


def orthogonal(layer: nn.Module) -> nn.Module:
    return parametrizations.orthogonal(layer, orthogonal_map="cayley")


def halved(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Halved())
    return parametrize.register_parametrization(layer, "bias", Halved())


def pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", amount=0.3)


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def old_spectral_norm(layer: nn.Module) -> nn.Module:
    return nn.utils.spectral_norm(layer)


COMPUTED = [weight_norm, weight_norm_over_all, spectral_norm, halved, pruned, old_weight_norm, old_spectral_norm]


@pytest.mark.parametrize("computed", COMPUTED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_computed_weights(computed: Callable[[nn.Module], nn.Module], kind: str) -> None:
    """Compiled right, live, and with the classes, the parameters and the hooks that do it left where they are."""
    make = {"linear": lambda: nn.Linear(5, 5), "conv": lambda: nn.Conv1d(5, 5, 1)}[kind]
    x = random(3, 5) if kind == "linear" else random(3, 5, 4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = computed(make().double())
    model = nn.Sequential(layer, nn.ReLU(), make().double(), nn.Flatten()).eval()
    with torch.no_grad():
        model(x)  # the old spellings compute their weight when the layer is called
    names = [name for name, _ in model.named_parameters()]
    with Unchanged(model):
        explain = lrp0(model)
        explain(x)
    assert_is_gradient(explain, model, x)
    assert [name for name, _ in model.named_parameters()] == names
    before = explain(x)
    with torch.no_grad():
        for parameter in model[0].parameters():
            # another length and another direction
            parameter.copy_(parameter * 1.5 + random(*parameter.shape, seed=11) if parameter.dim() else parameter * 1.5)
        model(x)
    assert_is_gradient(explain, model, x)
    assert (explain(x) - before).abs().max() > 1e-3


def test_parametrized_weights_with_batch_norm_fold() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Flatten()).double()
    zoo.initialise(model)
    x = random(2, 3, 5, 5)
    zoo.calibrate(model, x)
    explain = lrp0(model)
    assert not [node for node in explain.nodes if node.target is F.batch_norm]
    assert_is_gradient(explain, model, x)


def test_weights_shared_by_two_modules_are_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(torch.relu(self.encode(x)))

    model, x = randomize(Tied()), random(2, 4)
    with Unchanged(model):
        explain = lrp0(model)
    with torch.no_grad():
        model.encode.weight.mul_(1.5)
    assert model.decode.weight is model.encode.weight
    assert_is_gradient(explain, model, x)


# ----------------------------------------------------------------------------------------------------
# Errors


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if x.sum() > 0:  # here: branch
            x = -x
        return x


class Loops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[0]):  # here: loop
            x = x + 1
        return x


class Converts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.max())  # here: convert


class Lists(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * 2 for row in x])  # here: iterate


class Asks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze() if len(x) == 1 else x  # here: length


@pytest.mark.parametrize(
    ("model", "marker"),
    [(Branches, "branch"), (Loops, "loop"), (Converts, "convert"), (Lists, "iterate"), (Asks, "length")],
)
def test_control_flow_that_depends_on_values(model: type[nn.Module], marker: str) -> None:
    made = model().eval()
    with (
        Unchanged(made),
        pytest.raises(CaptureError, match=f"{model.__name__} at {re.escape(here(marker))}: ") as caught,
    ):
        fxlrp.compile(made, capture="symbolic")
    assert "torch.export" in str(caught.value)
    assert not proxies_in(made)


def test_control_flow_deep_inside_names_the_innermost_line() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Branches())).eval()
    with Unchanged(model), pytest.raises(CaptureError, match=re.escape(here("branch"))):
        fxlrp.compile(model, capture="symbolic")
    # and torch is as it was: a model that can be followed still can
    assert_is_gradient(lrp0(model[0].double()), model[0], random(2, 4))


def test_control_flow_on_what_is_known_is_followed() -> None:
    class Known(nn.Module):
        def __init__(self, deep: bool) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3 if deep else 1))

        def forward(self, x: Tensor) -> Tensor:
            for i, layer in enumerate(self.layers):
                x = layer(x) if i % 2 == 0 else torch.relu(layer(x))
            if self.training or x is None:
                raise ValueError
            return x

    for deep in (False, True):
        model = randomize(Known(deep))
        assert_is_gradient(lrp0(model), model, random(2, 4))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_module() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval())
    with pytest.raises(CaptureError, match="scripted"):
        fxlrp.compile(scripted)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_module_inside_a_model() -> None:
    inner = torch.jit.script(nn.Linear(4, 4).eval())
    model = nn.Sequential(nn.ReLU(), inner).eval()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises((CaptureError, fxlrp.errors.UnsupportedOpError)) as caught:
        fxlrp.compile(model)
    assert "script" in str(caught.value).lower() and "'1'" in str(caught.value)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_training_submodule() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(), nn.Linear(4, 4))).eval()
    model[1][0].train()
    with Unchanged(model), pytest.raises(CaptureError, match=r"training mode \(1\.0\).*model\.eval\(\)"):
        fxlrp.compile(model)
    assert model[1][0].training
    model.train()
    with pytest.raises(CaptureError, match=r"training mode \(the model itself and 4 more\)"):
        fxlrp.compile(model)


def test_batch_norm_without_statistics_names_module_and_line() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x)  # here: statistics

    model = Net().eval()
    with Unchanged(model), pytest.raises(CaptureError, match="running statistics") as caught:
        fxlrp.compile(model)
    assert here("statistics") in str(caught.value)
    assert "norm" in str(caught.value)


def test_numpy_and_python_numbers_in_forward() -> None:
    """What leaves tensors cannot be followed: the error names the line."""

    class ToNumpy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.from_numpy(x.detach().numpy()).mean()  # here: numpy

    with pytest.raises(CaptureError, match=re.escape(here("numpy"))):
        fxlrp.compile(ToNumpy().eval(), capture="symbolic")


def test_capture_is_a_plain_forward_graph() -> None:
    """As the first stage gives it: live parameters under the model's own paths, and nothing executed."""
    model = randomize(Stacked())
    graph_module = capture(model)
    assert graph_module.model is model
    targets = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    assert targets == {f"model.{name}" for name, _ in model.named_parameters()}
    assert {node.op for node in graph_module.graph.nodes} <= {
        "placeholder",
        "get_attr",
        "call_function",
        "call_method",
        "output",
    }
    x = random(2, 4)
    torch.testing.assert_close(graph_module(x), model(x))
