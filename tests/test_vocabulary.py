"""The canonical operations: parameters as torch has them, rules and emitters, one meaning for every spelling."""

import inspect
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import presets
from fxlrp.errors import CaptureError, InternalError, UnsupportedOpError
from fxlrp.operation import REQUIRED, Family, Operation, Vocabulary
from fxlrp.passes.decompose import DECOMPOSITIONS
from fxlrp.relevance import fitting_rules, implementation
from fxlrp.vocabulary import CANONICAL
from oracles import One, Two, assert_relevance, random

OPERATIONS = CANONICAL.operations
WITHOUT_RELEVANCE = (Family.NO_RELEVANCE, Family.IDENTITY, Family.COMPOSITE)
CARRYING = {name: op for name, op in OPERATIONS.items() if op.family not in WITHOUT_RELEVANCE}

# ----------------------------------------------------------------------------------------------------
# Parameters, against ATen's schemas and the signatures of torch.nn.functional and operator

# Where the source has another name.
SOURCES: dict[str, Callable[..., Any]] = {
    "add_scaled": torch.ops.aten.add,
    "sub_scaled": torch.ops.aten.sub,
    "add": operator.add,
    "sub": operator.sub,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "multi_head_attention": F.multi_head_attention_forward,
    "stochastic_depth": zoo.torchvision.ops.stochastic_depth,
    "logsigmoid": torch.ops.aten.log_sigmoid,
    "safe_softmax": torch.ops.aten._safe_softmax,
    "vector_norm": torch.ops.aten.linalg_vector_norm,
    "windows": torch.ops.aten.unfold,
    "unfold": F.unfold,
    **{name: getattr(operator, name) for name in ("and_", "or_", "xor", "invert", "not_", "is_", "is_not", "contains")},
}

_IN_PLACE = "torch writes x.f_() where torch.nn.functional has f(x, inplace=True); a canonical call takes either"
_FACTORY = "layout and pinning of a constant are not followed"
_CAST = "Tensor.float() and its like have no schema; their documentation has this parameter"
_OVERLOADS = "optional: there is an overload with it and one without"

# operation -> parameter -> why it differs from the source
EXCEPTIONS: dict[str, dict[str, str]] = {
    **{name: {"inplace": _IN_PLACE} for name in ("logsigmoid", "softsign", "tanhshrink", "tanh", "sigmoid")},
    "div": {"rounding_mode": _OVERLOADS},
    "mean": {"dim": _OVERLOADS, "keepdim": _OVERLOADS},
    "sum": {"dim": _OVERLOADS, "keepdim": _OVERLOADS},
    "squeeze": {"dim": _OVERLOADS},
    "size": {"dim": _OVERLOADS},
    "softmax": {"_stacklevel": "torch.nn.functional passes it on by keyword"},
    **{
        f"{kind}max_pool{n}d": {"return_indices": "torch.nn.functional chooses by it between two ATen operations"}
        for kind in ("", "adaptive_")
        for n in (1, 2, 3)
    },
    "expand": {"implicit": "for torch's own use"},
    "repeat_interleave": {"output_size": "a hint for speed"},
    "sort": {"stable": _OVERLOADS},
    **{
        name: {"unbiased": _OVERLOADS, "correction": _OVERLOADS, "dim": _OVERLOADS}
        for name in ("var", "std", "var_mean")
    },
    "log_softmax": {"_stacklevel": "torch.nn.functional passes it on by keyword"},
    "gather": {"sparse_grad": "concerns the gradient only"},
    "split": {"split_size_or_sections": "ATen has an overload for the size, and one for the sections"},
    "contiguous": {"memory_format": "what the default is called"},
    "detach": {"memory_format": "shares its parameters with contiguous and clone"},
    "positive": {"memory_format": "shares its parameters with contiguous and clone"},
    **{
        name: {
            "layout": _FACTORY,
            "pin_memory": _FACTORY,
            "memory_format": _FACTORY,
            "requires_grad": "Python's own; a constant is one",
        }
        for name in ("zeros_like", "ones_like", "empty_like", "full_like")
    },
    **{name: {"layout": _FACTORY, "pin_memory": _FACTORY} for name in ("new_zeros", "new_ones", "new_empty")},
}

# Compared with no source, and why.
UNCOMPARED = {
    "where_method": "ATen has where(condition, self, other) only; the method's order is checked by its spelling below",
    "getattr": "Python's getattr, without the default",
    "max": "three overloads, told apart by their arguments; each is tested below",
    "min": "as max",
    "einsum": "Python's takes its operands one by one",
    "normalize_vectors": "torch.nn.functional.normalize; its name means a whole method of fxlrp's passes",
    **dict.fromkeys(("mask_scores", "repeat_heads", "initial_state", "attention_scale"), "fxlrp's own"),
    **dict.fromkeys(("attention_mask", "padding_mask", "both_masks", "causal_mask"), "fxlrp's own"),
    "to": "its overloads share no parameter, and calls are kept as written; its spellings are tested with the passes",
    "expect_dims": "fxlrp's own",
    **dict.fromkeys(("float", "double", "half", "bfloat16"), _CAST),
}


def of_schema(overload: Any) -> dict[str, Any]:
    return {
        "input" if argument.name == "self" else argument.name: argument.default_value
        if argument.has_default_value()
        else REQUIRED
        for argument in overload._schema.arguments
    }


def of_signature(function: Callable[..., Any]) -> dict[str, Any] | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return None
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return None
    return {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters}


def sources(name: str) -> list[dict[str, Any]]:
    """The parameters that torch gives this operation: of each ATen overload, or of the function."""
    source = SOURCES.get(name) or getattr(torch.ops.aten, name, None)
    found = []
    signature = of_signature(getattr(F, name)) if hasattr(F, name) and name not in SOURCES else None
    if signature:
        found.append(signature)
    if isinstance(source, torch._ops.OpOverloadPacket):
        found += [of_schema(getattr(source, overload)) for overload in source.overloads()]
    elif source is not None:
        found.append(of_signature(source) or {})
    return found


def same_default(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, list):
        # ATen has a number for each dimension, or none at all
        return ours in (None, ()) if not theirs else all(ours == item for item in theirs)
    return (ours is REQUIRED) == (theirs is REQUIRED) and ours == theirs


def agrees(ours: Mapping[str, Any], theirs: Mapping[str, Any], excepted: Mapping[str, str]) -> bool:
    ours = {name: default for name, default in ours.items() if name not in excepted}
    theirs = {name: default for name, default in theirs.items() if name not in excepted}
    if theirs and all(name in ("a", "b", "c") for name in theirs):  # operator's are positional only
        return len(ours) == len(theirs) and set(ours.values()) == {REQUIRED}
    return list(ours) == list(theirs) and all(same_default(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in UNCOMPARED])
def test_parameters_are_torchs(name: str) -> None:
    ours, excepted = OPERATIONS[name].parameters, EXCEPTIONS.get(name, {})
    theirs = sources(name)
    assert theirs, f"nothing to compare {name} with"
    if name == "split":
        theirs = [
            {"split_size_or_sections" if "split_size" in key else key: default for key, default in each.items()}
            for each in theirs
        ]
    assert any(agrees(ours, each, excepted) for each in theirs), f"{dict(ours)} is none of {theirs}"
    if name != "split":
        assert not excepted or not any(agrees(ours, each, {}) for each in theirs), "needs no exception any more"


def test_exceptions_are_of_operations() -> None:
    assert {*EXCEPTIONS, *UNCOMPARED, *SOURCES} <= OPERATIONS.keys()
    assert all(reason for excepted in EXCEPTIONS.values() for reason in excepted.values())


def test_alpha_dropout_without_a_flag_is_off() -> None:
    """Unlike that of dropout, the default of its flag is False: called without it, it does nothing."""
    x = random(2, 3)
    for function in (F.alpha_dropout, F.feature_alpha_dropout):
        assert torch.equal(function(x), x)
        explain = fxlrp.compile(One(lambda x, function=function: function(x)).eval())
        assert torch.equal(explain(x, seed=x), x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operands_weights_and_frozen_parameters_exist(name: str) -> None:
    operation = OPERATIONS[name]
    mentioned = {*operation.operands, *operation.weights, *operation.frozen}
    assert mentioned <= operation.parameters.keys()
    assert operation.variadic is None or operation.variadic in operation.parameters
    # A weight either receives relevance or not; `div` alone has an operand that is always a constant of the rule.
    assert not set(operation.operands) & set(operation.weights) or name == "div"


# ----------------------------------------------------------------------------------------------------
# Binding


class Value:
    """An argument that equals nothing but itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


IGNORED = {"inplace", "_stacklevel", "memory_format", "non_blocking", "copy"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_bind_and_call_are_inverse(name: str) -> None:
    operation = OPERATIONS[name]
    full = {parameter: Value(parameter) for parameter in operation.parameters}
    required = {p: v for p, v in full.items() if operation.parameters[p] is REQUIRED}
    for given in (full, required):
        if operation.variadic in given:
            given = {**given, operation.variadic: (1, 2)}
        bound = operation.bind((), given)
        assert list(bound) == list(operation.parameters)
        args, kwargs = operation.call(bound)
        again = operation.bind(args, kwargs)
        for parameter, value in bound.items():
            if parameter not in IGNORED:
                assert again[parameter] is value or again[parameter] == value, parameter
        # The shortest form: what is required by position, the rest by name and only where it is not the default.
        assert len(args) == len(required)
        assert not [p for p in kwargs if kwargs[p] is operation.parameters[p]]


@pytest.mark.parametrize("name", [n for n, op in OPERATIONS.items() if op.variadic is None and not op.free])
def test_positions_and_names_mean_the_same(name: str) -> None:
    operation = OPERATIONS[name]
    values = {parameter: Value(parameter) for parameter in operation.parameters}
    for cut in range(len(values) + 1):
        items = list(values.items())
        assert operation.bind(tuple(v for _, v in items[:cut]), dict(items[cut:])) == values


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("reshape", ("x", 2, 3), (2, 3)),
        ("reshape", ("x", (2, 3)), (2, 3)),
        ("reshape", ("x", [2, 3]), [2, 3]),
        ("reshape", ("x", -1), (-1,)),
        ("permute", ("x", 0, 2, 1), (0, 2, 1)),
        ("flip", ("x", 0), (0,)),
        ("expand", ("x", -1, 4), (-1, 4)),
        ("repeat", ("x", 2), (2,)),
        ("new_zeros", ("x", 3, 4), (3, 4)),
    ],
)
def test_variadic_arguments(name: str, args: tuple[Any, ...], expected: Any) -> None:
    operation = OPERATIONS[name]
    assert operation.variadic is not None
    assert operation.bind(args, {})[operation.variadic] == expected


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("relu", (), {}, "lacks.*input"),
        ("relu", (1, False, 3), {}, "takes 2 arguments, not 3"),
        ("relu", (1,), {"slope": 2}, "does not take.*slope"),
        ("add", (1, 2), {"other": 3}, "does not take.*other"),
        ("cat", (), {"dim": 1}, "lacks.*tensors"),
    ],
)
def test_calls_that_do_not_fit(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        OPERATIONS[name].bind(args, kwargs)


def test_numpys_names_of_parameters() -> None:
    assert OPERATIONS["sum"].bind((), {"x": 1, "axis": 2}) == {"input": 1, "dim": 2, "keepdim": False, "dtype": None}
    assert OPERATIONS["relu"].bind((), {"self": 1})["input"] == 1
    assert OPERATIONS["cat"].bind(([1],), {"axis": -1})["dim"] == -1


def test_a_default_of_another_type_is_not_left_out() -> None:
    """0 and False, 1 and True are equal in Python, and not the same argument."""
    operation = OPERATIONS["mean"]
    _, kwargs = operation.call(operation.bind(("x", 0), {}))
    assert kwargs == {"dim": 0}
    operation = OPERATIONS["max_pool2d"]
    _, kwargs = operation.call(operation.bind(("x", 2), {"padding": False, "dilation": 1}))
    assert kwargs == {"padding": False}


def test_operands_of_a_list_count_one_by_one() -> None:
    graph = fx.symbolic_trace(Two(lambda a, b: torch.cat([a, b, a], 1))).graph
    (cat,) = (node for node in graph.nodes if node.op == "call_function")
    a, b = (node for node in graph.nodes if node.op == "placeholder")
    assert OPERATIONS["cat"].operands_of(cat) == (a, b, a)


def test_a_vocabulary_holds_every_operation_once() -> None:
    operation = Operation("twice", Family.SHAPE, torch.flip, {"input": REQUIRED})
    with pytest.raises(InternalError, match="twice"):
        Vocabulary([operation, operation])


def test_extend_takes_precedence() -> None:
    mine = Operation("relu", Family.CUSTOM, torch.relu, {"input": REQUIRED})
    extended = CANONICAL.extend([mine])
    found = extended.spelling(torch.relu)
    assert found is not None and found.operation is mine
    assert len(extended.operations) == len(OPERATIONS)
    unchanged = CANONICAL.spelling(torch.relu)
    assert unchanged is not None and unchanged.operation is OPERATIONS["relu"]


def test_no_operation_hides_another() -> None:
    """What an operation calls means that operation."""
    for operation in OPERATIONS.values():
        found = CANONICAL.spelling(operation.function)
        assert found is not None
        if operation.family is not Family.IDENTITY:
            assert found.operation is operation, operation.name
            assert not found.inplace


# ----------------------------------------------------------------------------------------------------
# Every operation has a rule that works


@pytest.mark.parametrize("name", CARRYING)
def test_the_default_preset_has_a_rule_with_an_emitter(name: str) -> None:
    operation = CARRYING[name]
    for preset in (presets.default(), presets.epsilon(0.0)):
        rule = preset.default(operation.family)
        assert implementation(operation, rule) is not None
        assert type(rule).__name__ in fitting_rules(operation)


def test_every_composite_has_a_decomposition() -> None:
    assert {name for name, op in OPERATIONS.items() if op.family is Family.COMPOSITE} == set(DECOMPOSITIONS)


S = random(2, 4, 6)  # two samples of four channels
IMAGES = random(2, 4, 6, 6)
VOLUMES = random(2, 4, 4, 4, 4)
WEIGHT = random(3, 6, seed=1)
INDEX = torch.tensor([[[3, 0, 0]] * 4] * 2)
MASK = random(4, 6, seed=9) > 0
SQUARE = random(6, 5, seed=2)


def kernel(*shape: int) -> Tensor:
    return random(*shape, seed=7)


BY_SIZE = {1: S, 2: IMAGES, 3: VOLUMES}

# operation -> how to call it, and on what
CALLS: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {
    "linear": (lambda x: F.linear(x, WEIGHT), S),
    **{
        f"conv{n}d": (lambda x, n=n: getattr(F, f"conv{n}d")(x, kernel(2, 4, *(2,) * n), padding=1), BY_SIZE[n])
        for n in (1, 2, 3)
    },
    **{
        f"conv_transpose{n}d": (
            lambda x, n=n: getattr(F, f"conv_transpose{n}d")(x, kernel(4, 2, *(2,) * n), stride=2),
            BY_SIZE[n],
        )
        for n in (1, 2, 3)
    },
    "add": (lambda x: x + SQUARE[:, 0], S),
    "sub": (lambda x: SQUARE[:, 0] - x, S),
    "mul": (lambda x: x * 3, S),
    "div": (lambda x: x / SQUARE[:, 0], S),
    "neg": (lambda x: -x, S),
    "matmul": (lambda x: x @ SQUARE, S),
    **{
        name: (lambda x, name=name: getattr(F, name, getattr(torch, name, None))(x), S)
        for name in (
            "relu relu6 selu silu mish hardswish hardsigmoid logsigmoid softsign tanhshrink tanh sigmoid leaky_relu "
            "elu celu gelu hardtanh softplus softshrink hardshrink rrelu"
        ).split()
    },
    "threshold": (lambda x: F.threshold(x, 0.1, -2.0), S),
    "prelu": (lambda x: F.prelu(x, SQUARE[:4, 0]), S),
    "clamp": (lambda x: torch.clamp(x, -0.5, 0.5), S),
    "clamp_min": (lambda x: torch.clamp_min(x, -0.5), S),
    "clamp_max": (lambda x: torch.clamp_max(x, 0.5), S),
    "softmax": (lambda x: F.softmax(x, dim=1), S),
    **{
        f"{kind}pool{n}d": (
            lambda x, n=n, kind=kind: getattr(F, f"{kind}pool{n}d")(x, 3 if "adaptive" in kind else 2),
            BY_SIZE[n],
        )
        for n in (1, 2, 3)
        for kind in ("max_", "avg_", "adaptive_max_", "adaptive_avg_")
    },
    "amax": (lambda x: x.amax(1), S),
    "mean": (lambda x: x.mean(1), S),
    "sum": (lambda x: x.sum(2, keepdim=True), S),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), S),
    "batch_norm": (lambda x: F.batch_norm(x, kernel(4), kernel(4).abs() + 1, kernel(4), kernel(4)), S),
    "instance_norm": (lambda x: F.instance_norm(x), S),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), S),
    "group_norm": (lambda x: F.group_norm(x, 2), S),
    "rms_norm": (lambda x: F.rms_norm(x, (6,)), S),
    "local_response_norm": (lambda x: F.local_response_norm(x, 2), S),
    "reshape": (lambda x: x.reshape(2, -1), S),
    "reshape_as": (lambda x: x.reshape_as(torch.zeros(2, 24)), S),
    "view_as": (lambda x: x.view_as(torch.zeros(2, 24)), S),
    "flatten": (lambda x: x.flatten(1), S),
    "t": (lambda x: x[:, 0].t(), S),
    "unflatten": (lambda x: x.unflatten(1, (2, 2)), S),
    "squeeze": (lambda x: x[:, :1].squeeze(1), S),
    "unsqueeze": (lambda x: x.unsqueeze(-1), S),
    "permute": (lambda x: x.permute(0, 2, 1), S),
    "transpose": (lambda x: x.transpose(-1, 0), S),
    "movedim": (lambda x: x.movedim(0, 2), S),
    "expand": (lambda x: x[:, :1].expand(2, 5, 6), S),
    "expand_as": (lambda x: x[:, :1].expand_as(x), S),
    "repeat": (lambda x: x.repeat(1, 2, 3), S),
    "tile": (lambda x: x.tile(2), S),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), S),
    "flip": (lambda x: x.flip(1, 2), S),
    "roll": (lambda x: x.roll((1, -2), (1, 2)), S),
    "select": (lambda x: x.select(1, -1), S),
    "narrow": (lambda x: x.narrow(1, -3, 2), S),
    "index_select": (lambda x: x.index_select(2, torch.tensor([5, 0, 5])), S),
    "gather": (lambda x: x.gather(2, INDEX), S),
    "getitem": (lambda x: x[:, [1, 1, 3], 2:], S),
    "pad": (lambda x: F.pad(x, (1, -2, 0, 1)), S),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), IMAGES),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 3), IMAGES),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), IMAGES),
    "to": (lambda x: x.to(torch.float64), S),
    "float": (lambda x: x.float().double(), S),
    "double": (lambda x: x.double(), S),
    "half": (lambda x: x.half().double(), S),
    "bfloat16": (lambda x: x.bfloat16().double(), S),
    "masked_fill": (lambda x: x.masked_fill(MASK, 2.0), S),
    "chunk": (lambda x: x.chunk(4, 2)[1], S),
    "split": (lambda x: x.split([1, 5], 2)[1], S),
    "unbind": (lambda x: x.unbind(1)[-1], S),
    "where": (lambda x: torch.where(MASK, x, SQUARE[0, 0]), S),
    "cat": (lambda x: torch.cat([x, torch.ones(2, 1, 6).double(), x], 1), S),
    "stack": (lambda x: torch.stack([x, 2 * x], -1)[..., 0], S),
    "hstack": (lambda x: torch.hstack([x, x]), S),
    "vstack": (lambda x: torch.vstack([x, x]), S),
    "dstack": (lambda x: torch.dstack([x, x]), S),
    **{
        name: (lambda x, name=name: getattr(torch, name)(x), S)
        for name in "exp exp2 expm1 square abs sin cos tan atan erf".split()
    },
    **{
        name: (lambda x, name=name: getattr(torch, name)(x), S.abs() + 0.5)
        for name in "log log2 log10 log1p sqrt rsqrt reciprocal".split()
    },
    "pow": (lambda x: x**3, S),
    "safe_softmax": (lambda x: torch._safe_softmax(x, 1), S),
    "log_softmax": (lambda x: F.log_softmax(x, 1), S),
    "einsum": (lambda x: torch.einsum("bij,jk->bki", x, SQUARE), S),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x, dim=(1, 2)), S),
    "cumsum": (lambda x: x.cumsum(1), S),
    "fold": (lambda x: F.fold(x, (2, 4), (2, 2), stride=(1, 1)), random(2, 8, 3)),
    "unfold": (lambda x: F.unfold(x, 3, padding=1, stride=2), IMAGES),
    "windows": (lambda x: x.unfold(-1, 3, 2), S),
    "diagonal": (lambda x: x.diagonal(1, 1, 2), S),
    "topk": (lambda x: x.topk(2, 1)[0], S),
    "sort": (lambda x: x.sort(-1, descending=True)[0], S),
    "tril": (lambda x: x.tril(1), S),
    "triu": (lambda x: x.triu(-1), S),
    "take_along_dim": (lambda x: torch.take_along_dim(x, INDEX[:, :1], 2), S),
    "nan_to_num": (lambda x: torch.nan_to_num(x), S),
    "maximum": (lambda x: torch.maximum(x, SQUARE[:, 0]), S),
    "minimum": (lambda x: torch.minimum(x, SQUARE[:, 0]), S),
    "embedding": (lambda x: F.embedding(x, WEIGHT), torch.tensor([[0, 2, 2], [1, 0, 1]])),
}

# Reached by other tests: it has no call that a model could write, or capture cannot see it in a function of tensors.
UNCALLED = {
    "expect_dims",
    "setitem",
    "repeat_heads",
    "mask_scores",
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "var",
    "std",
}


def test_every_operation_that_carries_relevance_is_called_below() -> None:
    assert CARRYING.keys() - UNCALLED == CALLS.keys()


def linear_share(function: Callable[[Tensor], Tensor], x: Tensor, r: Tensor, out: Tensor) -> Tensor:
    """``x * J^T (R / z)``: LRP-0 of what is affine in ``x``, by autograd."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf, torch.where(out == 0, 0.0, r / out))
    return x * gradient


def moved_back(function: Callable[[Tensor], Tensor], x: Tensor, r: Tensor, out: Tensor) -> Tensor:
    """``J^T R``: relevance follows the elements, and copies add up."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf, r)
    return gradient


def frozen_statistics(function: Callable[[Tensor], Tensor], x: Tensor, r: Tensor, out: Tensor) -> Tensor:
    """Normalization with ``1/sigma`` as a constant: `y = L x + b` is affine in what remains."""
    if function is CALLS["batch_norm"][0]:
        return linear_share(function, x, r, out)
    centred: dict[Any, Callable[[Tensor], Tensor]] = {
        CALLS["layer_norm"][0]: lambda u: u - u.mean(-1, keepdim=True),
        CALLS["instance_norm"][0]: lambda u: u - u.mean(-1, keepdim=True),
        CALLS["group_norm"][0]: lambda u: (u.reshape(2, 2, -1) - u.reshape(2, 2, -1).mean(-1, keepdim=True)).reshape(
            u.shape
        ),
    }
    constant = centred.get(function, lambda u: u)
    scale = (out / constant(x)).detach()
    return linear_share(lambda u: constant(u) * scale, x, r, out)


ORACLES: dict[Family, Callable[..., Tensor]] = {
    Family.LINEAR: linear_share,
    Family.SUM: linear_share,
    Family.MATMUL: linear_share,
    Family.AVERAGE: linear_share,
    Family.NORMALIZATION: frozen_statistics,
    Family.SHAPE: moved_back,
    Family.MAX_POOL: moved_back,
    Family.ACTIVATION: lambda function, x, r, out: r,
    Family.PRODUCT: lambda function, x, r, out: r,
    # x * J^T(R / y), of which x * (R - y * sum(R)) is the form for softmax
    Family.SOFTMAX: linear_share,
    Family.EMBEDDING: lambda function, x, r, out: r.sum(-1),
}


@pytest.mark.parametrize("name", CALLS)
def test_relevance_of_every_operation(name: str) -> None:
    """By the default rules with epsilon 0, against autograd or the formula."""
    function, x = CALLS[name]
    explain = fxlrp.compile(One(function).eval(), presets.epsilon(0.0))
    used = [CANONICAL.operation(node) for node in explain.nodes]
    assert name in [operation.name for operation in used if operation]
    out = function(x)
    r = random(*out.shape, seed=5)
    expected = ORACLES[CARRYING[name].family](function, x, r, out)
    # Casts go through fewer digits on the way.
    tolerance = {"float": 1e-6, "half": 1e-2, "bfloat16": 1e-1}.get(name, 1e-10)
    assert_relevance(explain(x, seed=r), expected, tolerance)


@pytest.mark.parametrize("function", [torch.var, torch.std])
@pytest.mark.parametrize("keepdim", [False, True])
def test_a_spread_is_shared_by_squared_deviations(function: Callable[..., Tensor], keepdim: bool) -> None:
    r = random(2, 1, 6, seed=5)
    explain = fxlrp.compile(One(lambda x: function(x, 1, keepdim=keepdim)).eval(), presets.epsilon(0.0))
    squares = (S - S.mean(1, keepdim=True)) ** 2
    expected = squares / squares.sum(1, keepdim=True) * r
    assert_relevance(explain(S, seed=r if keepdim else r.squeeze(1)), expected, 1e-10)


# ----------------------------------------------------------------------------------------------------
# Spellings


def augmented_add(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a += b
    return a


def augmented_sub(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a -= b
    return a


def augmented_mul(x: Tensor) -> Tensor:
    x = x.clone()
    x *= 3
    return x


def augmented_div(x: Tensor) -> Tensor:
    x = x.clone()
    x /= 4
    return x


class Changed(nn.Module):
    """The value after a call for its effect alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, *rest: Any) -> Tensor:
        a = a.clone()
        self.function(a, *rest)
        return a


ADD: dict[str, Callable[..., Tensor]] = {
    "a + b": lambda a, b: a + b,
    "a += b": augmented_add,
    "torch.add": torch.add,
    "torch.add, keywords": lambda a, b: torch.add(input=a, other=b),
    "torch.add, alpha=1": lambda a, b: torch.add(a, b, alpha=1),
    "a.add": lambda a, b: a.add(b),
    "a.add_": lambda a, b: a.clone().add_(b),
    "a.add_ for its effect": Changed(lambda a, b: a.add_(b)),
    "operator.add": operator.add,
    "operator.iadd": lambda a, b: operator.iadd(a.clone(), b),
    "a.__add__": lambda a, b: a.__add__(b),
    "a.__iadd__": lambda a, b: a.clone().__iadd__(b),
    "b.__radd__": lambda a, b: b.__radd__(a),
    "alpha=2 of half": lambda a, b: torch.add(a, b / 2, alpha=2),
    "sum of a list": lambda a, b: sum([a, b]),
    "minus the negative": lambda a, b: a - (-b),
}
SUB: dict[str, Callable[..., Tensor]] = {
    "a - b": lambda a, b: a - b,
    "a -= b": augmented_sub,
    "torch.sub": torch.sub,
    "torch.subtract": torch.subtract,
    "a.sub": lambda a, b: a.sub(b),
    "a.sub_": lambda a, b: a.clone().sub_(b),
    "a.subtract": lambda a, b: a.subtract(b),
    "a.subtract_": Changed(lambda a, b: a.subtract_(b)),
    "operator.sub": operator.sub,
    "operator.isub": lambda a, b: operator.isub(a.clone(), b),
    "torch.rsub": lambda a, b: torch.rsub(b, a),
    "a.__sub__": lambda a, b: a.__sub__(b),
    "b.__rsub__": lambda a, b: b.__rsub__(a),
    "alpha": lambda a, b: torch.sub(a, 4 * b, alpha=0.25),
    "plus the negative": lambda a, b: a + torch.neg(b),
}
MUL: dict[str, Callable[..., Tensor]] = {
    "a * b": lambda a, b: a * b,
    "torch.mul": torch.mul,
    "torch.multiply": torch.multiply,
    "a.mul": lambda a, b: a.mul(b),
    "a.mul_": lambda a, b: a.clone().mul_(b),
    "a.multiply_": Changed(lambda a, b: a.multiply_(b)),
    "operator.mul": operator.mul,
    "operator.imul": lambda a, b: operator.imul(a.clone(), b),
    "a.__mul__": lambda a, b: a.__mul__(b),
}


def both(function: Callable[..., Tensor], a: Tensor, b: Tensor, r: Tensor) -> tuple[list[float], list[float]]:
    explain = fxlrp.compile(Two(function).eval(), presets.epsilon(0.0))
    first, second = explain(a.clone(), b.clone(), seed=r)
    return first.flatten().tolist(), second.flatten().tolist()


# The numbers are such that every quotient is exact.
A, B = torch.tensor([[1.0, 6.0, -3.0]]), torch.tensor([[3.0, -2.0, 1.0]])
R = torch.tensor([[8.0, 16.0, 4.0]])


@pytest.mark.parametrize("spelling", ADD)
def test_spellings_of_add(spelling: str) -> None:
    """``a / (a + b)`` is 1/4, 6/4, 3/2, and ``b / (a + b)`` 3/4, -2/4, -1/2."""
    assert both(ADD[spelling], A, B, R) == ([2.0, 24.0, 6.0], [6.0, -8.0, -2.0])


@pytest.mark.parametrize("spelling", SUB)
def test_spellings_of_sub(spelling: str) -> None:
    """``a / (a - b)`` is -1/2, 6/8, 3/4, and ``-b / (a - b)`` 3/2, 2/8, 1/4."""
    assert both(SUB[spelling], A, B, R) == ([-4.0, 12.0, 3.0], [12.0, 4.0, 1.0])


@pytest.mark.parametrize("spelling", MUL)
def test_spellings_of_mul(spelling: str) -> None:
    """Neither factor is a gate: half each."""
    assert both(MUL[spelling], A, B, R) == ([4.0, 8.0, 2.0], [4.0, 8.0, 2.0])


BASE = [[1.0, -2.0, 4.0], [-1.0, 0.5, 2.0]]
MATRIX = torch.tensor([[1.0, 0.0], [3.0, 1.0], [0.0, 3.0]])

# What it computes -> canonical name -> spellings, the value on BASE, the relevance of the seed 1, 2, 3, ...
UNARY: dict[str, tuple[dict[str, Callable[[Tensor], Tensor]], Any, Any]] = {
    "relu": (
        {
            "torch.relu": torch.relu,
            "torch.relu_": lambda x: torch.relu_(x.clone()),
            "F.relu": F.relu,
            "F.relu_": Changed(F.relu_),
            "inplace": Changed(lambda x: F.relu(x, inplace=True)),
            "inplace by position": Changed(lambda x: F.relu(x, True)),
            "method": lambda x: x.relu(),
            "method_": Changed(lambda x: x.relu_()),
            "nn.ReLU": nn.ReLU(),
            "nn.ReLU in place": Changed(nn.ReLU(inplace=True)),
        },
        [[1.0, 0.0, 4.0], [0.0, 0.5, 2.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "clamp": (
        {
            "torch.clamp": lambda x: torch.clamp(x, 0, 1),
            "torch.clip": lambda x: torch.clip(x, min=0, max=1),
            "method": lambda x: x.clamp(0, 1),
            "clip": lambda x: x.clip(0, 1),
            "method_": Changed(lambda x: x.clamp_(0, max=1)),
            "clip_": Changed(lambda x: torch.clip_(x, 0, 1)),
        },
        [[1.0, 0.0, 1.0], [0.0, 0.5, 1.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "neg": (
        {
            "-x": lambda x: -x,
            "torch.neg": torch.neg,
            "torch.negative": torch.negative,
            "method": lambda x: x.neg(),
            "method_": Changed(lambda x: x.neg_()),
            "negative": lambda x: x.negative(),
            "operator": operator.neg,
        },
        [[-1.0, 2.0, -4.0], [1.0, -0.5, -2.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "mul": (
        {
            "x * 3": lambda x: x * 3,
            "3 * x": lambda x: 3 * x,
            "x *= 3": augmented_mul,
            "torch.mul": lambda x: torch.mul(x, 3),
            "torch.multiply": lambda x: torch.multiply(x, 3),
            "method_": Changed(lambda x: x.mul_(3)),
            "operator": lambda x: operator.mul(3, x),
            "__rmul__": lambda x: x.__rmul__(3),
        },
        [[3.0, -6.0, 12.0], [-3.0, 1.5, 6.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "div": (
        {
            "x / 4": lambda x: x / 4,
            "x /= 4": augmented_div,
            "torch.div": lambda x: torch.div(x, 4),
            "torch.divide": lambda x: torch.divide(x, 4),
            "torch.true_divide": lambda x: torch.true_divide(x, 4),
            "method": lambda x: x.div(4),
            "method_": Changed(lambda x: x.div_(4)),
            "true_divide_": Changed(lambda x: x.true_divide_(4)),
            "rounding": lambda x: x.div(4, rounding_mode=None),
            "operator": lambda x: operator.truediv(x, 4),
            "itruediv": lambda x: operator.itruediv(x.clone(), 4),
        },
        [[0.25, -0.5, 1.0], [-0.25, 0.125, 0.5]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "matmul": (
        {
            "@": lambda x: x @ MATRIX,
            "torch.matmul": lambda x: torch.matmul(x, MATRIX),
            "torch.mm": lambda x: torch.mm(x, MATRIX),
            "torch.bmm": lambda x: torch.bmm(x[None], MATRIX[None])[0],
            "method": lambda x: x.matmul(MATRIX),
            "mm": lambda x: x.mm(MATRIX),
            "bmm": lambda x: x.unsqueeze(0).bmm(MATRIX.unsqueeze(0)).squeeze(0),
            "operator": lambda x: operator.matmul(x, MATRIX),
        },
        # R / z is -1/5, 2/10 and 6, 4/6.5
        [[-5.0, 10.0], [0.5, 6.5]],
        [[-0.2, 0.8, 2.4], [-6.0, 0.5 * (18 + 4 / 6.5), 2 * 12 / 6.5]],
    ),
    "linear": (
        {
            "F.linear": lambda x: F.linear(x, MATRIX.T),
            "keywords": lambda x: F.linear(input=x, weight=MATRIX.T, bias=None),
            "nn.Linear": lambda x: F.linear(x, MATRIX.t()),
        },
        [[-5.0, 10.0], [0.5, 6.5]],
        [[-0.2, 0.8, 2.4], [-6.0, 0.5 * (18 + 4 / 6.5), 2 * 12 / 6.5]],
    ),
    "mean": (
        {
            "torch.mean": lambda x: torch.mean(x, 1),
            "method": lambda x: x.mean(1),
            "dim": lambda x: x.mean(dim=-1),
            "axis": lambda x: torch.mean(x, axis=1),
            "keepdim": lambda x: x.mean((1,), True).squeeze(1),
        },
        # 1 * x / sum(x), 2 * x / sum(x)
        [1.0, 0.5],
        [[1 / 3, -2 / 3, 4 / 3], [-4 / 3, 2 / 3, 8 / 3]],
    ),
    "sum": (
        {
            "torch.sum": lambda x: torch.sum(x, 1),
            "method": lambda x: x.sum(1),
            "dim": lambda x: x.sum(dim=[-1]),
            "axis": lambda x: x.sum(axis=1),
            "keepdim": lambda x: torch.sum(x, 1, keepdim=True)[:, 0],
        },
        [3.0, 1.5],
        [[1 / 3, -2 / 3, 4 / 3], [-4 / 3, 2 / 3, 8 / 3]],
    ),
    "transpose": (
        {
            "torch.transpose": lambda x: torch.transpose(x, 0, 1),
            "method": lambda x: x.transpose(-1, 0),
            "swapaxes": lambda x: x.swapaxes(0, 1),
            "torch.swapdims": lambda x: torch.swapdims(x, 1, 0),
            "keywords": lambda x: x.transpose(dim0=0, dim1=1),
            "mT": lambda x: x.mT,
        },
        [[1.0, -1.0], [-2.0, 0.5], [4.0, 2.0]],
        [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]],
    ),
    "permute": (
        {
            "method": lambda x: x.permute(1, 0),
            "tuple": lambda x: x.permute((1, 0)),
            "list": lambda x: x.permute([-1, -2]),
            "torch": lambda x: torch.permute(x, (1, 0)),
            "keyword": lambda x: x.permute(dims=(1, 0)),
        },
        [[1.0, -1.0], [-2.0, 0.5], [4.0, 2.0]],
        [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]],
    ),
    "reshape": (
        {
            "view": lambda x: x.view(3, 2),
            "tuple": lambda x: x.view((3, 2)),
            "size": lambda x: x.view(torch.Size([3, 2])),
            "reshape": lambda x: x.reshape(-1, 2),
            "torch": lambda x: torch.reshape(x, (3, -1)),
            "computed": lambda x: x.view(x.size(1), x.shape[0]),
        },
        [[1.0, -2.0], [4.0, -1.0], [0.5, 2.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "flatten": (
        {
            "torch": torch.flatten,
            "method": lambda x: x.flatten(),
            "nn": nn.Flatten(0),
            "keyword": lambda x: x.flatten(end_dim=1),
        },
        [1.0, -2.0, 4.0, -1.0, 0.5, 2.0],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "cat": (
        {
            "torch.cat": lambda x: torch.cat([x, x], 1),
            "tuple": lambda x: torch.cat((x, x), dim=-1),
            "concat": lambda x: torch.concat([x, x], dim=1),
            "concatenate": lambda x: torch.concatenate([x, x], axis=1),
            "keywords": lambda x: torch.cat(tensors=[x, x], dim=1),
        },
        [[1.0, -2.0, 4.0, 1.0, -2.0, 4.0], [-1.0, 0.5, 2.0, -1.0, 0.5, 2.0]],
        [[1.0 + 4, 2.0 + 5, 3.0 + 6], [7.0 + 10, 8.0 + 11, 9.0 + 12]],
    ),
    "max_pool1d": (
        {
            "F": lambda x: F.max_pool1d(x, 2, 1),
            "torch": lambda x: torch.max_pool1d(x, 2, 1),
            "nn": nn.MaxPool1d(2, stride=1),
            "keywords": lambda x: F.max_pool1d(input=x, kernel_size=(2,), stride=(1,), return_indices=False),
        },
        [[1.0, 4.0], [0.5, 2.0]],
        [[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]],
    ),
    "avg_pool1d": (
        {
            "F": lambda x: F.avg_pool1d(x, 3),
            "torch": lambda x: torch.avg_pool1d(x, 3),
            "nn": nn.AvgPool1d(3),
            "keywords": lambda x: F.avg_pool1d(x, kernel_size=3, ceil_mode=False),
        },
        [[1.0], [0.5]],
        [[1 / 3, -2 / 3, 4 / 3], [-4 / 3, 2 / 3, 8 / 3]],
    ),
    "adaptive_avg_pool1d": (
        {
            "F": lambda x: F.adaptive_avg_pool1d(x, 1),
            "torch": lambda x: torch.adaptive_avg_pool1d(x, (1,)),
            "nn": nn.AdaptiveAvgPool1d(1),
        },
        [[1.0], [0.5]],
        [[1 / 3, -2 / 3, 4 / 3], [-4 / 3, 2 / 3, 8 / 3]],
    ),
    "masked_fill": (
        {
            "torch": lambda x: torch.masked_fill(x, x < 0, 7.0),
            "method": lambda x: x.masked_fill(x < 0, 7.0),
            "method_": Changed(lambda x: x.masked_fill_(x.lt(0), 7)),
            "keywords": lambda x: x.masked_fill(mask=torch.lt(x, 0), value=7.0),
        },
        [[1.0, 7.0, 4.0], [7.0, 0.5, 2.0]],
        [[1.0, 0.0, 3.0], [0.0, 5.0, 6.0]],
    ),
    "where": (
        {
            "torch": lambda x: torch.where(x > 0, x, 7.0),
            "method": lambda x: x.where(x > 0, torch.tensor(7.0)),
            "the other way round": lambda x: torch.where(x <= 0, torch.tensor(7.0), x),
            "method's keywords": lambda x: x.where(condition=x.gt(0), other=torch.tensor(7.0)),
        },
        [[1.0, 7.0, 4.0], [7.0, 0.5, 2.0]],
        [[1.0, 0.0, 3.0], [0.0, 5.0, 6.0]],
    ),
    "getitem": (
        {
            "slice": lambda x: x[:, 1:],
            "operator": lambda x: operator.getitem(x, (slice(None), slice(1, None))),
            "ellipsis": lambda x: x[..., -2:],
            "list": lambda x: x[:, [1, 2]],
            "mask": lambda x: x[:, torch.tensor([False, True, True])],
            "tensor": lambda x: x[:, torch.tensor([1, 2])],
        },
        [[-2.0, 4.0], [0.5, 2.0]],
        [[0.0, 1.0, 2.0], [0.0, 3.0, 4.0]],
    ),
    "unsqueeze": (
        {
            "torch": lambda x: torch.unsqueeze(x, 1),
            "method": lambda x: x.unsqueeze(-2),
            "method_": lambda x: x.clone().unsqueeze_(1),
        },
        [[[1.0, -2.0, 4.0]], [[-1.0, 0.5, 2.0]]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "": (  # nothing at all
        {
            "F.dropout": lambda x: F.dropout(x, 0.5, False),
            "keyword": lambda x: F.dropout(x, training=False),
            "in place": lambda x: F.dropout(x, training=False, inplace=True),
            "torch.dropout": lambda x: torch.dropout(x, 0.5, False),
            "torch.dropout, train": lambda x: torch.dropout(x, p=0.5, train=False),
            "nn.Dropout": nn.Dropout(),
            "nn.AlphaDropout": nn.AlphaDropout(),
            "nn.Identity": nn.Identity(),
            "clone": lambda x: x.clone(),
            "torch.clone": torch.clone,
            "contiguous": lambda x: x.contiguous(memory_format=torch.contiguous_format),
            "+x": lambda x: +x,
            "detach": lambda x: x.detach(),
            "data": lambda x: x.data,
        },
        BASE,
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
}
SPELLINGS = [(operation, spelling) for operation, (spellings, _, _) in UNARY.items() for spelling in spellings]


@pytest.mark.parametrize(("name", "spelling"), SPELLINGS)
def test_spellings(name: str, spelling: str) -> None:
    """One operation in the graph, the value, and the relevance by hand, whichever way it is written."""
    spellings, value, relevance = UNARY[name]
    function = spellings[spelling]
    x = torch.tensor(BASE)
    model = One(function).eval()
    torch.testing.assert_close(model(x.clone()), torch.tensor(value))
    explain = fxlrp.compile(model.eval(), presets.epsilon(0.0))
    out = torch.tensor(value)
    seed = torch.arange(1.0, out.numel() + 1).reshape(out.shape)
    torch.testing.assert_close(explain(x, seed=seed), torch.tensor(relevance))
    operations = [operation.name for node in explain.nodes if (operation := CANONICAL.operation(node))]
    assert not name or operations.count(name) == 1
    assert not [op for op in operations if CANONICAL.operations[op].family in (Family.COMPOSITE, Family.IDENTITY)]


NATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    # torch's own functions take their arguments in another order than those of torch.nn.functional
    "batch_norm": lambda x: torch.batch_norm(
        x, kernel(4), kernel(4, 1)[:, 0], kernel(4) / 2, kernel(4).abs() + 1, False, 0.1, 1e-5, False
    ),
    "instance_norm": lambda x: torch.instance_norm(x, kernel(4), kernel(4), None, None, True, 0.1, 1e-5, False),
    "layer_norm": lambda x: torch.layer_norm(x, (6,), kernel(6), kernel(6), 1e-5, False),
    "group_norm": lambda x: torch.group_norm(x, 2, kernel(4), kernel(4), 1e-5, False),
    "softmax": lambda x: torch.softmax(x, 1, torch.float32),
    "softmax_method": lambda x: x.softmax(1, torch.float32),
    "elu": lambda x: torch._C._nn.elu(x, 0.5, 2.0, 3.0),
    "avg_pool": lambda x: torch._C._nn.avg_pool2d(x, 2, None, 1, False, False),
    "dropout": lambda x: torch.dropout(x, 0.5, False),
    "to": lambda x: x.to("cpu", torch.float32),
    "sum": lambda x: torch.sum(x, 1, False, dtype=torch.float32),
    "interpolate": lambda x: torch._C._nn.upsample_nearest1d(x, (12,)),
    "pad": lambda x: torch._C._nn.reflection_pad1d(x, (1, 1)),
    "max_pool_indices": lambda x: F.max_pool1d(x, 2, 2, 0, 1, False, True)[0],
    "view_dtype": lambda x: x.view(torch.int64).view(torch.float64),
    "size_argument": lambda x: x.new_zeros(x.shape) + x,
    "scalar_first": lambda x: torch.where(x > 0, 1.0, x),
    "max": lambda x: x.max(dim=1)[0],
    "var": lambda x: x.var(1),
    "einsum": lambda x: torch.einsum("bij,jk->bik", x, SQUARE),
    "pow": lambda x: x**2,
    "addmm": lambda x: torch.addmm(kernel(4, 5), x[0], SQUARE),
}


class Forward(fx.Interpreter):
    """Runs a product and keeps the value that is explained."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if getattr(n.target, "__name__", "") == "initial_relevance":
            self.explained = self.env[n.args[0]]
        return value


@pytest.mark.parametrize("name", NATIVE)
def test_unusual_calls_are_right_or_refused(name: str) -> None:
    """An argument in an unusual place is understood, or the error is of fxlrp's own and names a line."""
    function = NATIVE[name]
    try:
        explain = fxlrp.compile(One(function).eval(), presets.epsilon(0.0), example_inputs=S)
    except (CaptureError, UnsupportedOpError) as error:
        assert re.search(r"at .*\.py:\d+", str(error))
        return
    runner = Forward(explain.graph_module)
    with torch.no_grad():
        runner.run(S, None, None)
    assert_relevance(runner.explained, function(S), 1e-12)
    assert torch.isfinite(explain(S)).all()


def test_hand_computed_gelu_and_softplus_pass_all_their_options() -> None:
    """The value of an activation enters the next layer's share: an option that is lost shows there."""
    x = torch.tensor([[0.5, -1.0]])
    for function, value in (
        (lambda x: F.gelu(x, approximate="tanh"), None),
        (lambda x: F.softplus(x, 2.0, 5.0), [math.log1p(math.exp(1.0)) / 2, math.log1p(math.exp(-2.0)) / 2]),
        (lambda x: F.leaky_relu(x, 0.25), [0.5, -0.25]),
        (lambda x: F.elu(x, 2.0), [0.5, 2 * math.expm1(-1.0)]),
        (lambda x: F.hardtanh(x, -0.75, 0.25), [0.25, -0.75]),
        (lambda x: F.threshold(x, 0.6, 3.0), [3.0, 3.0]),
        (lambda x: F.threshold(x, 0.4, 3.0), [0.5, 3.0]),
    ):
        y = torch.tensor([value]) if value else function(x)
        explain = fxlrp.compile(One(lambda x, f=function: f(x).sum(1)).eval(), presets.epsilon(0.0))
        torch.testing.assert_close(explain(x), y)  # the sum's value, shared among the two
