"""What every test starts from: one thread, the same random numbers, torch's own defaults."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
import torch

from browser import find_chromium


def pytest_configure() -> None:
    # Workers run side by side: a second thread each would only make them wait for each other.
    torch.set_num_threads(1)
    # pytest listens to loggers that do not propagate, and graphs are rendered while anybody listens to PyTorch's trace.
    trace = logging.getLogger("torch.__trace")
    trace.propagate = True
    trace.handlers.clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {}
    if not torch.cuda.is_available():
        missing["cuda"] = "there is no CUDA device"
    if find_chromium() is None:
        missing["browser"] = "there is no Chromium: install the package chromium, or set FXLRP_CHROMIUM to its path"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection() -> None:
    # Thousands of tests and all modules live until the end: the garbage collector would visit them again and again.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


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
