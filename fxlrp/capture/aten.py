"""Convert the ATen calls that ``torch.export`` records to calls of torch functions.

Most operations have the same name and arguments in both, and need no row here, because the vocabulary knows them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._ops import OpOverload

from fxlrp.functions import set_item
from fxlrp.operation import satisfies
from fxlrp.vocabulary.lookup import Vocabulary


class Call(NamedTuple):
    """A function and its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Arguments = Mapping[str, Any]


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return Call(function, args, kwargs)


_END = torch.iinfo(torch.int64).max


def _slices(given: Arguments) -> tuple[Any, ...] | None:
    """The index of ``slice``; None if it takes everything."""
    dim, step = given.get("dim", 0), given.get("step", 1)
    start, end = given.get("start"), given.get("end")
    start = None if isinstance(start, int) and start == 0 else start
    end = None if isinstance(end, int) and end == _END else end
    if start is None and end is None and step == 1:
        return None
    return _at(dim, slice(start, end, None if step == 1 else step))


def _without_self(given: Arguments) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "self"}


def _at(dim: int, index: Any) -> tuple[Any, ...]:
    whole = slice(None)
    return (*(whole,) * dim, index) if dim >= 0 else (..., index, *(whole,) * (-dim - 1))


def _slice(given: Arguments) -> Call:
    index = _slices(given)
    return (
        _call(torch.Tensor.contiguous, given["self"])
        if index is None
        else _call(operator.getitem, given["self"], index)
    )


def _slice_scatter(given: Arguments) -> Call:
    index = _slices(given)
    return _call(set_item, given["self"], ... if index is None else index, given["src"])


def _indices(indices: Any) -> tuple[Any, ...]:
    return tuple(slice(None) if index is None else index for index in indices)


def _index_put(given: Arguments) -> Call | None:
    if given.get("accumulate", False):
        return _call(torch.ops.aten.index_put.default, *given.values())
    return _call(set_item, given["self"], _indices(given["indices"]), given["values"])


_NOT_OF_VALUES = frozenset(
    "layout pin_memory non_blocking memory_format implicit cudnn_enable cudnn_enabled sparse_grad path".split()
)


def _copy(given: Arguments) -> Call | None:
    """A copy into a tensor of the same type; other copies are unchanged, because the type would be lost."""
    target, source = given["self"], given["src"]
    same = target.meta["val"].dtype == source.meta["val"].dtype
    return _call(torch.Tensor.expand_as, source, target) if same else None


def _to_copy(given: Arguments) -> Call:
    options = {name: value for name, value in given.items() if name in ("dtype", "device") and value is not None}
    return _call(torch.Tensor.to, given["self"], **options) if options else _call(torch.clone, given["self"])


def _to(given: Arguments) -> Call:
    """A cast; no operation if it keeps the type and the device of the examples."""
    other = given.get("other")
    if other is not None:
        return _call(torch.Tensor.to, given["self"], other)
    value = given["self"].meta["val"]
    keeps = given.get("dtype") in (None, value.dtype) and given.get("device") in (None, value.device)
    return _call(torch.Tensor.contiguous, given["self"]) if keeps else _to_copy(given)


def _reversed_dims(given: Arguments) -> Call:
    return _call(torch.Tensor.permute, given["self"], tuple(reversed(range(given["self"].meta["val"].dim()))))


def _elu(given: Arguments) -> Call | None:
    alpha, scale = given.get("alpha", 1), given.get("scale", 1)
    if given.get("input_scale", 1) != 1:
        return None
    if scale == 1:
        return _call(F.elu, given["self"], alpha)
    is_selu = abs(alpha - 1.6732632423543772) < 1e-9 and abs(scale - 1.0507009873554805) < 1e-9
    return _call(F.selu, given["self"]) if is_selu else None


def _batch_norm(given: Arguments) -> Call:
    statistics = (given["running_mean"], given["running_var"])
    return _call(F.batch_norm, given["input"], *statistics, given["weight"], given["bias"], eps=given["eps"])


def _max_pool(dims: int) -> Callable[[Arguments], Call]:
    def spelled(given: Arguments) -> Call:
        options = {name: value for name, value in given.items() if name not in ("self", "stride")}
        stride = {"stride": given["stride"]} if given.get("stride") else {}
        return _call(getattr(F, f"max_pool{dims}d"), given["self"], **options, **stride)

    return spelled


def _upsample(mode: str, *, antialias: bool = False) -> Callable[[Arguments], Call | None]:
    def spelled(given: Arguments) -> Call | None:
        size = given.get("output_size")
        if any(given.get(name) is not None for name in ("scales", "scales_d", "scales_h", "scales_w")):
            # Both the size and the factor are given: torch.nn.functional takes only one of them.
            return None
        scales = given.get("scale_factors")
        scale = tuple(scales) if scales is not None and size is None else None
        options: dict[str, Any] = {"align_corners": given["align_corners"]} if "align_corners" in given else {}
        if antialias:
            options["antialias"] = True
        input = given["input"] if "input" in given else given["self"]
        return _call(F.interpolate, input, size=size, scale_factor=scale, mode=mode, **options)

    return spelled


def _softmax(function: Callable[..., Any]) -> Callable[[Arguments], Call]:
    def spelled(given: Arguments) -> Call:
        return _call(function, given["self"], given["dim"], dtype=given.get("dtype"))

    return spelled


def _embedding_bag(given: Arguments) -> Call:
    """``embedding_bag``, where a negative row of padding counts from the end."""
    options = {name: given[name] for name in ("per_sample_weights", "include_last_offset") if given.get(name)}
    return _call(
        F.embedding_bag,
        given["indices"],
        given["weight"],
        given["offsets"],
        mode=("sum", "mean", "max")[given.get("mode", 0)],
        padding_idx=given.get("padding_idx"),
        **options,
    )


def _clone(given: Arguments) -> Call:
    """A copy, which is also how PyTorch makes ``resolve_conj`` functional."""
    value = given["self"].meta.get("val") if isinstance(given["self"], fx.Node) else None
    is_complex = isinstance(value, Tensor) and value.is_complex()
    return _call(torch.resolve_conj if is_complex else torch.clone, given["self"])


def _fill(given: Arguments) -> Call | None:
    """A tensor as the value may have relevance."""
    value = given["value"]
    copied = _copy({"self": given["self"], "src": value}) if isinstance(value, fx.Node) else None
    return copied or _call(torch.full_like, given["self"], value)


def _embedding_bag_kernel(given: Arguments) -> Call:
    """The kernel, for which -1 means no padding."""
    padding = given.get("padding_idx", -1)
    return _embedding_bag({**given, "padding_idx": None if padding < 0 else padding})


_UPSAMPLED = {"linear1d": "linear", "bilinear2d": "bilinear", "trilinear3d": "trilinear", "bicubic2d": "bicubic"}

_FORMS: Mapping[str, Callable[[Arguments], Call | None]] = {
    "slice": _slice,
    "slice_scatter": _slice_scatter,
    "select_scatter": lambda given: _call(set_item, given["self"], _at(given["dim"], given["index"]), given["src"]),
    "index": lambda given: _call(operator.getitem, given["self"], _indices(given["indices"])),
    "index_put": _index_put,
    "copy": _copy,
    "fill": _fill,
    "zero": lambda given: _call(torch.zeros_like, given["self"]),
    "_to_copy": _to_copy,
    "to": _to,
    "mT": lambda given: _call(torch.transpose, given["self"], -2, -1),
    "numpy_T": _reversed_dims,
    "alias": lambda given: _call(torch.Tensor.contiguous, given["self"]),
    "clone": _clone,
    "lift_fresh_copy": lambda given: _call(torch.clone, given["self"]),
    "elu": _elu,
    "_native_batch_norm_legit_no_training": _batch_norm,
    **{f"max_pool{n}d_with_indices": _max_pool(n) for n in (1, 2, 3)},
    "stft": lambda given: _call(torch.stft, given["self"], **{"center": False, **_without_self(given)}),
    "max_unpool2d": lambda given: _call(torch.ops.aten.max_unpool2d.default, *given.values()),
    "max_unpool3d": lambda given: _call(torch.ops.aten.max_unpool3d.default, *given.values()),
    # ATen names their arguments otherwise.
    "cholesky_solve": lambda given: _call(torch.cholesky_solve, *given.values()),
    "linalg_tensorsolve": lambda given: _call(torch.linalg.tensorsolve, *given.values()),
    "ormqr": lambda given: _call(torch.ormqr, *given.values()),
    "cdist": lambda given: _call(torch.cdist, given["x1"], given["x2"], given.get("p", 2.0)),
    "tensordot": lambda given: _call(
        torch.tensordot, given["self"], given["other"], (tuple(given["dims_self"]), tuple(given["dims_other"]))
    ),
    "embedding_bag": _embedding_bag,
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), _embedding_bag_kernel),
    "embedding": lambda given: _call(F.embedding, given["indices"], given["weight"]),
    "im2col": lambda given: _call(
        F.unfold, given["self"], *(tuple(given[name]) for name in ("kernel_size", "dilation", "padding", "stride"))
    ),
    "col2im": lambda given: _call(
        F.fold,
        given["self"],
        *(tuple(given[name]) for name in ("output_size", "kernel_size", "dilation", "padding", "stride")),
    ),
    "softmax": _softmax(F.softmax),
    "_safe_softmax": _softmax(torch._safe_softmax),
    "log_softmax": _softmax(F.log_softmax),
    "unfold": lambda given: _call(
        torch.Tensor.unfold, *(given[name] for name in ("self", "dimension", "size", "step"))
    ),
    "sym_size": lambda given: _call(torch.Tensor.size, given["self"], given["dim"]),
    "sym_numel": lambda given: _call(torch.Tensor.numel, given["self"]),
    **{f"upsample_{name}": _upsample(mode) for name, mode in _UPSAMPLED.items()},
    **{f"upsample_nearest{n}d": _upsample("nearest") for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": _upsample("nearest-exact") for n in (1, 2, 3)},
    "_upsample_bilinear2d_aa": _upsample("bilinear", antialias=True),
    "_upsample_bicubic2d_aa": _upsample("bicubic", antialias=True),
}

# The torch function returns only the first of the results.
_FIRST_OF_SEVERAL = frozenset(
    (
        "_native_batch_norm_legit_no_training",
        *("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"),
        *(f"adaptive_max_pool{n}d" for n in (1, 2, 3)),
        *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    )
)

# Assertions of what was true in capture, which compute nothing.
ASSERTIONS = frozenset(
    (
        "_assert_tensor_metadata",
        "_assert_scalar",
        "_assert_async",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    )
)


def name_of(target: Any) -> str:
    """The name of an ATen operation without its overload; empty for anything else."""
    return str(target._schema.name).removeprefix("aten::") if isinstance(target, OpOverload) else ""


def only_first_is_read(node: fx.Node) -> bool:
    """Whether a call may be converted to a function of torch that returns only the first of its results."""
    return name_of(node.target) in _FIRST_OF_SEVERAL and all(user.args[1] == 0 for user in node.users if user.users)


def spell(node: fx.Node, vocabulary: Vocabulary) -> Call:
    """The call of ``node`` as a torch function; unchanged if the vocabulary does not know the operation."""
    as_it_is = Call(node.target, node.args, dict(node.kwargs))  # type: ignore[arg-type]
    if not isinstance(node.target, OpOverload) or node.target.namespace != "aten":
        return as_it_is
    given = {
        **{argument.name: value for argument, value in zip(node.target._schema.arguments, node.args, strict=False)},
        **node.kwargs,
    }
    returns_first = name_of(node.target) not in _FIRST_OF_SEVERAL or only_first_is_read(node)
    form = _FORMS.get(name_of(node.target)) if returns_first else None
    if form is not None:
        return form(given) or as_it_is
    spelling = vocabulary.spelling(node.target.overloadpacket)
    if spelling is None or not (returns_first or spelling.operation.multiple_results):
        return as_it_is
    operation = spelling.operation
    if operation.keeps_arguments or operation.signatures:
        options = {name: value for name, value in node.kwargs.items() if name not in _NOT_OF_VALUES}
        return Call(operation.function, node.args, options)
    kept = {name: value for name, value in given.items() if name not in _NOT_OF_VALUES}
    number = kept.get("reduction")
    if isinstance(number, int):
        # The functions of torch.nn.functional take the name.
        kept["reduction"] = ("none", "mean", "sum")[number]
    try:
        bound = operation.bind((), kept)
    except TypeError:
        return as_it_is
    if not all(satisfies(bound[name], required) for name, required in operation.required_values.items()):
        return as_it_is
    return Call(operation.function, *operation.call(bound))
