"""What ``fxlrp explain`` explains: a model, how its inputs are made, and the names of its classes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from fxlrp.errors import InputError

Kind: TypeAlias = Literal["image", "text"]


@dataclass(frozen=True)
class Normalization:
    """The mean and the standard deviation by which the channels of images in [0, 1] are normalized."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def undo(self, image: Tensor) -> Tensor:
        """An image in [0, 1] again."""
        mean, std = (image.new_tensor(each).reshape(-1, 1, 1) for each in (self.mean, self.std))
        return (image * std + mean).clamp(0, 1)

    @property
    def bounds(self) -> dict[str, tuple[float, ...]]:
        """The smallest and the largest value of each channel, as the parameters of presets with a box."""
        pairs = list(zip(self.mean, self.std, strict=True))
        return {
            "low": tuple(-mean / std for mean, std in pairs),
            "high": tuple((1 - mean) / std for mean, std in pairs),
        }


@dataclass(frozen=True)
class Subject:
    """A model with what is known about it.

    Args:
        model: The model, in eval mode.
        prepare: Makes the input of an image of pillow, ``(C, H, W)``; or of a text, as its tokens and the inputs.
        kind: What ``prepare`` takes; None if it takes what it is given.
        classes: The names of the classes; empty if they are not known.
        options: Further arguments of :func:`fxlrp.compile`.
        normalization: How images are normalized; None if it is not known.
        preparation: How inputs are made, in words.
        weights: Where the weights are from, in words.
    """

    model: nn.Module
    prepare: Callable[[Any], Any]
    kind: Kind | None = None
    classes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    normalization: Normalization | None = None
    preparation: str = ""
    weights: str = ""

    def image(self, image: Any) -> Tensor:
        """The input ``(C, H, W)`` that an image of pillow becomes.

        Raises:
            InputError: It does not become one.
        """
        made = self.prepare(image)
        if not isinstance(made, Tensor) or made.dim() != 3:
            what = f"a tensor of shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise InputError(f"the function that prepares images must return a tensor (C, H, W), not {what}")
        return made

    def text(self, text: str) -> tuple[list[str], dict[str, Tensor]]:
        """The tokens of a text, and the inputs by name; the name "" means the first input of the model.

        Raises:
            InputError: The text becomes something else.
        """
        made = self.prepare(text)
        tokens, inputs = made if isinstance(made, tuple) and len(made) == 2 else (None, None)
        inputs = {"": inputs} if isinstance(inputs, Tensor) else inputs
        if (
            not isinstance(inputs, Mapping)
            or not all(isinstance(each, Tensor) for each in inputs.values())
            or not isinstance(tokens, list | tuple)
        ):
            raise InputError(
                "the function that prepares texts must return (tokens, inputs): a list of strings, and a tensor of "
                "shape (1, tokens) or a dictionary of tensors"
            )
        return list(tokens), dict(inputs)

    def class_name(self, index: int) -> str:
        """The name of a class, or its index."""
        return self.classes[index] if index < len(self.classes) else str(index)

    def target(self, wanted: str) -> int | None:
        """The class that is wanted by its index or name; None for the largest output.

        Raises:
            InputError: There is no such class, or several have this name.
        """
        if wanted == "top":
            return None
        if wanted.removeprefix("-").isdecimal():
            return int(wanted)  # check_output knows how many classes there are
        if not self.classes:
            raise InputError(
                f"--target {wanted!r}: the names of the classes are not known: give the index, or --classes FILE with "
                "a name in each line"
            )
        found = _named(wanted, self.classes)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{self.classes[index]!r} ({index})" for index in found[:5])
            raise InputError(f"--target {wanted!r} means {len(found)} classes, such as {names}: give the index")
        close = difflib.get_close_matches(wanted.lower(), [name.lower() for name in self.classes])
        more = ", ..." * (len(self.classes) > 5)
        hint = f"similar names: {', '.join(close)}" if close else f"the classes are {', '.join(self.classes[:5])}{more}"
        raise InputError(f"--target {wanted!r}: no class has this name; {hint}")


def _named(wanted: str, classes: Sequence[str]) -> list[int]:
    """The classes with this name, else with this word of several, else with this part of the name."""
    wanted, lower = wanted.lower(), [name.lower() for name in classes]
    tests: tuple[Callable[[str], bool], ...] = (
        lambda name: name == wanted,
        lambda name: wanted in (part.strip() for part in name.split(",")),
        lambda name: wanted in name,
    )
    for test in tests:
        found = [index for index, name in enumerate(lower) if test(name)]
        if found:
            return found
    return []
