"""Parameters of the canonical operations, against ATen's schemas and the signatures of torch.nn.functional."""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp.operation import REQUIRED
from fxlrp.vocabulary import CANONICAL
from oracles import One, random

OPERATIONS = CANONICAL.operations

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
    "norm_of": torch.functional.norm,
    "windows": torch.ops.aten.unfold,
    "unfold": F.unfold,
    **{name: getattr(operator, name) for name in ("and_", "or_", "xor", "invert", "not_", "is_", "is_not", "contains")},
}

_IN_PLACE = "torch writes x.f_() where torch.nn.functional has f(x, inplace=True); a canonical call takes either"
_FACTORY = "layout and pinning of a constant are not followed"
_CAST = "Tensor.float() and its like have no schema; their documentation has this parameter"
_SECTIONS = "ATen has an overload for the number of parts, and one for the indices"
_OF_SECTIONS = {"sections": _SECTIONS, "indices": _SECTIONS}
_NUMBERED = "ATen numbers its operands, which canonical calls give by position"
_SECOND = "required, and canonical calls give it by position; the documentation has another name"
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
    "sort": {"stable": _OVERLOADS},
    **{
        name: {"unbiased": _OVERLOADS, "correction": _OVERLOADS, "dim": _OVERLOADS}
        for name in ("var", "std", "var_mean", "std_mean")
    },
    **{name: {"dim": _OVERLOADS, "keepdim": _OVERLOADS} for name in ("median", "nanmedian", "prod")},
    "round": {"decimals": _OVERLOADS},
    "meshgrid": {"indexing": _OVERLOADS},
    **{name: {"x": _OVERLOADS, "dx": _OVERLOADS} for name in ("trapezoid", "trapz", "cumulative_trapezoid")},
    "scatter": dict.fromkeys(("src", "value", "reduce"), _OVERLOADS),
    "chalf": {"memory_format": "of no effect on values"},
    "linalg_solve_triangular": {"upper": "required, but by keyword only"},
    **{name: {"indices_or_sections": _SECTIONS, **_OF_SECTIONS} for name in ("hsplit", "vsplit", "dsplit")},
    "tensor_split": {"indices_or_sections": _SECTIONS, **_OF_SECTIONS},
    "cholesky_solve": {"L": _NUMBERED, "input2": _NUMBERED},
    "ormqr": dict.fromkeys(("tau", "other", "input2", "input3"), _NUMBERED),
    "chain_matmul": {"tensors": "the function takes its operands one by one", "matrices": "as tensors"},
    "linalg_tensorsolve": {"B": _SECOND, "other": _SECOND},
    "linalg_lstsq": {"B": _SECOND, "b": _SECOND},
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
    **{
        name: {"layout": _FACTORY, "pin_memory": _FACTORY}
        for name in ("new_zeros", "new_ones", "new_empty", "new_full")
    },
}

# Compared with no source, and why.
UNCOMPARED = {
    "where_method": "ATen has where(condition, self, other) only; the method's order is checked by its spelling below",
    "getattr": "Python's getattr, without the default",
    "max": "three overloads, told apart by their arguments; each is tested below",
    "min": "as max",
    "einsum": "Python's takes its operands one by one",
    "normalize_vectors": "torch.nn.functional.normalize; its name means a whole method of fxlrp's passes",
    **dict.fromkeys(("from_local", "redistribute", "to_local", "whole"), "fxlrp's own"),
    **dict.fromkeys(
        ("mask_scores", "repeat_heads", "initial_state", "attention_scale", "local_response"), "fxlrp's own"
    ),
    **dict.fromkeys(("sum_bags", "largest_in_bags", "bag_of_rows"), "fxlrp's own"),
    **dict.fromkeys(("reversed_index", "last_index", "is_padding", "longest", "combination_places"), "fxlrp's own"),
    **dict.fromkeys(("attention_mask", "padding_mask", "both_masks", "causal_mask"), "fxlrp's own"),
    "to": "its overloads share no parameter, and calls are kept as written; its spellings are tested with the passes",
    "expect_dims": "fxlrp's own",
    "grouped_mm": "torch calls the matrices mat_a and mat_b",
    **dict.fromkeys(
        ("attention", "at_positions", "grouped_mm_fallback", "rounded_quotient", "broadcast_among"), "fxlrp's own"
    ),
    **dict.fromkeys(("max_unpool2d_to", "max_unpool3d_to"), "ATen's max_unpool, which takes the size"),
    **dict.fromkeys(("power", "scatter_product", "index_product", "expected_log_loss"), "fxlrp's own"),
    **dict.fromkeys(("median_of", "nanmedian_of"), "one overload of the median, for fxlrp's passes"),
    "tensordot": "torch.tensordot is written in Python; ATen's takes the dimensions of each operand",
    **dict.fromkeys("float double half bfloat16 long int short char byte bool cpu type cfloat cdouble".split(), _CAST),
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
        if not theirs or isinstance(ours, tuple):
            return ours is None or list(ours) == theirs
        return all(ours == item for item in theirs)
    return (ours is REQUIRED) == (theirs is REQUIRED) and ours == theirs


def first_by_its_name(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our parameters; the first under ATen's name, where that is ``self`` and the documentation has another."""
    first = next(iter(ours), None)
    renamed = next(iter(theirs), None) == "input" and first is not None and first not in theirs
    return {"input" if renamed and name == first else name: default for name, default in ours.items()}


def agrees(ours: Mapping[str, Any], theirs: Mapping[str, Any], excepted: Mapping[str, str]) -> bool:
    ours = {name: default for name, default in ours.items() if name not in excepted}
    theirs = {name: default for name, default in theirs.items() if name not in excepted}
    if theirs and all(name in ("a", "b", "c") for name in theirs):  # operator's are positional only
        return len(ours) == len(theirs) and set(ours.values()) == {REQUIRED}
    ours = first_by_its_name(ours, theirs)
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


def called(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return function(x)


def test_alpha_dropout_without_a_flag_is_off() -> None:
    """Unlike that of dropout, the default of its flag is False: called without it, it does nothing."""
    x = random(2, 3)
    for function in (F.alpha_dropout, F.feature_alpha_dropout):
        assert torch.equal(function(x), x)
        explain = fxlrp.compile(One(functools.partial(called, function)).eval())
        assert torch.equal(explain(x, seed=x), x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operands_weights_and_frozen_parameters_exist(name: str) -> None:
    operation = OPERATIONS[name]
    mentioned = {*operation.operands, *operation.without_relevance, *operation.required_values}
    assert mentioned <= operation.parameters.keys()
    assert operation.variadic is None or operation.variadic in operation.parameters
    # A weight either receives relevance or not; `div` alone has an operand that is always a constant of the rule.
    assert not set(operation.operands) & set(operation.without_relevance) or name == "div"
