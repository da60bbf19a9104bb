"""Sample calls of every canonical operation: with both signs, zeros, memory layouts, and parameters that matter."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxlrp import functions, losses
from fxlrp.operation import REQUIRED, Operation
from operation_settings import SETTINGS
from places import Arguments, Place


@dataclass(frozen=True)
class Setting:
    """Parameters of a call, with places where values go.

    Args:
        name: Tells the settings of one operation apart.
        arguments: Every parameter of the operation by name; a :class:`Place` for values.
    """

    name: str
    arguments: Mapping[str, Any]

    @property
    def places(self) -> tuple[Place, ...]:
        """The places in the order of the parameters."""
        found: list[Place] = []
        _replace(self.arguments, lambda place: found.append(place))
        return tuple(found)

    def fill(self, values: Callable[[int, Place], Any]) -> Arguments:
        """The arguments with what ``values`` has for each place, given by position."""
        count = itertools.count()
        filled: Arguments = _replace(self.arguments, lambda place: values(next(count), place))
        return filled


@dataclass(frozen=True)
class Sample:
    """One call.

    Args:
        name: Tells the samples of one operation apart.
        arguments: Every parameter of the operation by name, tensors of float64 or of indices or masks.
    """

    name: str
    arguments: Mapping[str, Any]


def _of_kinds(kinds: Mapping[int, str], index: int, place: Place) -> Tensor:
    return KINDS[kinds[index]](place, index)


def _laid_out(lay_out: Callable[[Tensor], Tensor], index: int, place: Place) -> Tensor:
    return lay_out(mixed(place, index))


def samples(operation: Operation) -> Iterator[Sample]:
    """Calls of an operation with each of its settings, and with values of each kind and layout."""
    for setting in settings(operation):
        count = len(setting.places)
        kinds = [dict.fromkeys(range(count), kind) for kind in KINDS]
        if 1 < count <= 3:
            kinds = [dict(enumerate(chosen)) for chosen in itertools.product(KINDS, repeat=count)]
        for chosen in kinds if count else [{}]:
            arguments = setting.fill(functools.partial(_of_kinds, chosen))
            yield Sample(f"{setting.name}, {' and '.join(chosen.values())}", arguments)
        may_differ = not any(place.contiguous for place in setting.places)
        for layout, lay_out in LAYOUTS.items() if count and may_differ else ():
            arguments = setting.fill(functools.partial(_laid_out, lay_out))
            yield Sample(f"{setting.name}, {layout}", arguments)


def settings(operation: Operation) -> list[Setting]:
    """The parameters with which an operation is called."""
    found: dict[str, Arguments] = {}
    for given in SETTINGS[operation.name]:
        if not given.keys() <= operation.parameters.keys():
            raise ValueError(f"{operation.name} does not take {sorted(given.keys() - operation.parameters.keys())}")
        missing = {name for name, default in operation.parameters.items() if default is REQUIRED} - given.keys()
        if missing:
            raise ValueError(f"{operation.name} needs {sorted(missing)}")
        name = ", ".join(f"{key}={_shown(value)}" for key, value in given.items())
        namesakes = sum(other.split(" #")[0] == name for other in found)
        found[f"{name} #{namesakes + 1}" if namesakes else name] = {**operation.parameters, **given}
    return [Setting(name, arguments) for name, arguments in found.items()]


def call(operation: Operation, arguments: Mapping[str, Any]) -> Any:
    """What an operation's canonical function makes of arguments given by parameter name."""
    args, kwargs = _split(operation, arguments)
    return operation.function(*args, **kwargs)


def call_as_written(operation: Operation, arguments: Mapping[str, Any]) -> Any:
    """The same as models write it: methods of tensors are called on the tensor, which may be a proxy of one.

    Losses that fxlrp computes itself are those of torch. What only decompositions write is one call: a model that
    wrote it out would have other nodes.
    """
    args, kwargs = _split(operation, arguments)
    tracers = [each.tracer for each in args if isinstance(each, fx.Proxy)]
    if tracers and operation.function in (functions.repeat_heads, functions.local_response):
        return tracers[0].create_proxy("call_function", operation.function, tuple(args), kwargs)
    if getattr(operation.function, "__module__", None) == losses.__name__:
        return getattr(F, operation.name)(*args, **kwargs)
    if inspect.ismethoddescriptor(operation.function) and hasattr(torch.Tensor, operation.function.__name__):
        return getattr(args[0], operation.function.__name__)(*args[1:], **kwargs)
    return operation.function(*args, **kwargs)


def _split(operation: Operation, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The required arguments by position, and others that differ from their default by name."""
    if "kwargs" in operation.parameters:
        return [arguments["input"], *arguments["args"]], dict(arguments["kwargs"])
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, default in operation.parameters.items():
        value = arguments[name]
        if default is REQUIRED:
            args.append(value)
        elif isinstance(value, Tensor) or type(value) is not type(default) or value != default:
            kwargs[name] = value
    return args, kwargs


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in an argument or a result."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in tensors_of(item)] if isinstance(value, list | tuple) else []


def mixed(place: Place, index: int = 0) -> Tensor:
    """Values of both signs, exact zeros among them, in the domain of the place."""
    return DOMAINS[place.domain](_numbers(place, index))


def non_negative(place: Place, index: int = 0) -> Tensor:
    """The magnitudes of :func:`mixed` values."""
    return DOMAINS[place.domain](_numbers(place, index).abs())


def _numbers(place: Place, index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    values = torch.randn(place.shape, generator=generator, dtype=torch.float64) * 2
    flat = values.view(-1)
    flat[1::4] = 0.0
    if flat.numel() > 2:
        flat[0], flat[2] = flat[0].abs() + 0.1, -flat[2].abs() - 0.1
    if place.special:
        flat[3 : 3 + len(place.special)] = torch.tensor(place.special, dtype=torch.float64)
    return values


def _plus_diagonal(values: Tensor) -> Tensor:
    return values / 2 + 3 * torch.eye(*values.shape[-2:], dtype=values.dtype)


# Where an operation is defined, as functions of numbers of both signs.
DOMAINS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "any": lambda values: values,
    "positive": lambda values: values.abs() + 0.1,
    "above one": lambda values: values.abs() + 1.1,
    "inside": lambda values: values / (1 + values.abs()),
    "unit": lambda values: values.sigmoid(),
    "log probabilities": lambda values: values.log_softmax(-1),
    "complex": lambda values: torch.complex(values, values.flip(-1)),
    "regular": _plus_diagonal,
    "unfolded": lambda values: _plus_diagonal(values.flatten(1)).reshape(values.shape),
    "positive definite": lambda values: _plus_diagonal(values @ values.mT),
    "lower triangular": lambda values: _plus_diagonal(values).tril(),
    "upper triangular": lambda values: _plus_diagonal(values).triu(),
}


KINDS: Mapping[str, Callable[[Place, int], Tensor]] = {"mixed": mixed, "non-negative": non_negative}


def transposed(values: Tensor) -> Tensor:
    """The same values, with the last two dimensions exchanged in memory."""
    return values.mT.contiguous().mT if values.dim() > 1 else strided(values)


def strided(values: Tensor) -> Tensor:
    """The same values, every second element of a larger tensor."""
    return torch.stack([values, values + 1], -1)[..., 0]


def channels_last(values: Tensor) -> Tensor:
    """The same values, with channels last in memory where there are any."""
    if values.dim() not in (4, 5):
        return values.clone()
    return values.to(memory_format=torch.channels_last if values.dim() == 4 else torch.channels_last_3d)


LAYOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "transposed": transposed,
    "strided": strided,
    "channels last": channels_last,
}


def _replace(value: Any, by: Callable[[Place], Any]) -> Any:
    if isinstance(value, Place):
        return by(value)
    if isinstance(value, dict):
        return {name: _replace(item, by) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_replace(item, by) for item in value)
    return value


def _shown(value: Any) -> str:
    if isinstance(value, Place | Tensor):
        return "x".join(map(str, value.shape)) or "scalar"
    if type(value) in (list, tuple):
        return f"[{' '.join(map(_shown, value))}]"
    return str(value).removeprefix("torch.").replace(", ", " ")
