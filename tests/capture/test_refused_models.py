"""A refused model: the message has the reasons of both front ends, and nothing else is printed."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import CaptureError, LostInputError, UnsupportedOpError

SCRIPT = """
import torch, fxlrp
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(60)))

    def forward(self, x):
        x = self.layers(x)
        return x if {condition} else -x

try:
    fxlrp.compile(Net().eval(), example_inputs=torch.ones(1, {features}))
except fxlrp.errors.FxlrpError as error:
    print(type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "features", "error"),
    [("x.sum() > 0", 4, "CaptureError"), ("len(x) < 0", 5, "InputError")],
    ids=["values", "sizes that do not fit"],
)
def test_a_refused_model_leaves_standard_error_quiet(condition: str, features: int, error: str) -> None:
    script = SCRIPT.format(condition=condition, features=features)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == error
    assert len(done.stderr.splitlines()) <= 20


def test_logging_is_as_before() -> None:
    class Control(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    handlers = [*logging.getLogger("torch").handlers, *logging.getLogger().handlers]
    before = [list(handler.filters) for handler in handlers]
    with pytest.raises(CaptureError, match=r"(?s)symbolic tracing cannot follow.*torch\.export cannot follow"):
        fxlrp.compile(Control().eval(), example_inputs=torch.ones(2, 3))
    assert [list(handler.filters) for handler in handlers] == before


def test_the_reason_of_the_first_front_end_is_kept_where_the_second_finds_operations_without_a_rule() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] > 10**6:
                raise ValueError
            return torch.special.airy_ai(x)

    with pytest.raises(UnsupportedOpError, match=r"(?s)airy_ai.*torch\.export, because symbolic tracing cannot"):
        fxlrp.compile(Net().eval(), example_inputs=torch.ones(2, 3))


def trained() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("kind", ["scripted", "traced", "exported", "program", "inside"])
def test_a_module_without_python_code_is_refused_with_advice_that_works(kind: str) -> None:
    model, x = trained(), torch.ones(2, 4)
    frozen: Any = {
        "scripted": lambda: torch.jit.script(model),
        "traced": lambda: torch.jit.trace(model, x),
        "exported": lambda: torch.export.export(model, (x,)).module(),
        "program": lambda: torch.export.export(model, (x,)),
        "inside": lambda: nn.Sequential(torch.export.export(model, (x,)).module(), nn.ReLU()),
    }[kind]()
    with pytest.raises(CaptureError, match=r"(scripted|exported).*module\.load_state_dict\(loaded\.state_dict\(\)\)"):
        fxlrp.compile(frozen)
    rebuilt = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    state = frozen[0].state_dict() if kind == "inside" else frozen.state_dict
    rebuilt.load_state_dict(state() if callable(state) else state)
    torch.testing.assert_close(fxlrp.compile(rebuilt)(x, target=1), fxlrp.compile(model)(x, target=1))


def test_a_lost_input_is_that_error_with_the_second_front_end_too() -> None:
    class Loops(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            for _ in range(len(x)):
                x = torch.relu(x)
            return x + torch.sin(t * 0.1)[:, None]

    inputs = (torch.randn(2, 4), torch.tensor([3, 7]))
    captures: tuple[Any, ...] = ("auto", "export")
    for capture in captures:
        with pytest.raises(LostInputError, match="'t'"):
            fxlrp.compile(Loops().eval(), "epsilon", example_inputs=inputs, capture=capture)
