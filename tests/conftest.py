"""What every test starts from: one thread, the same random numbers, torch's own defaults."""

from __future__ import annotations

import gc
import logging
from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch

from browser import find_chromium
from sampling import kept_by_name, kept_of_each


def pytest_configure() -> None:
    # Workers run side by side: a second thread each would only make them wait for each other.
    torch.set_num_threads(1)
    # pytest listens to loggers that do not propagate, and graphs are rendered while anybody listens to PyTorch's trace.
    trace = logging.getLogger("torch.__trace")
    trace.propagate = True
    trace.handlers.clear()


# Before pytest leaves out what -m does not select.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = {}
    if not torch.cuda.is_available():
        missing["cuda"] = "there is no CUDA device"
    if find_chromium() is None:
        missing["browser"] = "there is no Chromium: install the package chromium, or set FXLRP_CHROMIUM to its path"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    if not any("::" in each for each in config.args):
        _leave_out_repeats(items)


def _leave_out_repeats(items: list[pytest.Item]) -> None:
    """Mark the cases of sampled tests as repeats that their markers leave out."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        for case, is_kept in zip(cases, _kept(cases), strict=True):
            if not is_kept:
                case.add_marker(pytest.mark.repeats)


def _kept(cases: list[pytest.Item]) -> list[bool]:
    marker = cases[0].get_closest_marker("sampled")
    assert marker is not None
    count, *each = marker.args
    if not each:
        return kept_by_name([case.nodeid for case in cases], count)
    return kept_of_each(
        [id(case.callspec.params[each[0]]) for case in cases if isinstance(case, pytest.Function)], count
    )


def pytest_collection() -> None:
    # Thousands of tests and all modules live until the end: the garbage collector would visit them again and again.
    gc.disable()


def pytest_collection_finish() -> None:
    _keep_from_garbage_collector()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    # So does most of what is left of the tests of a module: what they imported, traced and cached.
    if nextitem is not None and nextitem.path != item.path:
        _keep_from_garbage_collector()


def _keep_from_garbage_collector() -> None:
    """Collect what is garbage, and let the garbage collector not visit the rest again."""
    gc.collect()
    gc.freeze()


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
