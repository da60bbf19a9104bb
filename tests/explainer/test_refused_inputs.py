"""Inputs that the model itself refuses: an InputError that names the place, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxlrp
from fxlrp.errors import InputError, InternalError
from helpers import assert_names_line
from law_models import assert_unchanged, snapshot

HERE = Path(__file__)
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("Sparse CSR", "The PyTorch API of nested")]
IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(4 * 36, 5)).eval()


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.embedding(ids)  # here: tokens
        mean: Tensor = rows.mean(1)
        logits: Tensor = self.head(mean)
        return logits


class Branches(nn.Module):
    """Needs torch.export, and so the inputs of the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 1:
            x = x.expand(-1, 4)
        y: Tensor = self.layer(x)  # here: branches
        return y


class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.to(self.layer.weight.dtype))
        return y


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.rand(1, 8, 8, 3), ["node '_0'", "module '0' (Conv2d)", "(1, 8, 8, 3)", "(4, 3, 3, 3)"]),
        (torch.rand(3, 8, 8), ["node '_3'", "module '3' (Linear)", "(3, 8, 8)", "(4, 36)", "3.weight"]),
        (torch.rand(1, 3, 9, 9), ["node '_3'", "(1, 196)", "(5, 144)"]),
        (torch.rand(1, 1, 8, 8), ["node '_0'", "(1, 1, 8, 8)"]),
        (torch.rand(3), ["node '_0'", "(3,)"]),
        (torch.tensor(1.0), ["node '_0'", "()"]),
        (IMAGE.double(), ["node '_0'", "float64", "but the model is torch.float32"]),
        (IMAGE.half(), ["node '_0'", "float16"]),
        (IMAGE.bfloat16(), ["node '_0'", "bfloat16"]),
        (IMAGE.to_sparse(), ["'input'", "sparse_coo", "to_dense()"]),
        (torch.rand(4, 4).to_sparse_csr(), ["'input'", "sparse_csr"]),
        (IMAGE.to_mkldnn(), ["'input'", "mkldnn"]),
        (torch.nested.nested_tensor([torch.rand(3, 8, 8)]), ["'input'", "nested", "to_padded_tensor"]),
        (IMAGE.to("meta"), ["'input'", "meta", "cpu"]),
    ],
    ids=[
        *("channels_last", "no_batch", "size", "channels", "1d", "0d", "double", "half", "bfloat16"),
        *("sparse", "csr", "mkldnn", "nested", "meta"),
    ],
)
def test_an_input_that_does_not_fit(x: Tensor, said: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    explain = fxlrp.compile(convolutional())
    capfd.readouterr()
    for run in (lambda: explain(x, target=0), lambda: explain.debug(x, target=0), lambda: explain.balance(x)):
        with pytest.raises(InputError) as caught:
            run()
        for text in said:
            assert text in str(caught.value)
    assert capfd.readouterr().err == "", "no line of generated code is printed"
    torch.testing.assert_close(explain(IMAGE, target=0), fxlrp.compile(convolutional())(IMAGE, target=0))


@pytest.mark.parametrize(
    "ids",
    [
        torch.full((2, 5), 9),
        torch.full((2, 5), -1),
        torch.ones(2, 5, dtype=torch.int8),
        torch.ones(5, dtype=torch.long),
    ],
    ids=["too_large", "negative", "int8", "no_batch"],
)
def test_tokens_that_do_not_fit(ids: Tensor) -> None:
    explain = fxlrp.compile(Tokens().eval())
    with pytest.raises(InputError, match="'ids'") as caught:
        explain(ids, target=0)
    assert "embedding" in str(caught.value) or "head" in str(caught.value)


def test_the_line_of_the_user_and_the_error_of_torch() -> None:
    with pytest.raises(InputError) as caught:
        fxlrp.compile(Tokens().eval())(torch.full((2, 5), 9), target=0)
    assert_names_line(str(caught.value), HERE, "tokens")
    assert "node 'embedding'" in str(caught.value) and "module 'embedding' (Embedding)" in str(caught.value)
    assert isinstance(caught.value.__cause__, IndexError)


def test_an_error_of_the_model_itself() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, torch.ones(3, 4))  # here: picky

    with pytest.raises(InputError) as caught:
        fxlrp.compile(Picky().eval())(torch.rand(2, 5))
    assert_names_line(str(caught.value), HERE, "picky")


@pytest.mark.parametrize("capture", ["auto", "export"])
def test_a_first_call_that_does_not_fit(capture: Any) -> None:
    explain, x = fxlrp.compile(Branches().eval(), capture=capture), torch.rand(2, 4)
    with pytest.raises(InputError, match="module 'layer'") as caught:
        explain(torch.rand(2, 5))
    assert_names_line(str(caught.value), HERE, "branches")
    assert explain(x).shape == x.shape, "the next call captures the model"


@pytest.mark.parametrize(
    ("model", "capture"),
    [(Branches, "auto"), (Branches, "export"), (Casts, "auto"), (Casts, "symbolic"), (Casts, "export")],
)
def test_example_inputs_that_do_not_fit(model: Callable[[], nn.Module], capture: Any) -> None:
    with pytest.raises(InputError, match=r"module 'layer' .Linear") as caught:
        fxlrp.compile(model().eval(), capture=capture, example_inputs=torch.rand(2, 5))
    assert "(2, 5)" in str(caught.value)


def test_nested_example_inputs() -> None:
    with pytest.raises(InputError, match="nested"):
        fxlrp.compile(Casts().eval(), example_inputs=torch.nested.nested_tensor([torch.rand(4)]))


def test_a_file_for_inputs_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"module '0' .Conv2d"):
        fxlrp.compile(convolutional()).export(tmp_path / "explain.pt2", torch.rand(1, 8, 8, 3))


def test_stages_for_inputs_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="node '_0'"):
        fxlrp.compile(convolutional(), debug=True).check_stages(torch.rand(1, 8, 8, 3))


def test_a_backward_for_inputs_that_do_not_fit(capfd: pytest.CaptureFixture[str]) -> None:
    explained = fxlrp.autograd(convolutional())
    with pytest.raises(InputError, match=r"module '0' .Conv2d"):
        explained(torch.rand(1, 8, 8, 3))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_model_that_casts_takes_every_type(dtype: torch.dtype) -> None:
    """The relevance of a layer without bias: x_i * sum_j w_ji R_j / z_j, in the type of the layer."""
    model = Casts().eval()
    nn.init.zeros_(model.layer.bias)
    x = torch.rand(2, 4).to(dtype)
    expected = x.float() * model.layer.weight[1]
    torch.testing.assert_close(fxlrp.compile(model, "epsilon")(x, target=1).float(), expected, rtol=1e-2, atol=1e-3)


def test_a_convolution_takes_an_image_without_batch() -> None:
    """Every output has relevance: the sum of the maps is a number for each row of the first dimension."""
    model = nn.Conv2d(3, 1, 8, bias=False).eval()
    relevance = fxlrp.compile(model, "epsilon")(IMAGE[0])
    torch.testing.assert_close(relevance, IMAGE[0] * model.weight[0], rtol=1e-4, atol=1e-5)


def test_the_model_is_not_changed() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(4, 3), 0
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if x.shape[-1] > 4:
                self.get_buffer("seen").add_(1)
            y: Tensor = self.layer(x)
            return y

    model = Counts().eval()
    before = snapshot(model)
    with pytest.raises(InputError, match="'layer'"):
        fxlrp.compile(model, example_inputs=torch.rand(2, 5))
    assert_unchanged(before, snapshot(model))


def test_too_little_memory_is_not_the_fault_of_the_input() -> None:
    """2^50 rows without memory of their own; the output would need petabytes."""
    x = torch.rand(1, 4).expand(1 << 50, 4)
    for explain in (fxlrp.compile(Casts().eval()), fxlrp.autograd(Casts().eval())):
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as caught:
            explain(x)
        assert not isinstance(caught.value, fxlrp.errors.FxlrpError)


FAILURE: list[Exception] = []


def fails(x: Tensor) -> Tensor:
    raise FAILURE[0]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["cuda", "python"])
def test_errors_of_the_machine_stay_as_they_are(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    @fxlrp.rule_for(fails)
    def rule(x: Tensor, relevance: Tensor) -> Tensor:
        return relevance

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return fails(x)

    monkeypatch.setattr(f"{__name__}.FAILURE", [error])
    explain = fxlrp.compile(Model().eval(), extensions=[rule])
    with pytest.raises(type(error)) as caught:
        explain(torch.rand(2, 4))
    assert caught.value is error


def test_errors_of_a_seed_stay_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        fxlrp.compile(convolutional())(IMAGE, seed=lambda output: output / (1 // 0))


def test_a_graph_that_is_wrong_is_a_bug_of_fxlrp() -> None:
    """The model takes the input, the graph does not: not the fault of the input."""
    model, x = Casts().eval(), torch.rand(2, 4)
    explain = fxlrp.compile(model)
    made = explain._explanation.require("the graph")
    broken = copy.deepcopy(made.main.annotated)
    for graph in (broken, made.graph_module.graph):
        call = next(node for node in graph.nodes if node.op == "call_function" and "linear" in str(node.target))
        call.args = (call.args[1], *call.args[1:])
        with graph.inserting_before(call):
            call.args = (graph.call_function(torch.t, (call.args[0],)), *call.args[1:])
    made.graph_module.recompile()
    object.__setattr__(made.main, "annotated", broken)
    object.__setattr__(made.main, "keeping", None)
    with pytest.raises(InternalError, match="linear"):
        explain(x)


def test_it_still_compiles_and_exports_as_a_whole() -> None:
    explain = fxlrp.compile(convolutional())
    expected = explain(IMAGE, target=1)
    compiled = torch.compile(explain, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(IMAGE, target=1), expected)
    exported = torch.export.export(explain, (IMAGE,), {"target": 1})
    torch.testing.assert_close(exported.module()(IMAGE, target=1), expected)
    assert isinstance(explain.graph_module, fx.GraphModule)


def test_random_numbers_of_the_caller_do_not_depend_on_a_refusal() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            noise = torch.rand(())
            y: Tensor = self.layer(x)
            return y + 0 * noise

    model = Noisy().eval()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with pytest.raises(fxlrp.errors.FxlrpError):
        fxlrp.compile(model, capture="export", example_inputs=torch.rand(2, 5, generator=torch.Generator()))
    assert torch.equal(torch.rand(3), expected)


def test_the_place_is_that_of_the_message() -> None:
    """BatchNorm2d refuses what has no batch. The graph, in which it is folded, fails at a later layer."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1), nn.Linear(144, 5)).eval()
    with pytest.raises(InputError, match="expected 4D input") as caught:
        fxlrp.compile(model)(IMAGE[0])
    assert "it fails at module '1' (BatchNorm2d)" in str(caught.value)
