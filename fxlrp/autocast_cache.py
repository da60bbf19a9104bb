"""The cache of autocast, which must not keep weights that were cast while tensors had no values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def without_fake_weights() -> Iterator[None]:
    """Forget the weights that autocast casts inside: it would use them for calls with values."""
    try:
        yield
    finally:
        torch.clear_autocast_cache()
