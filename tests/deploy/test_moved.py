"""Files that ``torch.export.passes.move_to_device_pass`` moves to another device.

There is one device here. A program on the device "meta" computes shapes, and refuses every tensor of another device.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass
from torch.utils._python_dispatch import TorchDispatchMode

import fxlrp
from deployed import TARGETS, convolutional, loaded
from fxlrp.errors import ExportError
from fxlrp.targets import each
from questions import language_model, skips

# Parts of the names of kernels that belong to a device or to a library.
OF_DEVICES = ("cpu", "mkldnn", "cuda", "cudnn", "miopen", "flash", "efficient_attention")
IDS = torch.tensor([[1, 4, 2, 7, 3, 8], [5, 5, 0, 9, 10, 1], [3, 3, 8, 2, 6, 4]])


class Called(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def moved(path: Path) -> Callable[..., Any]:
    return move_to_device_pass(torch.export.load(path), "meta").module()


CASES: dict[str, Callable[[], tuple[fxlrp.Explainer, Tensor, dict[str, Any], tuple[Tensor, ...]]]] = {
    "convolutional": lambda: (fxlrp.compile(convolutional()[0]), convolutional()[1], {}, (TARGETS,)),
    "largest": lambda: (fxlrp.compile(convolutional()[0]), convolutional()[1], {"target": "largest"}, ()),
    "questions": lambda: (
        fxlrp.compile(skips().float(), "epsilon_plus"),
        torch.rand(3, 2, 6, 6),
        {"target": each([0, 2]), "only": {"stem": [0, 2]}},
        (),
    ),
    "open questions": lambda: (
        fxlrp.compile(skips().float(), "epsilon_plus"),
        torch.rand(3, 2, 6, 6),
        {"target": each(["input"] * 2), "only": {"stem": "input"}},
        (torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.ones(3, 4, dtype=torch.bool)),
    ),
    "language model": lambda: (
        fxlrp.compile(language_model().float(), "attnlrp", example_inputs=IDS),
        IDS,
        {},
        (torch.tensor([[0, 1], [2, 3], [5, 9]]),),
    ),
    "language model, last position": lambda: (
        fxlrp.compile(language_model().float(), "attnlrp", example_inputs=IDS),
        IDS,
        {"target": "largest"},
        (),
    ),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CASES)
def test_every_tensor_is_moved(name: str, tmp_path: Path) -> None:
    explain, x, question, controls = CASES[name]()
    path = tmp_path / "explain.pt2"
    explain.export(path, x[:2], any_device=True, **question)
    expected = loaded("export", path)(x, *controls)
    with Called() as called:
        found = moved(path)(*(each.to("meta") for each in (x, *controls)))
    assert found.device.type == "meta" and found.shape == expected.shape
    assert len(called.names) > 10
    assert not [each for each in called.names if any(part in each for part in OF_DEVICES)]


def test_attention_that_is_written_out_is_the_same(tmp_path: Path) -> None:
    explain = fxlrp.compile(language_model(), "attnlrp", example_inputs=IDS)
    for any_device in (False, True):
        path = tmp_path / f"{any_device}.pt2"
        explain.export(path, IDS, target=(3, 2), any_device=any_device)
        torch.testing.assert_close(loaded("export", path)(IDS), explain(IDS, target=(3, 2)))
        called = {str(node.target) for node in torch.export.load(path).graph.nodes}
        assert any("_for_cpu" in each for each in called) is not any_device


def test_a_package_is_for_one_device(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="any_device=True needs another format"):
        fxlrp.compile(convolutional()[0]).export(
            tmp_path / "explain.pt2", convolutional()[1], format="aoti", any_device=True
        )
