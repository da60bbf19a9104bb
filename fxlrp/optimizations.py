"""Which optimizations the compiler makes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fxlrp.errors import InputError


@dataclass(frozen=True)
class Optimizations:
    """The optimizations of :func:`fxlrp.compile`, each a pass that can be switched off; none changes an answer.

    Args:
        infer_signs: Prove which values are never negative, and leave out what only negative ones need.
        infer_support: Prove where relevance vanishes with the activation, and leave out what serves negative outputs.
        carry_quotients: Carry ``R / x`` instead of ``R`` where that saves divisions and multiplications.
        share_across_batch: Compute once what the rules of first layers would compute for every sample or channel.
        keep_constants: Keep what is computed from parameters alone, such as the weights of rules, between calls. They
            are computed again when a parameter has changed. Switched off, they are computed at every call and take
            no memory in between.
        keep_pool_indices: Let max pooling remember which elements won.
        reuse_memory: Write into the operand's memory where nobody reads that afterwards.

    Example:
        >>> import fxlrp
        >>> fxlrp.Optimizations(carry_quotients=False).carry_quotients
        False
    """

    infer_signs: bool = True
    infer_support: bool = True
    carry_quotients: bool = True
    share_across_batch: bool = True
    keep_constants: bool = True
    keep_pool_indices: bool = True
    reuse_memory: bool = True

    @classmethod
    def none(cls) -> Optimizations:
        """Every optimization switched off."""
        return cls(**{field.name: False for field in dataclasses.fields(cls)})

    @classmethod
    def resolve(cls, optimize: bool | Optimizations) -> Optimizations:
        """What the argument ``optimize=`` of :func:`fxlrp.compile` means.

        Raises:
            InputError: It is neither a bool nor an instance of this class.
        """
        if isinstance(optimize, Optimizations):
            return optimize
        if not isinstance(optimize, bool):
            raise InputError(f"optimize must be True, False or an fxlrp.Optimizations, not {optimize!r}")
        return cls() if optimize else cls.none()
