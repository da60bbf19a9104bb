"""Models that read sizes: the explainer captures again at the first call that needs another size."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import FxlrpError, InputError
from helpers import LRP0, one_in
from oracles import assert_relevance, random
from zoo import gradient_times_input


class ReadsBatch(nn.Module):
    """It reads the number of samples in the way ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        if self.how == "len":
            x = x.view(len(x), 2, 3).flatten(1)
        elif self.how == "int":
            x = x.view(int(x.shape[0]), -1)
        elif self.how == "loop":
            x = torch.stack([x[index] for index in range(x.shape[0])])
        elif self.how == "iteration":
            x = torch.stack([row * 1 for row in x])
        else:
            x = x * torch.ones(list(x.shape), dtype=x.dtype)
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("capture", ["auto", "export"])
@pytest.mark.parametrize("first", one_in(2, [1, 3]))
@pytest.mark.parametrize("how", one_in(2, ["len", "int", "loop", "iteration", "list"]))
def test_any_batch_of_a_model_that_reads_its_batch(how: str, first: int, capture: Any) -> None:
    model = ReadsBatch(how).double().eval()
    explain = fxlrp.compile(model, LRP0, example_inputs=random(first, 4), capture=capture)
    for batch in (first, 1, 4, 3, 1):
        x = random(batch, 4)
        (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 2].sum())
        assert_relevance(explain(x, target=2), expected, 1e-12)


def explainer(**options: Any) -> tuple[nn.Module, fxlrp.Explainer]:
    model = ReadsBatch("len").double().eval()
    return model, fxlrp.compile(model, LRP0, example_inputs=random(2, 4), **options)


def test_sizes_that_were_seen_are_not_captured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, explain = explainer()
    count, export = 0, torch.export.export

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counting)
    explain(random(5, 4))
    seen = count
    for batch in (2, 5, 2, 5):
        explain(random(batch, 4))
    assert count == seen > 0


def test_what_is_shown_and_debugged_is_the_capture_of_the_latest_call() -> None:
    model, explain = explainer(debug=True)
    for batch in (5, 2):
        x = random(batch, 4)
        (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
        assert explain.debug(x, target=1).at_inputs == pytest.approx(float(expected.sum()))
        assert explain.check_stages(x, target=1).wrong() == ()
        assert f"{batch}x6" in explain.table()


def test_a_copy_and_new_weights() -> None:
    model, explain = explainer()
    explain(random(5, 4))
    copied = copy.deepcopy(explain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2)
    for batch in (2, 5):
        x = random(batch, 4)
        (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
        assert_relevance(explain(x, target=1), expected, 1e-12)
        assert not torch.allclose(copied(x, target=1), expected)


def test_a_size_that_the_model_does_not_take_is_an_error_with_both_reasons() -> None:
    _, explain = explainer()
    with pytest.raises(
        InputError, match=r"(?s)x\.shape\[1\] == 4\. Capturing the model for this call fails.*cannot be multiplied"
    ):
        explain(random(2, 5))
    with pytest.raises(InputError, match="has shape"):
        explain(random(4))


def test_a_compiled_explainer_does_not_capture_again() -> None:
    _, explain = explainer()
    compiled = torch.compile(explain, fullgraph=True, backend="eager")
    assert_relevance(compiled(random(2, 4), target=1), explain(random(2, 4), target=1), 1e-12)
    with pytest.raises((FxlrpError, RuntimeError), match="not captured again"):
        compiled(random(3, 4), target=1)


def test_relevance_in_the_backward_is_captured_again() -> None:
    model = ReadsBatch("len").double().eval()
    explained = fxlrp.autograd(model, LRP0, example_inputs=random(1, 4))
    for batch in (1, 3):
        x = random(batch, 4)
        (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
        x.requires_grad_()
        explained(x)[:, 1].sum().backward()
        assert_relevance(x.grad, expected, 1e-12)  # type: ignore[arg-type]


def test_the_model_is_not_changed() -> None:
    model, explain = explainer()
    before, names = copy.deepcopy(model.state_dict()), set(vars(model))
    for batch in (1, 5):
        explain(random(batch, 4))
    assert set(vars(model)) == names and list(explain.state_dict()) == [f"graph_module.model.{name}" for name in before]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_the_programs_of_a_limited_number_of_sizes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxlrp.first_call._KEPT", 3)
    model, explain = explainer()
    for batch in (3, 4, 5, 6, 3, 2):
        x = random(batch, 4)
        (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
        assert_relevance(explain(x, target=1), expected, 1e-12)
        assert len(explain._explanation.all) <= 3


def test_sizes_of_several_threads() -> None:
    model, explain = explainer()
    batches = (3, 4, 3, 5, 4, 3)
    with ThreadPoolExecutor(len(batches)) as pool:
        found = list(pool.map(lambda batch: explain(random(batch, 4), target=1), batches))
    for batch, relevance in zip(batches, found, strict=True):
        (expected,) = gradient_times_input(model, random(batch, 4), select=lambda y: y[:, 1].sum())
        assert_relevance(relevance, expected, 1e-12)
