"""Parts that call the rows of the vocabulary, with the settings that the tests of the rows have."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp.operation import Family, Gate, Operation
from fxlrp.vocabulary import facts
from operation_samples import Setting, call_as_written, settings
from operation_settings import SAMPLED
from places import Place
from prover.parts import Part
from prover.shapes import BATCH, Shape, batched, fitted, of_whole_batch, with_batch

# What only passes write, and models do not.
OF_PASSES = ("expect_dims", "local_response", "mask_scores", "sum_bags")
REFUSED: Mapping[str, str] = {
    "linalg_lstsq": "fxlrp refuses it, as the size of a result depends on values",
    "contains": "fxlrp refuses it of a tensor, as control flow would depend on values",
    "not_": "fxlrp refuses it of a tensor, as control flow would depend on values",
    "ctc_loss": "no step can be derived, as its kernel looks at lengths",
    **dict.fromkeys(("empty_like", "new_empty"), "its values are undefined"),
    "longest": "written where packed sequences are captured only",
}
"""Rows that models do not call, and why."""
WRITABLE: Mapping[str, Operation] = {name: each for name, each in SAMPLED.items() if name not in (*OF_PASSES, *REFUSED)}
# What torch raises for a call that it does not take.
REFUSALS = (RuntimeError, IndexError, ValueError, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Way:
    """How a row is called.

    Args:
        setting: The number of its setting.
        batch: Where the batch is: in the first dimension of each place ("first"), in front of it ("front"), or nowhere
            ("mixed"): then a place takes values of the whole batch.
        rectified: Whether a ReLU precedes the operation.
        in_place: Whether the in-place method is called.
        alone: Whether of several results only the last is read.
    """

    setting: int
    batch: str = "first"
    rectified: bool = False
    in_place: bool = False
    alone: bool = False

    def __str__(self) -> str:
        chosen = [("rectified", self.rectified), ("in place", self.in_place), ("one result", self.alone)]
        return ", ".join([f"batch {self.batch}", *(name for name, is_so in chosen if is_so)])


@functools.cache
def settings_of(name: str) -> list[Setting]:
    """The settings of a row that have places for values."""
    return [each for each in settings(WRITABLE[name]) if each.places]


@functools.cache
def ways(name: str) -> tuple[Way, ...]:
    """The ways in which a row may be called; not every one is possible."""
    operation, found = WRITABLE[name], list[Way]()
    for number, batch in itertools.product(range(len(settings_of(name))), ("first", "front", "mixed")):
        found += [Way(number, batch), Way(number, batch, rectified=True)]
        # PyTorch detaches no view in place.
        if callable(getattr(Tensor, f"{name}_", None)) and name != "detach":
            found.append(Way(number, batch, in_place=True))
        if operation.multiple_results:
            found.append(Way(number, batch, alone=True))
    return tuple(found)


@dataclass(frozen=True)
class Fitted:
    """A row with a way to call it that torch and models take.

    Args:
        operation: The row.
        setting: Its setting.
        way: The way.
        reads: The shapes of the operands without the batch.
        gives: The shape of the result without the batch.
        picks: The results that are read, by their position; None for a result that is no tuple.
        kinds: The kind of each result that is read: "real", "complex", "integer" or "number".
        shapes: The shape of each result that is read.
        precision: The least precise type in which values of reals numbers pass.
    """

    operation: Operation
    setting: Setting
    way: Way
    reads: tuple[Shape, ...]
    gives: Shape = ()
    picks: tuple[int | None, ...] = ()
    kinds: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()
    precision: torch.dtype = torch.float64

    def make(self) -> nn.Module:
        """Return the module that calls the row: values ``(batch, ...)`` to one ``(batch, ...)``."""
        return Called(self)

    def __str__(self) -> str:
        return f"{self.operation.name}({self.setting.name}; {self.way})"


@functools.cache
def fit(name: str, way: Way) -> Fitted | None:
    """Fit a row to models; None if it cannot be called so."""
    operation, setting = WRITABLE[name], settings_of(name)[way.setting]
    if way.batch == "first" and any(not place.shape for place in setting.places):
        return None
    reads = tuple(_of_sample(place, way.batch) for place in setting.places)
    with torch.no_grad():
        found = _with_results(Fitted(operation, setting, way, reads))
        if found is None or not (way.batch == "mixed" or _separates(found)):
            return None
    return found


def mixes(fits: Fitted) -> bool:
    """Whether the operation mixes the samples of a batch."""
    return fits.way.batch == "mixed"


def _with_results(fits: Fitted) -> Fitted | None:
    values = [numbers(BATCH, shape, index) for index, shape in enumerate(fits.reads)]
    try:
        result = Called(fits).result(values)
    except REFUSALS:
        return None
    items: list[tuple[int | None, Any]] = [(None, result)]
    if isinstance(result, list | tuple) and not isinstance(result, torch.Size):
        items = list(enumerate(result))
    carrying = [item for item in items if _kind(item[1]) in ("real", "complex")]
    chosen = (carrying[-1:] if fits.way.alone else carrying) or items[:1]
    kinds = tuple(_kind(item) for _, item in chosen)
    if "" in kinds:
        return None
    types = [torch.float64] + [item.dtype.to_real() for _, item in carrying]
    precision = max(types, key=lambda dtype: torch.finfo(dtype).eps)
    picks, shapes = zip(*((index, tuple(getattr(item, "shape", ()))) for index, item in chosen), strict=True)
    fits = replace(fits, picks=picks, kinds=kinds, shapes=shapes, precision=precision)
    given = _given(fits, values)
    if given is None or (fits.way.in_place and _changes_shape(fits, values[0])):
        return None
    return replace(fits, gives=tuple(given.shape[1:]))


def _changes_shape(fits: Fitted, value: Tensor) -> bool:
    """Whether an operation gives its operand another shape in place; others that read the operand have its shape."""
    changed = value.clone()
    Called(fits)(changed, *(numbers(BATCH, shape, index) for index, shape in enumerate(fits.reads) if index))
    return changed.shape != value.shape


def _kind(result: Any) -> str:
    if isinstance(result, Tensor):
        if not result.numel():
            return ""
        return "complex" if result.is_complex() else "real" if result.is_floating_point() else "integer"
    return "number" if isinstance(result, bool | int | float) else ""


def _given(fits: Fitted, values: Sequence[Tensor]) -> Tensor | None:
    try:
        result: Tensor = Called(fits)(*(value.clone() for value in values))
    except REFUSALS:
        return None
    return result if result.dim() and result.shape[0] == len(values[0]) else None


def _separates(fits: Fitted) -> bool:
    """Whether each sample of the result is computed from the same sample of the operands.

    Rectified values of both signs could be equal by chance.
    """
    drawn = [numbers(3, shape, index) for index, shape in enumerate(fits.reads)]
    return all(_are_separate(fits, [change(each) for each in drawn]) for change in (torch.clone, torch.abs))


def _are_separate(fits: Fitted, values: Sequence[Tensor]) -> bool:
    whole = _given(fits, values)
    rows = [_given(fits, [value[index : index + 1] for value in values]) for index in range(3)]
    if whole is None:
        return False
    joined = [row for row in rows if row is not None and row.shape[1:] == whole.shape[1:]]
    return len(joined) == 3 and torch.allclose(whole, torch.cat(joined), equal_nan=True)


def numbers(batch: int, shape: Shape, index: int) -> Tensor:
    """Values of both signs."""
    generator = torch.Generator().manual_seed(index)
    return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)


def _of_sample(place: Place, batch: str) -> Shape:
    """The shape that the values of a place have in each sample."""
    if batch == "front":
        return place.shape
    return place.shape[1:] if batch == "first" or place.shape[:1] == (BATCH,) else (math.prod(place.shape) or 1,)


@functools.cache
def part_of(name: str, way: Way) -> Part | None:
    """The part that calls a row in a way; None if it cannot be called so."""
    fits = fit(name, way)
    if fits is None:
        return None
    # A product of two values shares relevance among them, and its gradient counts both.
    is_product = fits.operation.family in (Family.MATMUL, Family.PRODUCT, Family.TRANSFORM) and len(fits.reads) > 1
    homogeneous = not (way.in_place or is_product) and _carries(fits) and _is_homogeneous(fits)
    return Part(
        str(fits),
        fits.reads,
        fits.gives,
        fits.make,
        homogeneous=homogeneous and fits.operation.family in _DIFFERENTIATED and name not in _OTHER_SHARES,
        conserves=fits.operation.family in _CONSERVING and name not in _OTHER_SHARES and _conserves(fits, homogeneous),
        changes=way.in_place,
        mixes=mixes(fits),
        precision=fits.precision,
        operation=name,
    )


# Under LRP-0 their relevance is the gradient times the input, if they are homogeneous.
_DIFFERENTIATED = (
    *(Family.LINEAR, Family.SUM, Family.PRODUCT, Family.MATMUL, Family.ACTIVATION, Family.MAX_POOL, Family.AVERAGE),
    *(Family.SHAPE, Family.TRANSFORM, Family.SELECTION, Family.FUNCTION, Family.COMPOSITE, Family.IDENTITY),
)
# A deviation shares by the squared deviations of the elements, not by the elements: they sum up to the same, but a zero
# has a share, too, which has nowhere to go behind a mask.
_OTHER_SHARES = ("std", "std_mean")
# All relevance goes to the operands, if the operation is homogeneous.
_CONSERVING = (
    *(Family.LINEAR, Family.SUM, Family.MATMUL, Family.ACTIVATION, Family.MAX_POOL, Family.AVERAGE, Family.SHAPE),
    *(Family.TRANSFORM, Family.IDENTITY),
)


def _carries(fits: Fitted) -> bool:
    """Whether all values are operands, through which relevance flows."""
    places = sum(len(_places(fits.setting.arguments[name])) for name in fits.operation.operands)
    return places == len(fits.setting.places) and fits.operation.token_operand is None


def _places(value: Any) -> list[Place]:
    if isinstance(value, Place):
        return [value]
    return [place for item in value for place in _places(item)] if isinstance(value, list | tuple) else []


def _is_homogeneous(fits: Fitted) -> bool:
    """Whether the result is homogeneous of degree one in the operands: Euler's theorem, for random values.

    Small values alone would not do: they are all rounded to zero. Nor would values of both signs: rectified, some of
    their products are all zero.
    """
    drawn = [numbers(BATCH, shape, index + 1) for index, shape in enumerate(fits.reads)]
    changes: tuple[Callable[[Tensor], Tensor], ...] = (torch.clone, torch.abs)
    return all(
        _follows_euler(fits, [change(scale * each) for each in drawn]) for scale in (1.0, 5.0) for change in changes
    )


def _follows_euler(fits: Fitted, values: Sequence[Tensor]) -> bool:
    module = Called(fits)
    zero_biases(module)
    values = [each.requires_grad_() for each in values]
    try:
        result = module(*values)
        seed = numbers(BATCH, tuple(result.shape[1:]), 9)
        gradients = torch.autograd.grad(result, values, seed, allow_unused=True)
    except REFUSALS:
        return False
    moved = [
        (gradient * value).sum() for gradient, value in zip(gradients, values, strict=True) if gradient is not None
    ]
    expected = (result * seed).sum()
    return bool(moved) and torch.allclose(torch.stack(moved).sum(), expected, rtol=1e-6, atol=1e-9)


def _conserves(fits: Fitted, homogeneous: bool) -> bool:
    """Whether no number is added, and all operands take part."""
    is_activation = fits.operation.family is Family.ACTIVATION and len(fits.reads) == 1 and _carries(fits)
    # Behind a mask, what a function gives a zero has nowhere to go.
    passes = is_activation and _is_zero_at_zero(fits)
    places = fits.setting.places
    return (homogeneous or passes) and all(place.domain == "any" and not place.special for place in places)


def _is_zero_at_zero(fits: Fitted) -> bool:
    result = Called(fits)(*(torch.zeros(BATCH, *shape, dtype=torch.float64) for shape in fits.reads))
    return not bool(result.detach().any())


def zero_biases(model: nn.Module) -> None:
    """Set biases and the means of batch normalization to zero."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith(("bias", "running_mean")):
                tensor.zero_()


@dataclass(frozen=True)
class Constant:
    """The name of a constant of a module, in the place of an argument."""

    name: str


class Called(nn.Module):
    """A call of a row. Constants are parameters, or buffers where they are no numbers of weights."""

    def __init__(self, fits: Fitted) -> None:
        super().__init__()
        self._fits, self._kept = fits, 0
        arguments = {name: self._with_names(name, value) for name, value in fits.setting.arguments.items()}
        self._setting = replace(fits.setting, arguments=arguments)
        for index, place in enumerate(fits.setting.places):
            shape = (1, *place.shape[1:]) if fits.way.batch == "first" else place.shape
            for number, _ in enumerate(place.special):
                where = torch.arange(math.prod(shape)) % max(4, math.prod(shape[1:])) == 2 + number
                self.register_buffer(f"special{index}_{number}", where.reshape(shape))
            if place.domain in _MATRICES:
                whole = torch.eye(math.isqrt(math.prod(shape))).reshape(shape) if place.domain == "unfolded" else None
                self.register_buffer(f"eye{index}", torch.eye(*shape[-2:]) if whole is None else whole)
        self.double()

    def of_rectified(self, operands: Sequence[Tensor]) -> tuple[Called, list[Tensor]]:
        """The call without the ReLU in front of it, which hides derivatives, and what it gives the operation."""
        if not self._fits.way.rectified:
            return self, list(operands)
        plain = replace(self._fits, way=replace(self._fits.way, rectified=False))
        return Called(plain), [each.relu() for each in operands]

    def _with_names(self, name: str, value: Any) -> Any:
        """An argument with names in place of constants, which the module keeps."""
        if isinstance(value, Tensor):
            self._kept += 1
            self._keep(value, f"c{self._kept}_{name}")
            return Constant(f"c{self._kept}_{name}")
        return type(value)(self._with_names(name, item) for item in value) if type(value) in (list, tuple) else value

    def _keep(self, tensor: Tensor, name: str) -> None:
        if tensor.is_floating_point() and "running" not in name and tensor.dtype == torch.float64:
            self.register_parameter(name, nn.Parameter(tensor.clone()))
        else:
            self.register_buffer(name, tensor.clone())

    def forward(self, *values: Tensor) -> Tensor:
        result, fits = self.result(values), self._fits
        found = [
            (result if index is None else result[index], kind, shape)
            for index, kind, shape in zip(fits.picks, fits.kinds, fits.shapes, strict=True)
        ]
        if fits.kinds == ("number",):
            scaled: Tensor = values[0] * (1 + result)
            return scaled
        given = [self._with_batch(*each) for each in found]
        if fits.kinds == ("integer",):
            (decision, own), value = given[0], values[0]
            return torch.where(fitted(decision, own, fits.reads[0]) > 0, value, value / 2)
        if len(given) == 1:
            return given[0][0]
        return torch.cat([fitted(each, own, (math.prod(own),)) for each, own in given], 1)

    def _with_batch(self, result: Tensor, kind: str, shape: Shape) -> tuple[Tensor, Shape]:
        """A result in double precision with the batch in front, and its shape without the batch."""
        if kind == "complex":
            result, shape = torch.view_as_real(result.resolve_conj()), (*shape, 2)
        result = result.double() if self._fits.precision != torch.float64 or kind == "integer" else result
        return (with_batch(result, shape), batched(shape)) if mixes(self._fits) else (result, shape[1:])

    def result(self, values: Sequence[Tensor]) -> Any:
        """What the operation gives."""
        setting, operation = self._setting, self._fits.operation
        places = [self._placed(index, place, values[index]) for index, place in enumerate(setting.places)]
        filled = setting.fill(lambda index, place: places[index])
        arguments = {name: self._with_parameters(value) for name, value in filled.items()}
        if not self._fits.way.in_place:
            return call_as_written(operation, arguments)
        first, *others = (arguments[name] for name in operation.parameters)
        defaults = list(operation.parameters.values())[1:]
        given = [other for other, default in zip(others, defaults, strict=True) if other is not default]
        if operation.family in _READING_ELSEWHERE:
            given = [each.clone() if isinstance(each, Tensor) else each for each in given]
        return getattr(first, f"{operation.name}_")(*given)

    def _with_parameters(self, value: Any) -> Any:
        """An argument with parameters in place of constants."""
        if isinstance(value, Constant):
            return getattr(self, value.name)
        return type(value)(map(self._with_parameters, value)) if type(value) in (list, tuple) else value

    def _placed(self, index: int, place: Place, value: Tensor) -> Tensor:
        """A value in the shape and in the domain of a place."""
        if mixes(self._fits):
            value = of_whole_batch(value, self._fits.reads[index], place.shape)
        for number, special in enumerate(place.special):
            value = value.masked_fill(getattr(self, f"special{index}_{number}"), special)
        if self._fits.way.rectified:
            value = value.relu()
        if place.domain in _MATRICES:
            return _MATRICES[place.domain](value, getattr(self, f"eye{index}"))
        return _DOMAINS[place.domain](value)


# These read an operand at other positions than they write, and PyTorch does not define what they give if both overlap.
_READING_ELSEWHERE = (Family.COMPOSITE, Family.TRANSFORM)

_DOMAINS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "any": lambda value: value,
    "positive": lambda value: value.abs() + 0.1,
    "above one": lambda value: value.abs() + 1.1,
    "inside": lambda value: value / (1 + value.abs()),
    "unit": torch.sigmoid,
    "log probabilities": lambda value: value.log_softmax(-1),
    "complex": lambda value: torch.complex(value, value.flip(-1)),
}

_MATRICES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "regular": lambda value, eye: value.tanh() / 2 + 3 * eye,
    "unfolded": lambda value, eye: value.tanh() / 2 + 3 * eye,
    "positive definite": lambda value, eye: value.tanh() @ value.tanh().transpose(-1, -2) + 3 * eye,
    "lower triangular": lambda value, eye: (value.tanh() / 2 + 3 * eye).tril(),
    "upper triangular": lambda value, eye: (value.tanh() / 2 + 3 * eye).triu(),
}


def _weight(operation: Operation) -> int:
    """How often a row is chosen: more often the more its facts depend on the call, since passes rely on them."""
    stated = (operation.non_negative, operation.positive, operation.finite, operation.keeps_support, operation.rowwise)
    depend = sum(fact not in (None, facts.always, facts.finite_operands) for fact in stated)
    is_view = operation.family is Family.SHAPE and not operation.allocates
    is_gate = operation.gate is not Gate.NO
    others = (is_view, is_gate, operation.multiple_results, operation.in_place is not None, operation.is_cheap)
    return 1 + depend + sum(others)


WEIGHTED: tuple[str, ...] = tuple(
    name for name, operation in WRITABLE.items() if settings_of(name) for _ in range(_weight(operation))
)
"""The rows that models may call, each as often as it is chosen."""
