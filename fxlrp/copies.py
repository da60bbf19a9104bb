"""Copies of modules that hold generated programs, in this process and in others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import fx, nn

from fxlrp.generated_code import generate_code

_Copied = TypeVar("_Copied", bound="Copied")


class Copied(nn.Module):
    """A module that is made from a model. A copy has the same programs; a pickled one is made again.

    Programs are not pickled, because torch.fx would trace them again and lose what the compiler knows about them.
    """

    # How the module is made from a model, in another process too.
    _again: Callable[[nn.Module], Any]

    def _made_from(self) -> nn.Module:
        """The model from which it is made."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle the model, and how the module is made from it."""
        return self._again, (self._made_from(),)

    def __copy__(self: _Copied) -> _Copied:
        """Return another module with the same attributes."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self: _Copied, memo: dict[int, Any]) -> _Copied:
        """Return a module with copies of the model and of the programs."""
        other = object.__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        for copied in tuple(memo.values()):
            if isinstance(copied, fx.GraphModule):
                generate_code(copied)
        return other
