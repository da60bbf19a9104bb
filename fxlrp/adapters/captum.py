"""LRP as attributions of captum: :class:`LRP` for inputs, :class:`LayerLRP` for layers.

They take the arguments of captum's classes of the same names, and work with its metrics, its visualization and its
``NoiseTunnel``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fxlrp.compiler import compile
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.extras import require
from fxlrp.inputs import Inputs, Misfit
from fxlrp.integers import is_integer
from fxlrp.relevance.numerics import sums_of_samples
from fxlrp.relevance.targets import Choice, Each, at_target, positions_of
from fxlrp.rules.presets import Rules

require("captum", "captum")  # an error that names the extra

from captum.attr import GradientAttribution, LayerAttribution  # noqa: E402
from captum.log import log_usage  # noqa: E402

__all__ = ["LRP", "LayerLRP"]

Tensors: TypeAlias = "Tensor | tuple[Tensor, ...]"
Layer: TypeAlias = "nn.Module | str"

_FROM_THE_CALL = ("at", "constants", "example_inputs")


@dataclass(frozen=True)
class CaptumTarget(Choice):
    """A target that is read as captum reads it.

    Args:
        of: The target: None for the only output of each sample, an integer, a tuple of integers for the dimensions
            after the batch, or a list or a tensor with one of these for each sample.
    """

    of: Any

    def relevance(self, output: Tensor, tokens: Sequence[Tensor], *, selected: bool) -> Tensor:
        """Return the outputs that captum selects."""
        return at_target(output, self._indices(output), tokens, selected=selected)

    def positions(self, output: Tensor) -> Tensor | None:
        """Return the positions of the second dimension that it selects."""
        return positions_of(self._indices(output), output)

    def _indices(self, output: Tensor) -> tuple[Any, ...]:
        """The part of the target for each dimension of the output after the batch."""
        parts = self._leading(output)
        dims = output.dim() - 1
        if len(parts) > dims:
            raise InputError(
                f"the target {self.of!r} has more indices than an output of shape {tuple(output.shape)} has dimensions "
                "after the batch"
            )
        return (*parts, *[...] * (dims - len(parts)))

    def _leading(self, output: Tensor) -> tuple[Any, ...]:
        """The parts of the target for the first dimensions after the batch."""
        target = self.of
        if target is None:
            if output.dim() > 1 and output[0].numel() != 1:
                raise InputError(
                    f"an output of shape {tuple(output.shape)} needs a target, because it has several values for each "
                    "sample"
                )
            return ()
        if is_integer(target):
            return (target,)
        if isinstance(target, tuple) and target and all(map(is_integer, target)):
            return target
        if isinstance(target, Tensor) and target.numel() == 1 and not target.is_floating_point():
            return (int(target),)
        columns = _columns(target)
        if columns is None:
            raise InputError(
                "the target must be an integer, a tuple of integers, or a list or a tensor with one of these for each "
                f"sample, not {target!r}"
            )
        if len(target) != len(output):
            raise InputError(f"the target is for {len(target)} samples, but the batch has {len(output)}")
        if not isinstance(target[0], tuple) and output.dim() != 2:
            raise InputError(
                f"integers for each sample do not fit an output of shape {tuple(output.shape)}: give tuples with an "
                "index for each dimension after the batch"
            )
        return tuple(column.to(output.device) for column in columns)


def _columns(target: Any) -> tuple[Tensor, ...] | None:
    """The indices of all samples for each dimension; None if it is not a target for each sample."""
    if isinstance(target, Tensor):
        return (target,) if target.dim() == 1 and not target.is_floating_point() else None
    if not isinstance(target, list) or not target:
        return None
    if all(map(is_integer, target)):
        return (torch.tensor(target),)
    if not all(isinstance(each, tuple) and each and all(map(is_integer, each)) for each in target):
        return None
    if len({len(each) for each in target}) > 1:
        return None
    return torch.tensor(target).unbind(1)


@dataclass(frozen=True)
class _Compiled:
    """An explainer, and the calls that it is for: the arguments with a slot for each tensor, and the constants."""

    inputs: Inputs
    constants: tuple[str, ...]
    explain: Explainer

    def is_for(self, call: Inputs, constants: tuple[str, ...], arguments: tuple[Any, ...]) -> bool:
        """Whether a call has the same arguments apart from the values of tensors. A 1 is not True."""
        is_same = call.arguments.keys() == self.inputs.arguments.keys() and constants == self.constants
        return is_same and not isinstance(self.inputs.match(arguments, {}), Misfit)


class _Explainers:
    """The explainers of one model: one for each split of its arguments into inputs and additional arguments."""

    def __init__(self, model: nn.Module | Explainer, rules: Rules, options: dict[str, Any]) -> None:
        for name in _FROM_THE_CALL:
            if name in options:
                raise InputError(f"{name} follows from the call of attribute() and cannot be given")
        given = model if isinstance(model, Explainer) else None
        if given is not None and (rules is not None or options):
            raise InputError("an explainer has its rules and options: give them with a model only")
        self.model: nn.Module = model if given is None else given._model
        self._given, self._rules, self._options = given, rules, options
        self._made: list[_Compiled] = []

    def of_call(self, inputs: tuple[Tensor, ...], additional: tuple[Any, ...]) -> tuple[Explainer, tuple[str, ...]]:
        """Return the explainer for a call, and the names of the inputs."""
        arguments = (*inputs, *additional)
        call = Inputs.of_call(self.model, arguments, {})
        names = tuple(call.positional)[: len(inputs)]
        if self._given is not None:
            return self._given, names
        constants = call.names[len(inputs) :]
        for made in self._made:
            if made.is_for(call, constants, arguments):
                return made.explain, names
        explain = compile(self.model, self._rules, constants=constants, example_inputs=arguments, **self._options)
        self._made.append(_Compiled(replace(call, examples={}), constants, explain))
        return explain, names


class LRP(GradientAttribution):  # type: ignore[misc]
    """Layer-wise relevance propagation as an attribution of captum.

    Args:
        model: A model in eval mode, or an explainer of it.
        rules: The rules, as for :func:`fxlrp.compile`.
        options: Other arguments of :func:`fxlrp.compile`, such as ``output`` for a model that returns several tensors.
            ``constants`` are the additional arguments of the call.

    Raises:
        InputError: Rules or options are given with an explainer.

    Example:
        >>> import torch
        >>> from fxlrp.adapters.captum import LRP
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> relevance, delta = LRP(model, "epsilon").attribute(
        ...     torch.ones(2, 4), target=1, return_convergence_delta=True
        ... )
        >>> relevance.shape, delta.shape
        (torch.Size([2, 4]), torch.Size([2]))
    """

    def __init__(self, model: nn.Module | Explainer, rules: Rules = None, **options: Any) -> None:
        """Store the model; it is compiled at the first call."""
        self._explainers = _Explainers(model, rules, options)
        super().__init__(self._explainers.model)

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: relevance is the share of an input in the output."""
        return True

    def has_convergence_delta(self) -> bool:
        """Return True."""
        return True

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensors,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Compute the relevance of the inputs.

        Args:
            inputs: An input, or a tuple of inputs, each of shape ``(batch, ...)``.
            target: The output to explain, as captum reads it: an integer, a tuple of integers for the dimensions after
                the batch, or a list or a tensor with one of these for each sample. None is for models with one output
                for each sample. Or a target of :mod:`fxlrp.targets`, except for ``each``.
            additional_forward_args: Arguments of the model after the inputs, which are not explained: one, or a tuple.
            return_convergence_delta: Whether to return the part of the output that the inputs did not receive, too.

        Returns:
            A tensor, or a tuple of tensors, of the shapes of the inputs. With ``return_convergence_delta`` a pair of
            this and a tensor with one number for each sample.

        Raises:
            InputError: The target or an input does not fit, or an input has no relevance.
        """
        explained, start = self._explained(inputs, target, additional_forward_args, None)
        relevance = explained if isinstance(inputs, tuple) else explained[0]
        return (relevance, self.compute_convergence_delta(relevance, start)) if return_convergence_delta else relevance

    def compute_convergence_delta(self, attributions: Tensors, output: Tensor) -> Tensor:
        """Return the part of the explained output that is not in the relevance, for each sample.

        It is what biases, stabilizers and rules that do not conserve relevance absorbed, less what they added.
        ``fxlrp.Explainer.balance`` shows where.

        Args:
            attributions: The relevance.
            output: The explained output: zero, or left out, where it is not explained.

        Returns:
            A tensor of shape ``(batch,)``.
        """
        parts = attributions if isinstance(attributions, tuple) else (attributions,)
        return sums_of_samples(output) - torch.stack([sums_of_samples(part) for part in parts]).sum(0)

    def _explained(
        self, inputs: Tensors, target: Any, additional: Any, at: Sequence[str] | None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The relevance at places, by default the inputs, and the initial relevance."""
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        if not given or not all(isinstance(each, Tensor) for each in given):
            raise InputError("inputs must be a tensor or a tuple of tensors: pass others in additional_forward_args")
        if isinstance(target, Each):
            raise InputError("attribute() takes one target: ask for several in a call of the explainer")
        after = additional if isinstance(additional, tuple) else () if additional is None else (additional,)
        explain, names = self._explainers.of_call(given, after)
        places = list(dict.fromkeys(names if at is None else at))
        wanted = target if isinstance(target, Choice) else CaptumTarget(target)
        found, output = explain(*given, *after, target=wanted, at=places, return_output=True)
        relevance = tuple(found[name] for name in (names if at is None else at))
        tokens = [each for each in (*given, *after) if isinstance(each, Tensor) and not each.is_floating_point()]
        return relevance, wanted.relevance(output, tokens, selected=False)


class LayerLRP(LRP, LayerAttribution):  # type: ignore[misc]
    """The relevance of the outputs of layers, as a layer attribution of captum.

    Args:
        model: A model in eval mode, or an explainer of it.
        layer: A module of the model, the path of one, or a list of these. Other names of places that
            :func:`fxlrp.compile` takes in ``at`` work, too, but no globs. A module that is called more than once has a
            node for each call: pass the name of one.
        rules: The rules, as for :func:`fxlrp.compile`.
        options: Other arguments of :func:`fxlrp.compile`.

    Raises:
        InputError: The layer is not a module of the model.

    Example:
        >>> import torch
        >>> from fxlrp.adapters.captum import LayerLRP
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> LayerLRP(model, model[1]).attribute(torch.ones(2, 4), target=1).shape
        torch.Size([2, 8])
    """

    def __init__(
        self, model: nn.Module | Explainer, layer: Layer | list[Layer], rules: Rules = None, **options: Any
    ) -> None:
        """Store the model and the layers."""
        super().__init__(model, rules, **options)
        self.layer, self.device_ids = layer, None
        layers = layer if isinstance(layer, list) else [layer]
        self._places = [_path(self._explainers.model, each) for each in layers]

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensors,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Compute the relevance of the outputs of the layers.

        Args:
            inputs: As for :meth:`LRP.attribute`.
            target: As for :meth:`LRP.attribute`.
            additional_forward_args: As for :meth:`LRP.attribute`.
            return_convergence_delta: Whether to return the part of the output that did not pass through the layer, too.
            attribute_to_layer_input: Must be False: the layer whose output this is has the relevance of an input.

        Returns:
            A tensor of the shape of the layer's output, or a list of them for a list of layers. With
            ``return_convergence_delta`` a pair of this and a tensor, or a list of tensors, with one number for each
            sample.

        Raises:
            InputError: The target, an input or the layer does not fit.
        """
        if attribute_to_layer_input:
            raise InputError(
                "the relevance of a layer's input is not available by the name of the layer: pass the layer, or the "
                "name of the node, whose output it is"
            )
        relevance, start = self._explained(inputs, target, additional_forward_args, self._places)
        deltas = [self.compute_convergence_delta(part, start) for part in relevance]
        if isinstance(self.layer, list):
            return (list(relevance), deltas) if return_convergence_delta else list(relevance)
        return (relevance[0], deltas[0]) if return_convergence_delta else relevance[0]


def _path(model: nn.Module, layer: Layer) -> str:
    """The path of a module of the model."""
    if isinstance(layer, str):
        return layer
    for path, module in model.named_modules():
        if module is layer and path:
            return str(path)
    raise InputError(f"the layer {type(layer).__name__} is not a module inside the model")
