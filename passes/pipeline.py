"""The order of the passes: one list for explanations, and one for backward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fxlrp.arguments import shown, similar
from fxlrp.errors import InputError
from fxlrp.optimizations import Optimizations
from fxlrp.passes.annotate import annotate
from fxlrp.passes.base import Pass, check_order
from fxlrp.passes.carry_quotients import carry_quotients
from fxlrp.passes.check_inputs import check_inputs
from fxlrp.passes.checkpoint import checkpoint
from fxlrp.passes.decompose import decompose
from fxlrp.passes.emit_backward import emit_backward
from fxlrp.passes.emit_relevance import emit_relevance
from fxlrp.passes.find_first_layers import find_first_layers
from fxlrp.passes.find_weights import find_weights
from fxlrp.passes.fold_batch_norm import fold_batch_norm
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.fuse_attention import fuse_attention
from fxlrp.passes.gather_again import gather_again
from fxlrp.passes.infer_dependence import infer_dependence
from fxlrp.passes.infer_finite import infer_finite
from fxlrp.passes.infer_signs import infer_signs
from fxlrp.passes.infer_support import infer_support
from fxlrp.passes.infer_values import infer_values
from fxlrp.passes.keep_constants import keep_constants
from fxlrp.passes.keep_pool_indices import keep_pool_indices
from fxlrp.passes.merge_layouts import merge_layouts
from fxlrp.passes.name_nodes import name_nodes
from fxlrp.passes.nest_regions import nest_regions
from fxlrp.passes.normalize import normalize
from fxlrp.passes.read_redistributed import read_redistributed
from fxlrp.passes.read_whole_positions import read_whole_positions
from fxlrp.passes.recognize_attention import recognize_attention
from fxlrp.passes.recompute_values import recompute_values
from fxlrp.passes.release_values import release_values
from fxlrp.passes.remove_dead_code import remove_dead_code
from fxlrp.passes.remove_identities import remove_identities
from fxlrp.passes.reuse_memory import reuse_memory
from fxlrp.passes.select_positions import select_positions
from fxlrp.passes.share_across_batch import share_across_batch
from fxlrp.passes.share_among_questions import share_among_questions
from fxlrp.passes.stack_questions import stack_questions
from fxlrp.passes.start_inside import start_inside

CANONICALIZE: tuple[Pass, ...] = (
    functionalize,
    normalize,
    decompose,
    remove_identities,
    merge_layouts,
    remove_dead_code,
    name_nodes,
    start_inside,
)
ANALYZE: tuple[Pass, ...] = (
    infer_values,
    fold_batch_norm,
    remove_dead_code,
    infer_dependence,
    find_first_layers,
    find_weights,
)
ANNOTATE: tuple[Pass, ...] = (annotate, recognize_attention)
SPECIALIZE: tuple[Pass, ...] = (fuse_attention, infer_signs, infer_support, infer_finite, carry_quotients)
ANNOTATED: tuple[Pass, ...] = (*CANONICALIZE, *ANALYZE, *ANNOTATE)

EXPLANATION: tuple[Pass, ...] = (
    *CANONICALIZE,
    *ANALYZE,
    check_inputs,
    *ANNOTATE,
    *SPECIALIZE,
    select_positions,
    emit_relevance,
    read_whole_positions,
    remove_dead_code,
    read_redistributed,
    gather_again,
    share_among_questions,
    release_values,
    recompute_values,
    checkpoint,
    share_across_batch,
    keep_pool_indices,
    keep_constants,
    reuse_memory,
    stack_questions,
    nest_regions,
)
# Here forward and relevance are two programs, and neither may overwrite values that the other reads or keeps.
BACKWARD: tuple[Pass, ...] = (
    *ANNOTATED,
    *SPECIALIZE,
    emit_backward,
    remove_dead_code,
    read_redistributed,
    share_across_batch,
    keep_pool_indices,
)

# Inductor plans the memory of a compiled program itself.
_FOR_EAGER_CALLS = frozenset(each.name for each in (release_values, recompute_values, reuse_memory))

for _order in (EXPLANATION, BACKWARD):
    check_order(_order)


@dataclass(frozen=True)
class Passes:
    """The passes of a compilation, in order.

    Args:
        to_annotate: The passes up to the annotated graph.
        to_answer: The passes that depend on the question, which make a program from the annotated graph.
    """

    to_annotate: tuple[Pass, ...]
    to_answer: tuple[Pass, ...]

    @property
    def all(self) -> tuple[Pass, ...]:
        """All passes."""
        return (*self.to_annotate, *self.to_answer)

    @staticmethod
    def of(ordered: Sequence[Pass]) -> Passes:
        """Divide passes at the end of the annotation."""
        ending = {each.name for each in ANNOTATE}
        end = max((index + 1 for index, each in enumerate(ordered) if each.name in ending), default=len(ordered))
        return Passes(tuple(ordered[:end]), tuple(ordered[end:]))


def explanation(
    optimizations: Optimizations,
    *,
    checkpoints: bool = False,
    user_defined: Sequence[Pass] = (),
    differentiable: bool = False,
    checked: bool = False,
) -> Passes:
    """Return the passes of an explanation.

    Args:
        optimizations: The optimizations.
        checkpoints: Whether activations are recomputed.
        user_defined: User-defined passes, which are inserted where they declare.
        differentiable: Whether autograd is to differentiate the program, which excludes some passes.
        checked: Whether the graph is checked after every pass, and not only after user-defined ones and in the end.

    Raises:
        InputError: A user-defined pass cannot be placed, or cuts derivatives.
    """
    own = EXPLANATION if checked else _checked_in_the_end(EXPLANATION)
    chosen = enabled(place(user_defined, own), optimizations)
    if differentiable:
        cutting = next((each.name for each in user_defined if each.cuts_derivatives), None)
        if cutting is not None:
            raise InputError(f"the pass {cutting} cuts derivatives: compile without it, or without differentiable=True")
        chosen = tuple(each for each in chosen if not each.cuts_derivatives)
    # What all questions share is computed at once, and checkpoints keep few values at a time.
    left_out = share_among_questions if checkpoints else checkpoint
    return Passes.of([each for each in chosen if each.name != left_out.name])


def backward(optimizations: Optimizations) -> Passes:
    """Return the passes of a backward pass, with the enabled optimizations."""
    return Passes.of(enabled(_checked_in_the_end(BACKWARD), optimizations))


def _checked_in_the_end(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
    # A check reads the whole graph. After every pass it would take a sixth of the time of a compilation.
    return tuple(replace(each, is_checked=False) for each in passes)


def enabled(passes: tuple[Pass, ...], optimizations: Optimizations) -> tuple[Pass, ...]:
    """Return the passes without the disabled optimizations, and without those that are of no use in regions."""
    replaced = _FOR_EAGER_CALLS if optimizations.nest_regions else frozenset()
    return tuple(each for each in passes if getattr(optimizations, each.name, True) and each.name not in replaced)


def place(user_defined: Sequence[Pass], passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
    """Insert user-defined passes: after the last pass that they must follow, or before the first they must precede.

    Raises:
        InputError: A pass does not declare its position, names an unknown pass, or cannot be placed.
    """
    if not isinstance(user_defined, Sequence) or isinstance(user_defined, str):
        raise InputError(f"passes must be a list of passes, not {shown(user_defined)}")
    known = {each.name for each in (*EXPLANATION, *BACKWARD)}
    for each in user_defined:
        if not isinstance(each, Pass):
            raise InputError(
                f"{shown(each)} is not a pass: decorate the function with @fxlrp.passes.compiler_pass(...)"
            )
        unknown = sorted((each.after | each.before) - known - {other.name for other in user_defined})
        if unknown:
            hint = similar(unknown[0], sorted(known))
            raise InputError(f"the pass {each.name} names the pass {unknown[0]!r}, which does not exist{hint}")
        if each.name in known:
            raise InputError(f"the pass {each.name} has the same name as a pass of fxlrp: rename it")
        passes = _placed(each, passes)
    return passes


def _placed(new: Pass, passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
    provided: set[str] = set()
    earliest = 0
    for index, each in enumerate(passes):
        if each.name in new.after or new.name in each.before or not new.needs <= provided:
            earliest = index + 1
        provided |= each.provides
    latest = next((index for index, each in enumerate(passes) if each.name in new.before), len(passes))
    if not (new.after or new.before):
        raise InputError(f"the pass {new.name} must declare its position: @compiler_pass(after=[...], before=[...])")
    if earliest > latest or not new.needs <= provided:
        raise InputError(f"the pass {new.name} cannot be placed: what it needs comes after a pass that it must precede")
    # Insert it immediately after the passes that it follows, or else before the passes that it precedes.
    position = earliest if new.after else latest
    order = (*passes[:position], new, *passes[position:])
    check_order(order)
    return order
