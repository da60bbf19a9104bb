"""The optimizations of the compiler."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fxlrp.arguments import flag, shown
from fxlrp.errors import InputError


@dataclass(frozen=True)
class Optimizations:
    """The optimizations of :func:`fxlrp.compile`. Each is a pass that can be disabled; none changes the relevance.

    Args:
        fuse_attention: Compute attention and its relevance by the fused kernels of the device, or in blocks of queries,
            so that memory is linear in the length.
        infer_signs: Prove which values are never negative, and omit the terms that only negative values need.
        infer_support: Prove where relevance is zero for outputs that are not positive, and omit their terms.
        carry_quotients: Carry ``R / x`` instead of ``R`` where that saves divisions and multiplications.
        select_positions: Compute only the positions of a sequence that the target selects, from where positions no
            longer mix. Sizes must be known: compile with ``example_inputs``.
        release_values: Keep only the shape and type of values of which relevance steps read nothing else.
        recompute_values: Compute activations and normalizations again for the relevance steps that read them, where
            what they are computed from is kept anyway.
        share_across_batch: Compute once what the rules of first layers would compute for every sample or channel.
        keep_constants: Keep values that are computed from parameters alone, such as the weights of rules, between
            calls, and recompute them when a parameter has changed. If disabled, they are computed at every call and
            take no memory in between.
        keep_pool_indices: Let max pooling remember the indices of the largest elements.
        reuse_memory: Write into the memory of an operand that is not read again.
        nest_regions: Make repeated blocks functions, which ``torch.compile`` compiles once. Only for explainers that
            are compiled, so it is off unless you choose it; it replaces ``release_values``, ``recompute_values`` and
            ``reuse_memory``, which Inductor does itself.

    Example:
        >>> import fxlrp
        >>> fxlrp.Optimizations(carry_quotients=False).carry_quotients
        False
    """

    fuse_attention: bool = True
    infer_signs: bool = True
    infer_support: bool = True
    carry_quotients: bool = True
    select_positions: bool = True
    release_values: bool = True
    recompute_values: bool = True
    share_across_batch: bool = True
    keep_constants: bool = True
    keep_pool_indices: bool = True
    reuse_memory: bool = True
    nest_regions: bool = False

    def __post_init__(self) -> None:
        """Check that every option is True or False."""
        for each in dataclasses.fields(self):
            flag(each.name, getattr(self, each.name))

    @classmethod
    def none(cls) -> Optimizations:
        """Return options that disable every optimization."""
        return cls(**{field.name: False for field in dataclasses.fields(cls)})

    @classmethod
    def resolve(cls, optimize: bool | Optimizations) -> Optimizations:
        """Convert the argument ``optimize=`` of :func:`fxlrp.compile`.

        Raises:
            InputError: It is neither a bool nor an instance of this class.
        """
        if isinstance(optimize, Optimizations):
            return optimize
        if not isinstance(optimize, bool):
            raise InputError(f"optimize must be True, False or an fxlrp.Optimizations, not {shown(optimize)}")
        return cls() if optimize else cls.none()
