"""The model of an explainer, with its programs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from fxlrp.answer import Answer
from fxlrp.asked import Asked
from fxlrp.capture.lock import is_compiling
from fxlrp.capture.root_module import move_constants
from fxlrp.copies import Copied
from fxlrp.explanation import Explanation
from fxlrp.first_call import MadeOnInputs
from fxlrp.inputs import Inputs, spread
from fxlrp.other_copy import check_is_copy
from fxlrp.provenance import MODEL
from fxlrp.relevance.sizes import OtherSizesError
from fxlrp.shapes import InputSpec

_Held = TypeVar("_Held", bound="HeldModel")


class _Uncaptured(nn.Module):
    """Holds the model until there is a program."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.add_module(MODEL, model)


class HeldModel(Copied):
    """A model and the programs that explain it. If capture needs example inputs, it is captured at the first call."""

    def __init__(
        self,
        model: nn.Module,
        make: Callable[[nn.Module, Inputs], Explanation],
        examples: Any,
        *,
        again: Callable[[nn.Module], Any],
        differentiable: bool = False,
    ) -> None:
        """Compile ``model`` now, or at the first call.

        Args:
            model: The model.
            make: Compiles the model for its inputs.
            examples: The example inputs. None means the inputs of the first call, if capture needs any.
            again: Compiles a model in the same way, in another process too.
            differentiable: Whether autograd can differentiate the relevance.
        """
        super().__init__()
        self._again = again
        self.training = False
        self.differentiable = differentiable
        self._explanation = MadeOnInputs(make, model, examples)
        self._seen: tuple[InputSpec, ...] | None = None
        # Moving or casting the explainer moves or casts the model, also before it is captured.
        self._modules["graph_module"] = _Uncaptured(model)
        if self._explanation.is_made:
            made = self._explanation.require("the explanation")
            self._seen = made.signature.inputs.specs or None
            self._modules["graph_module"] = made.graph_module

    def _on_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Explanation, tuple[Tensor, ...]]:
        """The explanation that takes a call, and its inputs in order. If there is none, the model is captured."""
        made, values = self._explanation.on_call(self._model, *spread(args, kwargs))
        if not is_compiling():
            self._modules["graph_module"] = made.graph_module
            self._seen = tuple(InputSpec.of(value) for value in values)
        return made, values

    def _made_from(self) -> nn.Module:
        return self._model

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HeldModel:
        """Move or cast the model, and the constants of every program."""
        moved: HeldModel = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for made in self._explanation.all:
            for program in made.programs:
                if program is not self._modules["graph_module"]:
                    move_constants(program, fn)
        return moved

    @property
    def _model(self) -> nn.Module:
        """The user's model."""
        root = self._modules["graph_module"]
        assert root is not None
        return root.get_submodule(MODEL)

    def _run(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], asked: Asked
    ) -> tuple[Explanation, tuple[Tensor, ...], Answer, Any]:
        """Run a program, or one that is made for this call if a derived step is not valid for its sizes."""
        made, values = self._on_call(args, kwargs)
        for _ in (*self._explanation.all, None):
            answer = made.answer(asked.question(made.main.question))
            try:
                return made, values, answer, made.run(answer, values, asked.controls)
            except OtherSizesError as error:
                if is_compiling():
                    raise
                self._explanation.refuse(made, values)
                failed = error
            made, values = self._on_call(args, kwargs)
        raise failed

    def on(self: _Held, model: nn.Module) -> _Held:
        """Return the explainer of another copy of the model, with other weights, without compiling it.

        It has the same programs and reads the parameters of the other model.

        Args:
            model: A model of the same structure: classes and settings of the modules; names, shapes, types and devices
                of parameters and buffers.

        Returns:
            The explainer of ``model``.

        Raises:
            InputError: The structure differs.

        Example:
            >>> import copy, torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> other = copy.deepcopy(model)
            >>> torch.nn.init.normal_(other[0].weight).shape
            torch.Size([8, 4])
            >>> explain = fxlrp.compile(model)
            >>> x = torch.ones(2, 4)
            >>> torch.equal(explain.on(other)(x), fxlrp.compile(other)(x))
            True
        """
        check_is_copy(self._model, model)
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict | set):
                vars(other)[name] = copy.copy(value)
        other._explanation = self._explanation.mapped(lambda made: made.on(model))
        made = other._explanation.require("the explanation") if other._explanation.is_made else None
        other._modules["graph_module"] = _Uncaptured(model) if made is None else made.graph_module
        return other

    def train(self, mode: bool = True) -> HeldModel:
        """Do nothing. An explainer explains the model in eval mode, and the model keeps its own mode."""
        return self

    def __getattr__(self, name: str) -> Any:
        """Say why a property is missing before the model is captured; modules look for submodules here."""
        if name in dir(type(self)) and not self._explanation.is_made:
            self._explanation.require(f"{name!r}")
        return super().__getattr__(name)
