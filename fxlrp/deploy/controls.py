"""The inputs of a file beside those of the model: the target, and the conditions.

A file has no Python, so what a call accepts in many forms is one tensor here. What is not an input is built in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Literal, SupportsIndex, TypeAlias

import torch
from torch import Tensor, fx

from fxlrp.arguments import shown
from fxlrp.errors import ExportError
from fxlrp.interface import Interface
from fxlrp.program import nodes_by_name
from fxlrp.relevance.conditions import Condition, usual_channel_dim
from fxlrp.relevance.targets import Choice, Each, as_constant

Constant: TypeAlias = "SupportsIndex | slice | EllipsisType"
ExportTarget: TypeAlias = "Literal['input', 'largest'] | Constant | tuple[Constant, ...] | Each | Choice | None"
ExportCondition: TypeAlias = "Condition | Literal['input']"
ExportOnly: TypeAlias = "Mapping[str, ExportCondition] | Sequence[Mapping[str, ExportCondition]] | None"

INPUT = "input"

# Larger than every size: an index that every runtime rejects. In ONNX negative indices count from the end.
_NOWHERE = 2**31 - 1


@dataclass(frozen=True)
class Control:
    """An input of a file beside those of the model.

    Args:
        name: Its name.
        example: A value.
        batch_dim: The dimension of the samples; those before it are questions.
        meaning: What it is, in words.
    """

    name: str
    example: Tensor
    batch_dim: int
    meaning: str


def questions_of(value: Any) -> int | None:
    """The number of questions for which a target or a condition is an input; 0 for one alone, None for a built-in one.

    Raises:
        ExportError: Some of several are inputs, and others are not.
    """
    if not isinstance(value, Each):
        return 0 if _is_input(value) else None
    given = sum(map(_is_input, value.parts))
    if given not in (0, len(value.parts)):
        raise ExportError("of several targets or conditions, either all are 'input' or none is")
    return given or None


def _is_input(value: Any) -> bool:
    return isinstance(value, str) and value == INPUT


def built_in_target(target: ExportTarget) -> Any:
    """A target that is built into a file, as the program takes it.

    Raises:
        ExportError: It is not a target that can be built in.
    """
    if target is None or (isinstance(target, str) and target == "largest"):
        return None
    if isinstance(target, Each | Choice) or as_constant(target) is not None:
        return target
    raise ExportError(
        f"target must be 'input', 'largest', an index or a tuple of indices, slices and ..., not {shown(target)}"
    )


def described(target: ExportTarget) -> str | tuple[int | str, ...]:
    """A target that is built in, as the metadata of a file have it."""
    if isinstance(target, Each | Choice):
        return str(target)
    parts = as_constant(target)
    return "largest" if parts is None else tuple(map(_in_words, parts))


def _in_words(part: int | slice | EllipsisType) -> int | str:
    if isinstance(part, slice):
        ends = (part.start, part.stop, *(() if part.step is None else (part.step,)))
        return ":".join("" if end is None else str(end) for end in ends)
    return part if isinstance(part, int) else "..."


def read_target(given: fx.Node, questions: int, explained: Tensor, batch: int) -> Control:
    """Let a graph read the target from an input.

    Args:
        given: The placeholder of the target.
        questions: The number of targets; 0 for one without a dimension of its own.
        explained: The explained output of the examples.
        batch: The number of samples of the examples.

    Raises:
        ExportError: The output takes no target.
    """
    dims = explained.dim() - 1
    if dims < 1:
        raise ExportError("the output is one number for each sample and takes no target: export with target='largest'")
    shape = (*((questions,) if questions else ()), batch, *((dims,) if dims > 1 else ()))
    with given.graph.inserting_after(given):
        read = given.graph.call_function(_targets, (given, questions))
    given.replace_all_uses_with(read, lambda user: user is not read)
    of = "each question and sample" if questions else "each sample"
    what = "the index of the explained output" if dims == 1 else "the index of the explained output in each dimension"
    example = torch.zeros(shape, dtype=torch.long, device=explained.device)
    return Control(str(given.target), example, int(bool(questions)), f"{what}, for {of}")


def _targets(target: Tensor, questions: int) -> Tensor | Each:
    """The targets of a call; a negative one is replaced by one that every runtime rejects."""
    checked = torch.where(target < 0, _NOWHERE, target)
    return Each(tuple(checked.unbind(0))) if questions else checked


def read_condition(given: fx.Node, questions: int, value: Tensor, batch: int) -> Control:
    """Let a graph read a condition from an input: which channels of a value pass on relevance, for each sample.

    Args:
        given: The placeholder of the condition.
        questions: The number of conditions; 0 for one without a dimension of its own.
        value: The value with the condition, of the examples.
        batch: The number of samples of the examples.

    Raises:
        ExportError: The value has no channels, or no dimension of samples.
    """
    (mask,) = given.users
    name, dim = mask.args[2:]
    dim = usual_channel_dim(value) if dim is None else dim
    if not isinstance(dim, int) or dim % value.dim() == 0 or value.shape[0] != batch:
        raise ExportError(
            f"only={{{name!r}: 'input'}}: a value of shape {tuple(value.shape)} does not have samples and then "
            "channels: build in a boolean mask"
        )
    with given.graph.inserting_after(given):
        read = given.graph.call_function(_masks, (given, questions, value.dim(), dim % value.dim()))
    given.replace_all_uses_with(read, lambda user: user is not read)
    shape = (*((questions,) if questions else ()), batch, value.shape[dim])
    of = "each question and sample" if questions else "each sample"
    example = torch.ones(shape, dtype=torch.bool, device=value.device)
    meaning = f"whether relevance passes through each channel of {name}, for {of}"
    return Control(str(given.target), example, int(bool(questions)), meaning)


def _masks(mask: Tensor, questions: int, dims: int, dim: int) -> Tensor | Each:
    """Masks ``(batch, channels)``, after a dimension for the questions if there are several, as a call takes them."""
    if questions:
        return Each(tuple(_along_channels(each, dims, dim) for each in mask.unbind(0)))
    return _along_channels(mask, dims, dim)


def _along_channels(mask: Tensor, dims: int, dim: int) -> Tensor:
    sizes = {0: mask.shape[0], dim: mask.shape[1]}
    return mask.reshape([sizes.get(each, 1) for each in range(dims)])


def values_of(module: fx.GraphModule, names: Sequence[str], examples: Sequence[Tensor]) -> dict[str, Tensor]:
    """The values of nodes of a program for examples; nothing else is computed.

    Args:
        module: The program.
        names: The names of the nodes.
        examples: The inputs of the model.
    """
    graph = fx.Graph()
    graph.graph_copy(module.graph, {})
    nodes = nodes_by_name(graph)
    graph.output(tuple(nodes[name] for name in names))
    graph.eliminate_dead_code()
    found = fx.GraphModule(module, graph)(*examples)
    return dict(zip(names, found, strict=True))


def with_conditions(interface: Interface, module: fx.GraphModule) -> Mapping[str, str]:
    """The values with conditions, by the control that has the condition."""
    nodes = nodes_by_name(module.graph)
    masks = (nodes[name] for name in interface.conditions)
    by_placeholder = {str(mask.args[1]): str(mask.args[0]) for mask in masks}
    return {control: by_placeholder[name] for control, name in interface.controls.items() if name in by_placeholder}
