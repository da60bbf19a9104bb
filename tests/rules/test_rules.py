"""What ``rules=`` means: presets by name and by function, pairs in their order, selectors, first layers, errors."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import presets, rules
from fxlrp.errors import RuleError
from fxlrp.provenance import module_path
from fxlrp.rules.preset import Preset
from fxlrp.rules.presets import PRESETS
from fxlrp.rules.resolve import resolve
from fxlrp.rules.rule import Rule
from oracles import One, Two, assert_relevance, dense_map, flat_rule, random, randomize, through, zplus_rule


class Net(nn.Module):
    """Two convolutions, one of them transposed, two dense layers, a sum, a gate, pooling: each family once or twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.body = nn.ModuleDict({"up": nn.ConvTranspose2d(4, 4, 3, padding=1), "conv": nn.Conv2d(4, 4, 1)})
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.body["up"](x) + self.body["conv"](x)
        return self.head(self.pool(x * torch.sigmoid(x)).mean((2, 3)))


def model() -> nn.Module:
    return randomize(Net())


def chosen(explain: fxlrp.Explainer) -> dict[str, Rule]:
    """The rule of every node that has one."""
    return {node.name: node.meta["fxlrp"].rule for node in explain.nodes if "fxlrp" in node.meta}


def rules_of(choice: Any, net: nn.Module | None = None) -> dict[str, Rule]:
    return chosen(fxlrp.compile(net or model(), choice))


def reasons(choice: Any) -> dict[str, tuple[str, str]]:
    explain = fxlrp.compile(model(), choice)
    found = {node.name: node.meta["fxlrp"] for node in explain.nodes if "fxlrp" in node.meta}
    return {name: (annotation.origin, annotation.reason) for name, annotation in found.items()}


CONVOLUTIONS = ("body_up", "body_conv")
EPSILON = rules.Epsilon(1e-6)
OTHERS = {
    "stem_1": rules.PassThrough(),
    "add": EPSILON,
    "mul": rules.SignalTakeAll(),
    "pool": rules.WinnerTakesAll(),
    "mean": EPSILON,
    "head_0": EPSILON,
    "head_1": rules.PassThrough(),
    "head_2": EPSILON,
}


def expected(first: Rule, convolution: Rule) -> dict[str, Rule]:
    return {"stem_0": first, **dict.fromkeys(CONVOLUTIONS, convolution), **OTHERS}


# Presets, by zennit's conventions: the strong rule for convolutions, epsilon for dense layers

BY_NAME = {
    "epsilon": expected(EPSILON, EPSILON),
    "epsilon_plus": expected(rules.ZPlus(), rules.ZPlus()),
    "epsilon_plus_flat": expected(rules.Flat(), rules.ZPlus()),
    "epsilon_alpha2_beta1": expected(rules.AlphaBeta(2.0, 1.0), rules.AlphaBeta(2.0, 1.0)),
    "epsilon_alpha2_beta1_flat": expected(rules.Flat(), rules.AlphaBeta(2.0, 1.0)),
    "excitation_backprop": {
        **expected(rules.ZPlus(), rules.ZPlus()),
        **dict.fromkeys(("head_0", "head_2"), rules.ZPlus()),
    },
    "default": expected(rules.ZPlus(), rules.ZPlus()),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_presets_by_name_and_by_function(name: str) -> None:
    assert rules_of(name) == BY_NAME[name]
    assert rules_of(getattr(presets, name)()) == BY_NAME[name]
    assert resolve(name).name == name
    origin, reason = reasons(name)["body_conv"]
    if name != "epsilon":
        assert (origin, reason) == (f"preset {name}", "conv2d")


def test_epsilon_gamma_box() -> None:
    box = presets.epsilon_gamma_box(low=-2.0, high=(1.0, 2.0, 3.0), gamma=0.5, epsilon=0.125)
    found = rules_of(box)
    wanted = expected(rules.ZBox(-2.0, (1.0, 2.0, 3.0)), rules.Gamma(0.5))
    wanted = {name: rules.Epsilon(0.125) if rule == EPSILON else rule for name, rule in wanted.items()}
    assert found == wanted
    assert rules_of(presets.epsilon_gamma_box(-1.0, 1.0))["body_conv"] == rules.Gamma(0.25)


def test_every_preset_is_named_and_tested() -> None:
    # those for transformers and state-space models are tested with these, the gradient with every operation, the
    # modified gradients in test_gradient_presets.py
    gradients = {"gradient", "guided_backprop", "deconvnet", "beta_smooth"}
    assert PRESETS.keys() == {*BY_NAME, "epsilon_gamma_box", "attnlrp", "cplrp", "mambalrp", "relp", *gradients}
    for name, function in PRESETS.items():
        assert getattr(presets, name) is function


def test_no_rules_is_the_default() -> None:
    assert rules_of(None) == rules_of([]) == rules_of(()) == BY_NAME["default"]
    assert resolve(None) == resolve([]) == presets.default()


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "default"])
def test_the_epsilon_of_a_preset(name: str) -> None:
    """It is that of every operation which takes LRP-epsilon; 0 is LRP-0."""
    for epsilon in (0.0, 0.5):
        found = rules_of(getattr(presets, name)(epsilon=epsilon))
        assert {rule for rule in found.values() if isinstance(rule, rules.Epsilon)} == {rules.Epsilon(epsilon)}


def test_presets_are_values() -> None:
    """Compared by content, not changed by what is laid over them, and good for many models."""
    plus = presets.epsilon_plus()
    assert plus == presets.epsilon_plus() and plus != presets.epsilon_plus(1e-3) and plus != presets.epsilon()
    laid = plus.override([("add", rules.Equal())])
    assert plus == presets.epsilon_plus() and laid != plus
    with pytest.raises(AttributeError):
        plus.epsilon = 3.0  # type: ignore[misc]
    assert rules_of(plus) == rules_of(plus) == BY_NAME["epsilon_plus"]


def test_epsilon_plus_flat_on_a_net_of_two_layers() -> None:
    """What the preset computes, by the rules' formulas on dense matrices."""
    conv1, conv2 = randomize(nn.Conv1d(2, 3, 3)), randomize(nn.Conv1d(3, 2, 2), seed=1)
    net = nn.Sequential(conv1, nn.ReLU(), conv2, nn.Flatten())
    x = random(2, 2, 6)
    hidden = torch.relu(conv1(x)).detach()
    out = conv2(hidden).detach()
    r = random(*out.shape)
    into_conv2 = through(zplus_rule, dense_map(conv2, hidden.shape[1:]), hidden, r)
    wanted = through(flat_rule, dense_map(conv1, x.shape[1:], taps_of=conv1), x, into_conv2)
    relevance = fxlrp.compile(net.eval(), "epsilon_plus_flat")(x, seed=r.flatten(1))
    assert_relevance(relevance, wanted, 1e-10)


# Pairs and precedence


def test_the_first_pair_that_matches_wins() -> None:
    gamma, alpha = rules.Gamma(0.1), rules.AlphaBeta(2, 1)

    def stem_or_head(node: fx.Node) -> bool:
        return node.name in ("stem_0", "head_0")

    found = rules_of([("conv2d", gamma), (stem_or_head, alpha)])
    assert (found["stem_0"], found["head_0"]) == (gamma, alpha)
    assert rules_of([("stem.*", alpha), ("conv2d", gamma)])["stem_0"] == alpha
    found = rules_of([("stem.*", alpha), ("conv2d", gamma)])
    assert (found["body_conv"], found["body_up"]) == (gamma, rules.ZPlus())
    assert reasons([("stem.*", alpha), ("conv2d", gamma)])["body_conv"] == ("user pair 1", "conv2d")


def test_pairs_are_laid_over_the_default() -> None:
    found = rules_of([("add", rules.Magnitude())])
    assert found == {**BY_NAME["default"], "add": rules.Magnitude()}


def test_pairs_are_laid_over_another_preset() -> None:
    preset = presets.epsilon_alpha2_beta1_flat().override([(nn.ConvTranspose2d, rules.Gamma(0.25))])
    assert rules_of(preset) == {**BY_NAME["epsilon_alpha2_beta1_flat"], "body_up": rules.Gamma(0.25)}
    # The name stays, for tables: what is not overridden comes from the preset.
    assert preset.name == "epsilon_alpha2_beta1_flat"


def test_pairs_precede_the_first_layers_rule() -> None:
    preset = presets.epsilon_plus_flat().override([("conv2d", rules.WSquare())])
    assert rules_of(preset)["stem_0"] == rules.WSquare()


def test_a_later_override_precedes_an_earlier_one() -> None:
    preset = presets.epsilon().override([("conv2d", rules.Flat()), ("linear", rules.Flat())])
    preset = preset.override([("conv2d", rules.WSquare())])
    found = rules_of(preset)
    assert (found["stem_0"], found["head_0"]) == (rules.WSquare(), rules.Flat())


def test_a_pair_whose_rule_does_not_fit_leaves_a_node_to_the_next() -> None:
    """A class selects everything inside its modules; each rule takes what it can."""
    found = rules_of([("*", rules.Flat()), ("*", rules.Equal()), ("*", rules.Uniform())])
    assert {name for name, rule in found.items() if rule == rules.Flat()} == {
        "stem_0",
        "body_up",
        "body_conv",
        "head_0",
        "head_2",
    }
    assert (found["add"], found["mul"], found["pool"]) == (rules.Equal(), rules.Uniform(), rules.WinnerTakesAll())


@pytest.mark.parametrize(
    "form", [list, tuple, lambda pairs: [list(pair) for pair in pairs]], ids=["list", "tuple", "lists"]
)
def test_forms_of_a_list_of_pairs(form: Callable[..., Any]) -> None:
    assert rules_of(form([("add", rules.Equal()), ("linear", rules.ZPlus())]))["add"] == rules.Equal()


# Selectors


class Special(nn.Linear):
    """A subclass of a layer."""


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Special(4, 4), nn.ReLU())
        self.out = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(x)) + x


class Tree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer10 = Branch(), Branch(), Branch()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.layer10(self.layer2(self.layer1(x))))


FLAT, EQUAL = rules.Flat(), rules.Equal()


def selected(selector: Any, rule: Rule = FLAT) -> set[str]:
    """The module paths of the nodes that a pair gets, of those that its rule fits."""
    nodes = fxlrp.compile(randomize(Tree()), [(selector, rule)]).nodes
    return {module_path(node) for node in nodes if "fxlrp" in node.meta and node.meta["fxlrp"].rule == rule}


SPECIALS = {f"layer{i}.layers.0" for i in (1, 2, 10)}
OUTS = {f"layer{i}.out" for i in (1, 2, 10)}
LINEARS = SPECIALS | OUTS | {"linear"}
SELECTED: dict[str, tuple[Any, set[str]]] = {
    "class": (nn.Linear, LINEARS),
    "subclass": (Special, SPECIALS),
    "class of a container": (Branch, SPECIALS | OUTS),
    "class of torch's container": (nn.Sequential, SPECIALS),
    "base class of all": (nn.Module, LINEARS),
    "class of the model": (Tree, LINEARS),
    "path": ("layer1", {"layer1.layers.0", "layer1.out"}),
    "path and star": ("layer1.*", {"layer1.layers.0", "layer1.out"}),
    "prefix": ("layer1*", {"layer1.layers.0", "layer1.out", "layer10.layers.0", "layer10.out"}),
    "question mark": ("layer?.out", {"layer1.out", "layer2.out"}),
    "choice": ("layer[12].layers.0", {"layer1.layers.0", "layer2.layers.0"}),
    "all but": ("layer[!1].*", {"layer2.layers.0", "layer2.out"}),
    "suffix": ("*.out", OUTS),
    "container's path": ("*.layers", SPECIALS),
    "star": ("*", LINEARS),
    "operation": ("linear", LINEARS),  # before it is the path of a module
    "glob for the module": ("linea[r]", {"linear"}),
    "first layer": (rules.FirstLayer(), {"layer1.layers.0"}),
    "predicate": (lambda node: module_path(node).endswith("out"), OUTS),
    "predicate with any truth": (lambda node: 1 if "out" in node.name else None, OUTS),
}


@pytest.mark.parametrize("name", SELECTED)
def test_selectors(name: str) -> None:
    selector, expected = SELECTED[name]
    assert selected(selector) == expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("add", {"layer1", "layer2", "layer10"}),
        ("layer2", {"layer2"}),
        (Branch, {"layer1", "layer2", "layer10"}),
    ],
    ids=["operation", "path", "class"],
)
def test_selectors_of_operations_without_a_module_of_their_own(selector: Any, expected: set[str]) -> None:
    """A module's class or path selects the operations of its own forward too."""
    assert selected(selector, EQUAL) == expected


@pytest.mark.parametrize("selector", ["layer1.", "Layer1", "layer1/out", "layers.0", "out", "^layer1"])
def test_globs_match_whole_paths(selector: str) -> None:
    with pytest.raises(RuleError, match="matches nothing"):
        selected(selector)


def test_a_predicate_sees_the_canonical_node() -> None:
    """Its name, target, arguments and metadata are those of the table, before any relevance."""
    seen: list[fx.Node] = []

    def look(node: fx.Node) -> bool:
        seen.append(node)
        return node.target is F.linear or node.target is torch._C._nn.linear

    assert selected(look) == LINEARS
    assert {node.name for node in seen} == {
        node.name for node in fxlrp.compile(randomize(Tree())).nodes if "fxlrp" in node.meta
    }
    assert all(node.op == "call_function" for node in seen)


def test_class_of_a_parametrized_module() -> None:
    """A parametrization changes a module's class to a subclass of it: the class still selects it."""
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.ReLU(), nn.Conv1d(3, 3, 1))
    found = rules_of([(nn.Linear, FLAT)], nn.Sequential(net[0]).double().eval())
    assert found == {"_0": FLAT}


def test_selectors_of_functional_calls() -> None:
    """What no layer made is selected by operation, or by the module whose forward calls it."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(random(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight)

    net = nn.Sequential(Functional(), nn.ReLU())
    for selector in ("linear", Functional, "0", "*"):
        assert rules_of([(selector, FLAT)], net.eval())["_0"] == FLAT
    with pytest.raises(RuleError, match="Linear"):
        rules_of([(nn.Linear, FLAT)], net)


# First layers


def first(net: nn.Module | Callable[..., Tensor]) -> set[str]:
    module = net if isinstance(net, nn.Module) else One(net)
    return {name for name, rule in rules_of("epsilon_plus_flat", module.eval()).items() if rule == FLAT}


MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).reshape(3, 1, 1)


class Prepared(nn.Module):
    def __init__(self, prepare: Callable[[Tensor], Tensor], channels: int = 3) -> None:
        super().__init__()
        self.prepare = prepare
        self.stem, self.second = nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.stem(self.prepare(x)))).mean((2, 3))


PREPARATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "scale and shift": lambda x: x * STD + MEAN,
    "normalize": lambda x: (x - MEAN) / STD,
    "from bytes": lambda x: x / 255,
    "to signs": lambda x: 2 * x - 1,
    "negated": lambda x: -x,
    "permuted": lambda x: x.permute(0, 3, 1, 2),
    "cropped": lambda x: x[:, :, 1:-1, 1:-1],
    "padded": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "channels turned": lambda x: x.flip(1),
    "channel by channel": lambda x: torch.cat([x[:, i : i + 1] * STD[i] + MEAN[i] for i in range(3)], 1),
    "clamped": lambda x: x.clamp(0, 1),
    "to double": lambda x: x.to(torch.float32),
    "dropped out": lambda x: F.dropout(x, 0.1, training=False),
    "shuffled": lambda x: F.pixel_unshuffle(x, 2)[:, :3],
    "repeated": lambda x: x[:, :1].expand(-1, 3, -1, -1),
}


@pytest.mark.parametrize("name", PREPARATIONS)
def test_what_prepares_an_input_leaves_the_first_layer_first(name: str) -> None:
    assert first(Prepared(PREPARATIONS[name])) == {"stem"}


NOT_NEUTRAL: dict[str, Callable[[Tensor], Tensor]] = {
    "pooled": lambda x: F.max_pool2d(x, 2),
    "averaged": lambda x: F.avg_pool2d(x, 2),
    "convolved": lambda x: F.conv2d(x, torch.ones(3, 3, 1, 1)),
    "gated by itself": lambda x: x * torch.sigmoid(x),
    "added to itself": lambda x: x + x.flip(3),
}


@pytest.mark.parametrize("name", NOT_NEUTRAL)
def test_behind_what_shares_relevance_no_layer_is_first(name: str) -> None:
    """Only the convolution in front of it, if that is what it is."""
    assert first(Prepared(NOT_NEUTRAL[name])) == ({"conv2d"} if name == "convolved" else set())


def test_two_stems() -> None:
    class Stems(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 5, padding=2)
            self.merge = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.merge(torch.cat([self.fine(x), self.coarse(x.relu())], 1)).mean((2, 3))

    assert first(Stems()) == {"fine", "coarse"}


def test_a_stem_for_each_input() -> None:
    class Inputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.table, self.joint = nn.Linear(4, 3), nn.Linear(2, 3), nn.Linear(3, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.joint(self.image(a) + self.table(b))

    assert first(Inputs()) == {"image", "table"}
    joined = Two(lambda a, b: F.linear(torch.cat([a, b], 1), torch.ones(2, 6)))
    assert first(joined) == {"linear"}


def test_a_layer_that_reads_an_input_and_a_feature_is_not_first() -> None:
    """Each call counts by what it reads: of a module called twice the first call is first, the second is not."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(4, 4)
            self.late = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.shared(torch.relu(self.shared(x)))
            return self.late(torch.cat([x, y], 1))

    assert first(Twice()) == {"shared_0"}


def test_the_first_layer_is_dense_too() -> None:
    assert first(nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 2))) == {"_1"}


def test_the_first_convolution_of_torchvision_models() -> None:
    assert first(zoo.build("resnet18")) == {"conv1"}
    assert first(zoo.build("squeezenet1_1")) == {"features_0"}


def test_a_first_layer_with_batch_norm_in_front_is_not_first() -> None:
    """BatchNorm shares relevance by its own rule."""
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.Flatten())
    assert first(net) == set()


# Errors


def test_unknown_preset() -> None:
    with pytest.raises(RuleError, match="no preset 'epsilon_plus_box'; choose one of: epsilon, epsilon_plus,"):
        resolve("epsilon_plus_box")


def test_a_preset_that_needs_parameters() -> None:
    with pytest.raises(
        RuleError, match=r"needs low and high: fxlrp\.presets\.epsilon_gamma_box\(low=\.\.\., high=\.\.\.\)"
    ):
        resolve("epsilon_gamma_box")
    with pytest.raises(RuleError, match=r"epsilon_gamma_box.*high"):
        presets.epsilon_gamma_box(low=-1.0)  # type: ignore[call-arg]


def test_a_preset_function_instead_of_a_preset() -> None:
    with pytest.raises(RuleError, match="epsilon_plus"):
        resolve(presets.epsilon_plus)  # type: ignore[arg-type]


def test_a_single_rule() -> None:
    with pytest.raises(RuleError, match=r"Gamma\(gamma=0.25\) is a single rule.*\[\(selector, Gamma\(gamma=0.25\)\)\]"):
        resolve(rules.Gamma())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        ([rules.Gamma()], r"rules\[0\] is Gamma"),
        ([("add", rules.Equal()), "add"], r"rules\[1\] is 'add'"),
        ([("add", rules.Equal(), 3)], r"rules\[0\]"),
        ([("add", "equal")], r"rules\[0\].*'equal'"),
        ([("add", rules.Equal)], r"rules\[0\].*Equal"),
        ([(rules.Equal(), "add")], r"rules\[0\]"),
        (("add", rules.Equal()), r"rules\[0\] is 'add'"),
        ({"add": rules.Equal()}, "list of \\(selector, rule\\) pairs"),
        ({("add", rules.Equal())}, "list of \\(selector, rule\\) pairs"),
        (3, "not 3"),
    ],
    ids=["rule", "string", "three", "name_of_a_rule", "class", "reversed", "bare_pair", "dict", "set", "number"],
)
def test_what_is_no_list_of_pairs(pairs: Any, named: str) -> None:
    with pytest.raises(RuleError, match=named):
        resolve(pairs)
    if isinstance(pairs, list):
        with pytest.raises(RuleError, match=named):
            presets.epsilon().override(pairs)


@pytest.mark.parametrize("selector", [3.5, None, int, Rule, ["add"], {"add"}], ids=repr)
def test_what_is_no_selector(selector: Any) -> None:
    with pytest.raises(RuleError, match="selector"):
        fxlrp.compile(model(), [(selector, rules.Epsilon())])


@pytest.mark.parametrize(
    ("selector", "named"),
    [
        ("layer4.*", r"layer4\.\*"),
        ("conv3d", "conv3d"),
        ("layer_norm", "layer_norm"),
        (nn.Conv3d, "Conv3d"),
        (lambda node: False, "lambda"),
    ],
    ids=["glob", "operation", "other_operation", "class", "predicate"],
)
def test_a_pair_that_matches_nothing_names_itself(selector: Any, named: str) -> None:
    pairs = [("add", rules.Equal()), (selector, rules.Epsilon(0.5))]
    with pytest.raises(RuleError, match=f"user pair 1, .*({named}).*Epsilon.epsilon=0.5.*matches nothing"):
        fxlrp.compile(model(), pairs)


def test_a_pair_that_selects_only_what_no_relevance_reaches() -> None:
    """A gate's branch has no rule: a pair for it would do nothing."""
    with pytest.raises(RuleError, match=r"user pair 0.*sigmoid.*matches nothing"):
        fxlrp.compile(model(), [("sigmoid", rules.PassThrough())])


def test_a_pair_whose_rule_fits_nothing_it_selects() -> None:
    with pytest.raises(
        RuleError, match=r"user pair 0.*selects 2 nodes.*fits none.*rules for linear: .*Gamma"
    ) as caught:
        fxlrp.compile(model(), [("linear", rules.Equal())])
    message = str(caught.value)
    assert "WinnerTakesAll" not in message and "Custom" in message
    fitting = "Backpropagation, Custom, Epsilon, Gradient, WinnerTakesAll"
    with pytest.raises(RuleError, match=f"selects 1 nodes?.*rules for max_pool2d: {fitting}"):
        fxlrp.compile(model(), [(nn.MaxPool2d, rules.Gamma())])


def test_a_presets_own_pairs_need_not_match() -> None:
    """A preset is for every model; only what the user writes for this one must be of use."""
    assert rules_of("epsilon_plus_flat", One(torch.relu).eval()) == {"relu": rules.PassThrough()}


def test_a_predicate_that_fails_says_so_itself() -> None:
    def broken(node: fx.Node) -> bool:
        raise ZeroDivisionError("of the user")

    with pytest.raises(ZeroDivisionError, match="of the user"):
        fxlrp.compile(model(), [(broken, rules.Epsilon())])


def test_errors_of_rules_come_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxlrp import driver

    monkeypatch.setattr(driver, "capture", lambda *_, **__: pytest.fail("captured"))
    for bad in ("no such preset", rules.Gamma(), [("add", "equal")], "epsilon_gamma_box"):
        with pytest.raises(RuleError):
            fxlrp.compile(model(), bad)  # type: ignore[arg-type]


def test_a_preset_of_ones_own() -> None:
    from fxlrp.rules.preset import Pair

    mine = Preset("mine", (Pair("conv2d", rules.WSquare(), "preset mine"),), epsilon=0.25)
    found = rules_of(mine)
    assert (found["stem_0"], found["head_0"]) == (rules.WSquare(), rules.Epsilon(0.25))
    assert reasons(mine)["stem_0"] == ("preset mine", "conv2d")


@pytest.mark.parametrize("rule", [rules.ZBox((-1.0, -2.0), 3.0), rules.Epsilon(1e-3, bias=False), rules.Gamma(0.5)])
def test_rules_can_be_copied_and_pickled(rule: rules.Rule) -> None:
    assert copy.deepcopy(rule) == copy.copy(rule) == pickle.loads(pickle.dumps(rule)) == rule


def test_numbers_of_numpy_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    x = torch.rand(2, 3)
    explain = fxlrp.compile(nn.Linear(3, 2).eval(), [("linear", rules.Epsilon(numpy.float64(0.5)))])
    assert explain(x).shape == x.shape
