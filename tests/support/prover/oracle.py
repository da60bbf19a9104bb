"""AttnLRP and CP-LRP by the book, in plain PyTorch: an oracle that knows nothing of graphs, rows and passes.

The model runs under a :class:`torch.overrides.TorchFunctionMode`, which notes the calls of functions. Relevance then
goes back from call to call, as the papers write it (Achtibat et al., 2024; Ali et al., 2022; Bach et al., 2015):

* what is linear or affine in its operands, sums among them: LRP-epsilon, ``x * J^T(R / s(z))``;
* what scales single elements, negation among it: unchanged, at zero, too;
* activations: unchanged; norms: LRP-epsilon with a constant statistic;
* products: half to each factor, and all to the other one of a statistic; with CP-LRP all to the signal;
* matrix products: half to each factor, and the attention weights are constants with CP-LRP;
* softmax: ``x * (R - y * sum(R))``, and a constant with CP-LRP; what divides is a constant;
* what moves elements, and the largest of them: relevance follows the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode, resolve_name


class NotDefinedError(Exception):
    """The oracle does not say what the relevance of a function is."""


@dataclass(frozen=True)
class Call:
    """A call of a function of tensors, with the tensors among its arguments and in its result."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Tensor, ...]


class Recorder(TorchFunctionMode):
    """Notes the calls of functions whose results are real or complex numbers.

    It also notes whether one changes a value in a way that does not leave the relevance of its elements as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.changes = False

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        result = function(*args, **kwargs)
        written = str(getattr(function, "__name__", function))
        is_in_place = written == "__setitem__" or (written.endswith("_") and not written.endswith("__"))
        self.changes |= is_in_place and _name(function) not in (*ACTIVATIONS, "mul", "div")
        results = tuple(each for each in _tensors(result) if each.is_floating_point() or each.is_complex())
        if results:
            self.calls.append(Call(_name(function), function, args, kwargs, results))
        return result


def _name(function: Any) -> str:
    """The name of a function of torch, or of ATen without its overload."""
    if isinstance(function, OpOverload):
        function = function.overloadpacket
    return str(resolve_name(function) or getattr(function, "__name__", function)).split(".")[-1].strip("_")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


SELF_GATED = ("tanh", "hardtanh", "gelu", "silu", "mish", "hardswish", "softplus")
SATURATING = ("sigmoid", "hardsigmoid", "softmax")
ACTIVATIONS = (
    *(SELF_GATED + SATURATING[:2]),
    *"relu leaky_relu abs relu6 clamp elu selu celu logsigmoid softsign".split(),
)
MOVING = (
    "flip roll getitem cat chunk split unbind transpose permute unflatten flatten reshape view squeeze unsqueeze "
    "expand broadcast_tensors select narrow movedim repeat tile clone contiguous stack masked_fill where pad "
    "channel_shuffle pixel_shuffle dropout max_pool1d max_pool2d max_pool3d amax maximum"
).split()
AFFINE = (
    "add sub linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d mean sum cumsum "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate "
    "batch_norm sum_to_size"
).split()
CONTRACTIONS = ("matmul", "bmm", "mm", "einsum")


class Book:
    """The relevance of the operands of calls.

    Args:
        weights_are_constant: CP-LRP in place of AttnLRP.
        epsilon: The stabilizer of what is linear; attention has none.
    """

    def __init__(self, *, weights_are_constant: bool, epsilon: float = 0.0) -> None:
        self._constant, self._epsilon = weights_are_constant, epsilon
        self._ranks: dict[int, int] = {}

    def note(self, call: Call, operands: Sequence[Tensor]) -> None:
        """Note whether a result is a gate: of a sigmoid or softmax first, then of tanh and self-gated activations."""
        rank = 0
        if call.name in SATURATING or call.name in SELF_GATED:
            rank = 2 if call.name in SATURATING else 1
        elif call.name in MOVING or (len(operands) == 1 and call.name in ("add", "sub", "mul", "div", "neg")):
            rank = min((self._ranks.get(id(each), 0) for each in operands), default=0)
        self._ranks.update((id(result), rank) for result in call.results)

    def relevance(self, call: Call, operands: Sequence[Tensor], given: Sequence[Tensor]) -> list[Tensor | None]:
        """The relevance of the operands of a call, from that of its results."""
        name, (result, *_), (received, *_) = call.name, call.results, given
        if call.kwargs.get("rounding_mode") is not None:
            raise NotDefinedError("a rounded quotient")
        if name in CONTRACTIONS and sum(each is operands[0] for each in _tensors(call.args)) > 1:
            raise NotDefinedError("a product of a value with itself")
        if name in ACTIVATIONS and len(operands) == 1:
            return list(given)
        if name in MOVING:
            return self._derivatives(call, operands, given)
        if name in AFFINE or (name in CONTRACTIONS and len(operands) == 1):
            return _times(operands, self._derivatives(call, operands, [self._quotient(received, result)]))
        if name in NORMS and len(operands) == 1:
            frozen = Call(name, NORMS[name], call.args, call.kwargs, call.results)
            return _times(operands, self._derivatives(frozen, operands, [self._quotient(received, result)]))
        if name in ("mul", "div", "neg") and len(operands) == 1:
            if name == "div" and not any(operands[0] is each for each in call.args[:1]):
                raise NotDefinedError(name)
            return [_summed(received, operands[0])]
        if name == "div":
            return [_summed(received, operands[0]), None]
        if name == "mul" or name in CONTRACTIONS:
            return self._product(call, operands, received)
        if name == "softmax":
            return [None if self._constant else _of_softmax(call, operands[0], received)]
        if name == "scaled_dot_product_attention":
            return self._attention(call, operands, received)
        raise NotDefinedError(name)

    def _quotient(self, received: Tensor, result: Tensor) -> Tensor:
        stabilized = result + self._epsilon * torch.where(result < 0, -1.0, 1.0)
        return torch.where(stabilized == 0, 0.0, received / torch.where(stabilized == 0, 1.0, stabilized))

    def _product(self, call: Call, operands: Sequence[Tensor], received: Tensor) -> list[Tensor | None]:
        if len(operands) != 2:
            raise NotDefinedError(call.name)
        shares: list[float | None] = [0.5, 0.5]
        ranks = [self._ranks.get(id(each), 0) for each in operands]
        if self._constant and ranks[0] != ranks[1]:
            shares = [None, 1.0] if ranks[0] > ranks[1] else [1.0, None]
        if call.name == "mul":
            whole: list[Tensor | None] = [_summed(received, each) for each in operands]
        else:
            whole = _times(operands, self._derivatives(call, operands, [self._quotient(received, call.results[0])]))
        return [
            None if share is None or each is None else share * each for share, each in zip(shares, whole, strict=True)
        ]

    def _attention(self, call: Call, operands: Sequence[Tensor], received: Tensor) -> list[Tensor | None]:
        """``(Q dQ / 4, K dK / 4, V dV / 2)`` for the cotangent ``R / O``; with CP-LRP ``V dV`` alone."""
        of_inputs = [[index for index, each in enumerate(call.args[:3]) if each is operand] for operand in operands]
        if any(len(indices) != 1 for indices in of_inputs):
            raise NotDefinedError("attention of a value with itself")
        moved = _times(operands, self._derivatives(call, operands, [self._quotient(received, call.results[0])]))
        shares = (None, None, 1.0) if self._constant else (0.25, 0.25, 0.5)
        found: list[Tensor | None] = []
        for (index,), each in zip(of_inputs, moved, strict=True):
            share = shares[index]
            found.append(None if share is None or each is None else share * each)
        return found

    @staticmethod
    def _derivatives(call: Call, operands: Sequence[Tensor], given: Sequence[Tensor]) -> list[Tensor | None]:
        """``J^T`` of what is given for the results."""
        leaves = {id(operand): operand.detach().requires_grad_() for operand in operands}
        args, kwargs = _replaced(call.args, leaves), {key: _replaced(one, leaves) for key, one in call.kwargs.items()}
        with torch.enable_grad():
            results = [each for each in _tensors(call.function(*args, **kwargs)) if each.is_floating_point()]
        return list(torch.autograd.grad(results, list(leaves.values()), list(given), allow_unused=True))


def _replaced(value: Any, leaves: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return leaves.get(id(value), value)
    return type(value)(_replaced(item, leaves) for item in value) if type(value) in (list, tuple) else value


def _times(values: Sequence[Tensor], factors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if factor is None else value * factor for value, factor in zip(values, factors, strict=True)]


def _summed(relevance: Tensor, operand: Tensor) -> Tensor:
    """The relevance of an operand that was broadcast."""
    return relevance.sum_to_size(operand.shape)


def _of_softmax(call: Call, x: Tensor, received: Tensor) -> Tensor:
    (y,), dim = call.results, call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else -1)
    return torch.where(x.isinf(), 0.0, x) * (received - y * received.sum(dim, keepdim=True))


def _centred(x: Tensor, dims: Sequence[int], eps: float | None, *, centre: bool = True) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    x = x - x.mean(tuple(dims), keepdim=True) if centre else x
    return x * torch.rsqrt(x.square().mean(tuple(dims), keepdim=True) + eps).detach()


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    return _scaled(_centred(x, range(-len(normalized_shape), 0), eps), weight, bias)


def _rms_norm(x: Tensor, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Tensor:
    return _scaled(_centred(x, range(-len(normalized_shape), 0), eps, centre=False), weight, None)


def _group_norm(x: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    groups = x.unflatten(1, (num_groups, -1))
    normed = _centred(groups, range(2, groups.dim()), eps).flatten(1, 2)
    shape = (-1, *(1,) * (x.dim() - 2))
    return _scaled(normed, *(None if each is None else each.reshape(shape) for each in (weight, bias)))


NORMS: Mapping[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
}


def _is_among(result: Tensor, operands: Sequence[Tensor]) -> bool:
    return any(result is operand for operand in operands)


def relevance_of(model: nn.Module, x: Tensor, target: int, book: Book) -> Tensor:
    """The relevance of ``x`` for an output.

    Raises:
        NotDefinedError: The model calls a function about which the oracle says nothing.
    """
    with torch.no_grad(), Recorder() as recorder:
        output = model(x)
    if recorder.changes:
        raise NotDefinedError("a change in place")
    depending, relevance = {id(x)}, {id(output): torch.zeros_like(output)}
    relevance[id(output)][:, target] = output[:, target]
    walked: list[tuple[Call, list[Tensor]]] = []
    for call in recorder.calls:
        read = _tensors([*call.args, *call.kwargs.values()])
        operands = list({id(each): each for each in read if id(each) in depending}.values())
        if not operands:
            continue
        if all(_is_among(result, operands) for result in call.results):
            if call.name in AFFINE:
                raise NotDefinedError(f"{call.name} that computes nothing: LRP-epsilon keeps no relevance at zeros")
            continue
        if any(result.is_complex() for result in call.results):
            raise NotDefinedError(f"{call.name} of complex numbers")
        depending.update(map(id, call.results))
        book.note(call, operands)
        walked.append((call, operands))
    for call, operands in reversed(walked):
        if not any(id(result) in relevance for result in call.results):
            continue
        # A result that is an operand itself, such as one that needs no broadcasting, has its relevance already.
        new = {id(result) for result in call.results if not _is_among(result, operands)}
        given = [
            relevance.get(id(result), torch.zeros_like(result)) if id(result) in new else torch.zeros_like(result)
            for result in call.results
        ]
        for operand, part in zip(operands, book.relevance(call, operands, given), strict=True):
            if part is not None:
                relevance[id(operand)] = relevance.get(id(operand), 0) + part
    return relevance.get(id(x), torch.zeros_like(x))
