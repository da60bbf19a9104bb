"""An explainer that captures its model at the first call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fxlrp.deploy import Examples
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.relevance.initial_relevance import Seed, Target

Make = Callable[[Sequence[Any], Mapping[str, Any]], Explainer]


class NotCapturedError(InputError, AttributeError):
    """What was asked for is known only once the model is captured."""


class LazyExplainer(Explainer):
    """An explainer for a model that needs example inputs; the first call's are taken.

    As the lazy modules of ``torch.nn`` it changes its class at the first call, and is a usual :class:`Explainer` then.
    """

    def __init__(self, make: Make, reason: str) -> None:
        """Keep how the explainer is made, and why that has to wait."""
        nn.Module.__init__(self)
        self.training = False
        self._make, self._reason = make, reason

    def forward(self, *inputs: Tensor, target: Target = None, seed: Seed = None, **named: Any) -> Any:
        """Capture the model on ``inputs``, and explain them."""
        self._capture(inputs, named)
        return self(*inputs, target=target, seed=seed, **named)

    def export(self, path: str | os.PathLike[str], example_inputs: Examples, **options: Any) -> None:
        """Capture the model on ``example_inputs``, and write the explanation."""
        if isinstance(example_inputs, Mapping):
            self._capture((), example_inputs)
        else:
            self._capture((example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs, {})
        self.export(path, example_inputs, **options)

    def _capture(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        made = self._make(args, kwargs)
        self.__dict__ = made.__dict__
        self.__class__ = Explainer  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        """Refuse what is known only once the model is captured."""
        raise NotCapturedError(
            f"there is no {name} yet: the model is captured at the first call, or at once if example_inputs are given "
            f"to fxlrp.compile ({self.__dict__['_reason']})"
        )

    def __str__(self) -> str:
        """What is known before the first call."""
        return repr(self)

    def __repr__(self) -> str:
        """One line."""
        return "LazyExplainer(captured at the first call)"
