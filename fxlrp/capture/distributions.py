"""Distributions in a model, which look at the values of their parameters to check them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.distributions import Distribution


@contextlib.contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Do not check the parameters of distributions inside, unless ``validate_args`` says so.

    The checks are control flow that depends on values, which ``torch.export`` cannot follow. TorchDynamo turns them off
    too, and for good.
    """
    checks = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checks)
