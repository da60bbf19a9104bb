"""Files with the state of reference samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def assert_same_references(first: Path, second: Path) -> None:
    """Assert that two files have the same samples and statistics, bit for bit."""
    found, wanted = torch.load(first), torch.load(second)
    assert found.keys() == wanted.keys()
    tensors: dict[str, Any] = {name: found.pop(name) for name in ("best", "sums")}
    torch.testing.assert_close(tensors, {name: wanted.pop(name) for name in tensors}, rtol=0, atol=0)
    assert found == wanted
