"""What cannot be captured is refused, and the message names module and line."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.capture.symbolic import capture
from fxlrp.errors import CaptureError
from helpers import assert_is_gradient, lrp0, place_of
from oracles import random, randomize
from traces import Stacked, Unchanged, proxies_in

HERE = Path(__file__)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if x.sum() > 0:  # here: branch
            x = -x
        return x


class Loops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[0]):  # here: loop
            x = x + 1
        return x


class Converts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.max())  # here: convert


class Lists(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * 2 for row in x])  # here: iterate


class Asks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze() if len(x) == 1 else x  # here: length


@pytest.mark.parametrize(
    ("model", "marker"),
    [(Branches, "branch"), (Loops, "loop"), (Converts, "convert"), (Lists, "iterate"), (Asks, "length")],
)
def test_control_flow_that_depends_on_values(model: type[nn.Module], marker: str) -> None:
    made = model().eval()
    with (
        Unchanged(made),
        pytest.raises(CaptureError, match=f"{model.__name__} at {re.escape(place_of(HERE, marker))}: ") as caught,
    ):
        fxlrp.compile(made, capture="symbolic")
    assert "torch.export" in str(caught.value)
    assert not proxies_in(made)


def test_control_flow_deep_inside_names_the_innermost_line() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Branches())).eval()
    with Unchanged(model), pytest.raises(CaptureError, match=re.escape(place_of(HERE, "branch"))):
        fxlrp.compile(model, capture="symbolic")
    # and torch is as it was: a model that can be followed still can
    assert_is_gradient(lrp0(model[0].double().eval())(random(2, 4)), model[0], random(2, 4))


def test_control_flow_on_what_is_known_is_followed() -> None:
    class Known(nn.Module):
        def __init__(self, deep: bool) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3 if deep else 1))

        def forward(self, x: Tensor) -> Tensor:
            for i, layer in enumerate(self.layers):
                x = layer(x) if i % 2 == 0 else torch.relu(layer(x))
            if self.training or x is None:
                raise ValueError
            return x

    for deep in (False, True):
        model = randomize(Known(deep))
        assert_is_gradient(lrp0(model.eval())(random(2, 4)), model, random(2, 4))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_module() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval())
    with pytest.raises(CaptureError, match="scripted"):
        fxlrp.compile(scripted)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_module_inside_a_model() -> None:
    inner = torch.jit.script(nn.Linear(4, 4).eval())
    model = nn.Sequential(nn.ReLU(), inner).eval()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises((CaptureError, fxlrp.errors.UnsupportedOpError)) as caught:
        fxlrp.compile(model)
    assert "script" in str(caught.value).lower() and "'1'" in str(caught.value)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_training_submodule() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(), nn.Linear(4, 4))).eval()
    model.get_submodule("1.0").train()
    with Unchanged(model), pytest.raises(CaptureError, match=r"training mode \(1\.0\).*model\.eval\(\)"):
        fxlrp.compile(model)
    assert model.get_submodule("1.0").training
    model.train()
    with pytest.raises(CaptureError, match=r"training mode \(the model itself and 4 more\)"):
        fxlrp.compile(model)


def test_batch_norm_without_statistics_names_module_and_line() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x)  # here: statistics

    model = Net().eval()
    with Unchanged(model), pytest.raises(CaptureError, match="running statistics") as caught:
        fxlrp.compile(model)
    assert place_of(HERE, "statistics") in str(caught.value)
    assert "norm" in str(caught.value)


def test_numpy_and_python_numbers_in_forward() -> None:
    """What leaves tensors cannot be followed: the error names the line."""

    class ToNumpy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.from_numpy(x.detach().numpy()).mean()  # here: numpy

    with pytest.raises(CaptureError, match=re.escape(place_of(HERE, "numpy"))):
        fxlrp.compile(ToNumpy().eval(), capture="symbolic")


def test_capture_is_a_plain_forward_graph() -> None:
    """As the first stage gives it: live parameters under the model's own paths, and nothing executed."""
    model = randomize(Stacked())
    graph_module = capture(model)
    assert graph_module.model is model
    targets = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    assert targets == {f"model.{name}" for name, _ in model.named_parameters()}
    assert {node.op for node in graph_module.graph.nodes} <= {
        "placeholder",
        "get_attr",
        "call_function",
        "call_method",
        "output",
    }
    x = random(2, 4)
    torch.testing.assert_close(graph_module(x), model(x))


def test_control_flow_that_depends_on_a_buffer() -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.tensor(3))

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(int(self.count)):  # type: ignore[arg-type]
                x = torch.relu(x)
            return x

    with pytest.raises(CaptureError, match=r"buffer 'count' decides what .*: make it a Python number"):
        fxlrp.compile(Repeats().eval(), capture="symbolic")
