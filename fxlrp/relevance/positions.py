"""The positions of a sequence that a target selects: only their outputs are computed, and only they have relevance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxlrp.functions import row_index
from fxlrp.relevance.form import Form, reads_form
from fxlrp.relevance.targets import Target, has_class_for_each_token, positions_of


def asked_positions(
    value: Tensor, classes: int, target: Target = None, seed: object = None, tokens: Sequence[Tensor] = ()
) -> Tensor | None:
    """Return the positions that are explained, ``(batch or 1, count)``; None for all, or if there are none.

    Args:
        value: A value from which the outputs are computed position by position, ``(batch, length, features)``.
        classes: The number of outputs at each position.
        target: The target.
        seed: The seed, which may select any position.
        tokens: The inputs that are tokens.

    Raises:
        InputError: The target does not fit the output.
    """
    if seed is not None or value.dim() != 3:
        return None
    like = value[..., :1].expand(-1, -1, classes)
    if target is not None:
        return positions_of(target, like)
    if not has_class_for_each_token(like, tokens):
        return None
    return torch.full((1, 1), value.shape[1] - 1, dtype=torch.long, device=value.device)


@reads_form("x")
def at_positions_relevance(x: Tensor | Form, r: Tensor, positions: Tensor | None) -> Tensor:
    """To the selected positions; the others have none."""
    if positions is None:
        return r
    zeros = r.new_zeros(x.shape)
    if positions.shape[0] == 1:
        return zeros.index_copy(1, positions[0], r)
    return zeros.scatter(1, row_index(r, positions), r)
