"""What every test starts from: one thread, the same random numbers, torch's own defaults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


def pytest_configure() -> None:
    # Workers run side by side: a second thread each would only make them wait for each other.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(autouse=True)
def _fresh_torch() -> Iterator[None]:
    """The same seed for every test, and no test inherits a default that another one set."""
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """What torch.compile has compiled before is forgotten."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
