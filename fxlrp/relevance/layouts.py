"""Relevance of changes of the layout on several devices: the whole tensor stays the same, and so does its relevance."""

from __future__ import annotations

from torch import Tensor

from fxlrp.layouts import (
    Layout,
    Places,
    completed,
    from_parts,
    is_distributed,
    moved,
    places_of,
    redistribute,
    to_local,
)
from fxlrp.relevance.form import Form, reads_form


def _places(x: Tensor | Form) -> Places | None:
    return x.places if isinstance(x, Form) else places_of(x)


@reads_form("x")
def from_local_relevance(x: Tensor | Form, r: Tensor, layout: Layout) -> Tensor:
    """The relevance of the part that :func:`fxlrp.layouts.from_local` takes: terms of a sum are added up."""
    return r if _places(x) is not None else to_local(redistribute(r, layout))


@reads_form("x")
def redistribute_relevance(x: Tensor | Form, r: Tensor) -> Tensor:
    """The relevance of a value ``x`` that :func:`fxlrp.layouts.redistribute` moves, in its layout.

    Where ``x`` are terms of a sum, the relevance stays complete: the rule that made the terms reads their sum.
    """
    places = _places(x)
    if places is None or not is_distributed(r):
        return r
    return moved(r, completed(places.placements, r.placements))


@reads_form("x")
def to_local_relevance(x: Tensor | Form, r: Tensor) -> Tensor:
    """The relevance of a tensor, from that of the part on every device."""
    places = _places(x)
    return r if places is None or is_distributed(r) else from_parts(r, places, x.shape)
