"""The file that several tests of this folder read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fxlrp
from deployed import convolutional, file_name


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The explanation of the small net as a file of a format, written once."""

    @functools.cache
    def file_of(format: Any) -> Path:
        model, x = convolutional()
        path = tmp_path_factory.mktemp("small") / file_name(format)
        fxlrp.compile(model, [("conv2d", fxlrp.rules.Gamma(0.25))]).export(path, x, format=format)
        return path

    return file_of
