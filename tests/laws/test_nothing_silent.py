"""Law 4 of docs/architecture.md: nothing silent."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp import presets
from fxlrp.errors import CaptureError, UnsupportedOpError
from helpers import Record, assert_is_gradient, assert_names_line, lrp0
from law_models import PRODUCTS, product

HERE = Path(__file__)


def carried(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The nodes that `node` hands relevance to, by its annotation: positions among its flattened arguments."""
    arguments = torch.utils._pytree.tree_leaves((node.args, node.kwargs))
    return [arguments[position] for position in node.meta["fxlrp"].carries]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PRODUCTS, "googlenet", "shufflenet_v2_x0_5", "efficientnet_b0"])
def test_every_node_that_relevance_flows_through_is_annotated(name: str) -> None:
    model, inputs = product(name)
    explain = fxlrp.compile(model, rules="epsilon_plus_flat")
    nodes = explain.nodes
    recorder = Record(explain.graph_module)
    with torch.no_grad():
        logits = model(*inputs)
        recorder.run(*inputs, None, None)
    output = [node for node in nodes if node.op == "call_function"][-1]
    values = {node.name: value for node, value in recorder.values.items()}
    torch.testing.assert_close(values[output.name], logits)

    placeholders = [node for node in nodes if node.op == "placeholder"]
    assert len(placeholders) == len(inputs)
    reached: set[torch.fx.Node] = set()
    pending = [output]
    while pending:
        node = pending.pop()
        if node in reached:
            continue
        reached.add(node)
        if node in placeholders:
            continue
        assert node in nodes, node
        annotation = node.meta["fxlrp"]
        assert annotation.rule is not None and annotation.origin and annotation.reason, node
        assert annotation.carries, f"{node}: relevance ends here"
        pending += carried(node)
    assert reached.issuperset(placeholders)
    # Where relevance does not flow there is none to pass on, and nothing has two annotations' worth of it.
    for node in nodes:
        assert ("fxlrp" in node.meta) == (node in reached and node not in placeholders), node


class Curl(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.linalg.inv(x)  # here: linalg_inv
        return x + torch.matrix_exp(x)  # here: matrix_exp


class Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), Curl())

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        x = torch.linalg.pinv(x)  # here: linalg_pinv
        return x.mean((2, 3))


def test_unsupported_operations_are_listed_all_at_once() -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        fxlrp.compile(Unsupported().eval())
    message = str(caught.value)
    for name in ("linalg_inv", "matrix_exp", "linalg_pinv"):
        assert name in message
        assert_names_line(message, HERE, name)
    assert "block.1" in message  # the module path
    assert "extensions" in message  # how to add a rule


def test_unsupported_operations_off_the_way_of_relevance_do_not_matter() -> None:
    class Off(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.unused = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            unused = torch.linalg.pinv(self.unused(x))
            unused = torch.corrcoef(unused)
            gate = torch.sigmoid(torch.linalg.pinv(x).T.detach())
            return self.linear(x) * gate

    model = zoo.initialise(Off().double())
    x = torch.randn(2, 4, dtype=torch.float64)
    assert_is_gradient(lrp0(model)(x), model, x)


def test_writes_through_a_view_are_followed_or_refused() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear1 = nn.Linear(4, 6)
            self.linear2 = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear1(x)
            y = x.view(-1, 2, 3)
            y[:, 0].relu_()
            y *= 2
            return self.linear2(x)

    model = zoo.initialise(Views().double())
    x = torch.randn(2, 4, dtype=torch.float64)
    try:
        relevance = fxlrp.compile(model, presets.epsilon(epsilon=0.0), capture="symbolic")(x)
    except (CaptureError, UnsupportedOpError) as error:
        assert HERE.name in str(error)
    else:
        assert_is_gradient(relevance, model, x)


def test_item_assignment_is_followed_or_refused() -> None:
    class Assigns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = 2 * x
            x[:, 1] = 0
            return self.linear(x)

    model = zoo.initialise(Assigns().double())
    x = torch.randn(2, 4, dtype=torch.float64)
    try:
        relevance = fxlrp.compile(model, presets.epsilon(epsilon=0.0), capture="symbolic")(x)
    except (CaptureError, UnsupportedOpError) as error:
        assert HERE.name in str(error)
    else:
        assert_is_gradient(relevance, model, x)
