"""The ``explain_func`` of Quantus' metrics: :class:`ExplainFunc`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from fxlrp.compiler import compile
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.integers import is_integer
from fxlrp.other_copy import is_copy
from fxlrp.relevance.initial_relevance import initial_gradient
from fxlrp.relevance.targets import Choice
from fxlrp.rules.presets import Rules

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ExplainFunc"]

Start: TypeAlias = Literal["output", "one"]


@dataclass(frozen=True)
class _One(Choice):
    """A target whose initial relevance is 1."""

    of: Any

    def relevance(self, output: Tensor, tokens: Sequence[Tensor], *, selected: bool) -> Tensor:
        """Return 1 at the target, and zero elsewhere."""
        return initial_gradient(output, self.of, None, tokens)

    def positions(self, output: Tensor) -> Tensor | None:
        """Return None: all positions are computed."""
        return None


class ExplainFunc:
    """Explains the model that it is called with, for metrics of Quantus, which call it with copies of a model.

    The explainer is compiled once for each architecture, and then reads the weights of the model of the call.

    Args:
        rules: The rules, as for :func:`fxlrp.compile`.
        start: The initial relevance: "output" starts with the explained output, "one" with 1, as Quantus' own wrapper
            of zennit does. The signs differ where the output is negative.
        reduce_axes: The dimensions that are summed; None sums the channels of inputs with at least three dimensions.
        options: Other arguments of :func:`fxlrp.compile`.

    Raises:
        InputError: ``start`` or ``reduce_axes`` does not exist.

    Example:
        >>> import numpy, torch
        >>> from fxlrp.adapters.quantus import ExplainFunc
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(1)).eval()
        >>> explain_func = ExplainFunc("epsilon_plus")
        >>> explain_func(model=model, inputs=numpy.ones((2, 3, 8, 8)), targets=numpy.array([1, 4])).shape
        (2, 1, 8, 8)
    """

    def __init__(
        self,
        rules: Rules = None,
        *,
        start: Start = "output",
        reduce_axes: tuple[int, ...] | None = None,
        **options: Any,
    ) -> None:
        """Store the rules; nothing is compiled yet."""
        if start not in get_args(Start):
            raise InputError(f"start must be one of {', '.join(map(repr, get_args(Start)))}, not {start!r}")
        if reduce_axes is not None and not (
            isinstance(reduce_axes, list | tuple) and all(map(is_integer, reduce_axes))
        ):
            raise InputError(f"reduce_axes must be a tuple of dimensions, not {reduce_axes!r}")
        if reduce_axes is not None and 0 in reduce_axes:
            raise InputError("reduce_axes contains 0, the dimension of the samples, which cannot be summed")
        self._rules, self._start, self._axes, self._options = rules, start, reduce_axes, options
        self._explainers: list[Explainer] = []

    def __call__(
        self, model: nn.Module, inputs: np.ndarray | Tensor, targets: Any, *, device: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Explain the targets of ``model``.

        Args:
            model: The model, or a copy of one.
            inputs: The inputs, ``(batch, ...)``. Floating-point numbers are cast to the type of the model.
            targets: The class of each sample, or any other target of :meth:`fxlrp.Explainer.forward`. None explains
                the largest output of each.
            device: The device of the explanation, which Quantus passes on; None is that of the model.
            kwargs: Other arguments of the explainer, such as ``at``.

        Returns:
            The relevance, of the shape of the inputs, with summed dimensions of size 1.

        Raises:
            InputError: The inputs or targets do not fit.
        """
        explain = self.explainer(model)
        parameter = next((each for each in model.parameters() if each.is_floating_point()), None)
        # PyTorch does not take an array that is read-only or reversed.
        values = inputs if isinstance(inputs, Tensor) else torch.as_tensor(inputs.copy())
        if values.is_floating_point() and parameter is not None:
            values = values.to(parameter.dtype)
        values = values.to(device if device is not None or parameter is None else parameter.device)
        target = targets.to(values.device) if isinstance(targets, Tensor) else targets
        relevance = explain(values, target=_One(target) if self._start == "one" else target, **kwargs)
        if not isinstance(relevance, Tensor):
            raise InputError(f"one input can be explained, not {len(relevance)} ({', '.join(relevance)})")
        axes = self._axes if self._axes is not None else (1,) if relevance.dim() > 2 else ()
        dims = {axis + relevance.dim() if axis < 0 else axis for axis in axes}
        if len(dims) < len(axes) or not dims <= set(range(1, relevance.dim())):
            raise InputError(f"reduce_axes={axes} does not fit a relevance of shape {tuple(relevance.shape)}")
        summed = relevance.sum(axes, keepdim=True) if axes else relevance
        # NumPy has no bfloat16.
        summed = summed.float() if summed.dtype == torch.bfloat16 else summed
        array: np.ndarray = summed.detach().cpu().numpy()
        return array

    def explainer(self, model: nn.Module) -> Explainer:
        """Return the explainer of a model: compiled for it, or for another one of the same structure.

        Args:
            model: The model.

        Returns:
            The explainer, which reads the parameters of ``model``.
        """
        for explain in self._explainers:
            if explain._model is model:
                return explain
        for explain in self._explainers:
            if is_copy(explain._model, model):
                return explain.on(model)
        self._explainers.append(compile(model, self._rules, **self._options))
        return self._explainers[-1]
