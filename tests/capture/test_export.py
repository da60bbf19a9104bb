"""The second front end, inputs by name, tokens, outputs and the balance of an explanation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp.errors import CaptureError, InputError, UnsupportedOpError
from fxlrp.rules.presets import PRESETS
from helpers import LRP0, as_tuple
from oracles import One, assert_relevance, random

TOKENS = torch.tensor([[1, 5, 2, 2, 0, 7], [3, 3, 9, 4, 8, 6]])


class Encoder(nn.Module):
    """What symbolic tracing cannot follow: it branches on the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> dict[str, Any]:
        x = self.embedding(tokens)
        if x.shape[1] > 1:  # here: branch
            x = x + torch.relu(self.mix(x))
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        return {"states": [x], "logits": self.head(x.sum(1)) * scale}


class Explicit(nn.Module):
    """The same from the embeddings, without branches: input times gradient of it is the oracle for LRP-0."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + torch.relu(self.encoder.mix(x))
        return F.linear((x * mask.unsqueeze(-1)).sum(1), self.encoder.head.weight)


def encoder() -> Encoder:
    torch.manual_seed(0)
    model = Encoder().double().eval()
    nn.init.zeros_(model.mix.bias)
    nn.init.zeros_(model.head.bias)
    return model


def expected(model: Encoder, tokens: Tensor, mask: Tensor, target: int) -> Tensor:
    x = model.embedding(tokens).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(Explicit(model)(x, mask)[:, target].sum(), x)
    return (x * gradient).detach().sum(-1)


def test_tokens_have_the_relevance_of_their_features_at_any_batch_and_length() -> None:
    model, mask = encoder(), torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    explain = fxlrp.compile(model, LRP0, example_inputs=(TOKENS, mask), output="logits")
    assert explain.front_end == "export"
    for tokens, padding in (
        (TOKENS, mask),
        (TOKENS[:1, :4], mask[:1, :4]),
        (TOKENS.repeat(3, 2), mask.repeat(3, 2)),
    ):
        relevance = explain(tokens, padding, target=1)
        assert_relevance(relevance, expected(model, tokens, padding, 1), 1e-12)


@pytest.mark.parametrize("how", ["by position", "by name", "mixed", "at the first call"])
def test_inputs_by_position_and_by_name(how: str) -> None:
    model, mask = encoder(), torch.ones_like(TOKENS)
    examples: Any = {"tokens": TOKENS, "mask": mask, "scale": 2.0}
    examples = {"by position": (TOKENS, mask), "at the first call": None}.get(how, examples)
    explain = fxlrp.compile(model, LRP0, example_inputs=examples, output=("logits",))
    args, kwargs = {
        "by position": ((TOKENS, mask), {}),
        "by name": ((), {"mask": mask, "tokens": TOKENS}),
        "mixed": ((TOKENS,), {"mask": mask}),
        "at the first call": ((TOKENS,), {"mask": mask}),
    }[how]
    scale = 2.0 if isinstance(examples, dict) else 1.0
    assert_relevance(explain(*args, target=0, **kwargs), scale * expected(model, TOKENS, mask, 0), 1e-12)


def test_the_first_call_captures() -> None:
    model = encoder()
    explain = fxlrp.compile(model, LRP0, output="logits")
    assert isinstance(explain, fxlrp.Explainer) and "first call" in str(explain)
    for name in ("code", "nodes", "graph_module"):
        assert not hasattr(explain, name)
        with pytest.raises(InputError, match="example_inputs"):
            getattr(explain, name)
    explain(TOKENS, target=1)
    assert type(explain) is fxlrp.Explainer and explain.nodes
    ones = torch.ones(2, 3, dtype=torch.long)
    assert_relevance(explain(TOKENS[:, :3], target=2), expected(model, TOKENS[:, :3], ones, 2), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tokens": TOKENS, "no": TOKENS}, "unknown input 'no'"),
        ({"tokens": TOKENS.double(), "mask": TOKENS}, "selects rows"),
        ({"tokens": TOKENS}, "expected 2 inputs"),
        ({"tokens": TOKENS[0], "mask": TOKENS[0]}, "has shape"),
        ({"tokens": TOKENS, "mask": TOKENS[:, :3]}, "sizes"),
        ({"tokens": TOKENS, "mask": TOKENS.to(torch.complex64)}, "torch.complex64"),
    ],
)
def test_inputs_that_do_not_fit(kwargs: dict[str, Tensor], message: str) -> None:
    explain = fxlrp.compile(encoder(), example_inputs=(TOKENS, torch.ones_like(TOKENS)), output="logits")
    with pytest.raises(InputError, match=message):
        explain(**kwargs)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (None, CaptureError, "'states', 'logits'"),
        ("no", InputError, "without 'no'"),
        ("states", InputError, "index below 1"),
        (("states", 1), InputError, "without 1"),
        (("logits", 0), InputError, "single tensor"),
    ],
)
def test_outputs_that_are_not_there(output: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fxlrp.compile(encoder(), example_inputs=TOKENS, output=output)


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_an_output_by_index_key_and_path(capture: Any) -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"a": (2 * x, [3 * x]), "b": 4 * x}, 5 * x

    x = random(2, 3)
    for output, factor in ((("0", "a"), None), ((0, "a", 0), 2), ((0, "a", 1, 0), 3), ((0, "b"), 4), (1, 5)):
        options: dict[str, Any] = {"output": output, "capture": capture, "example_inputs": x}
        if factor is None:
            with pytest.raises(InputError):
                fxlrp.compile(Several().eval(), **options)
        else:
            explain = fxlrp.compile(Several().eval(), LRP0, **options)
            assert_relevance(explain(x, seed=lambda y: y), factor * x, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(zoo.SMALL_NETS))
def test_both_front_ends_give_the_same_relevance(name: str) -> None:
    model, inputs = zoo.small_net(name)
    symbolic, export = (
        fxlrp.compile(copy.deepcopy(model), "epsilon_plus", example_inputs=inputs, capture=capture)
        for capture in ("symbolic", "export")
    )
    assert export.front_end == "export"
    for ours, theirs in zip(as_tuple(export(*inputs)), as_tuple(symbolic(*inputs)), strict=True):
        assert_relevance(ours, theirs, 1e-10)
    more = [torch.cat([x, x.flip(0), x]) for x in inputs]
    for ours, theirs in zip(as_tuple(export(*more)), as_tuple(symbolic(*more)), strict=True):
        assert_relevance(ours, theirs, 1e-10)


def test_a_batch_of_one_leaves_the_batch_open() -> None:
    model, x = nn.Linear(4, 3).eval(), torch.rand(1, 4)
    explain = fxlrp.compile(model, example_inputs=x, capture="export")
    assert explain(x).shape == (1, 4) and explain(torch.rand(5, 4)).shape == (5, 4)


def test_images_of_another_size_are_captured_again_unless_dynamic_shapes_open_it() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)).eval()
    x = torch.rand(2, 1, 8, 8)
    fixed = fxlrp.compile(model, example_inputs=x, capture="export")
    other = torch.rand(2, 1, 9, 8)
    torch.testing.assert_close(fixed(other), fxlrp.compile(model)(other))
    auto = torch.export.Dim.AUTO
    shapes = {"input": {0: auto, 2: auto, 3: auto}}
    explain = fxlrp.compile(model, example_inputs=x, capture="export", dynamic_shapes=shapes)
    image = torch.rand(3, 1, 9, 12)
    torch.testing.assert_close(explain(image), fxlrp.compile(model)(image))


def test_the_live_model_is_explained_and_not_changed() -> None:
    model = encoder()
    before = copy.deepcopy(model.state_dict())
    explain = fxlrp.compile(model, LRP0, example_inputs=TOKENS, output="logits")
    explain(TOKENS)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.head.weight.mul_(3)
    ones = torch.ones_like(TOKENS)
    assert_relevance(explain(TOKENS, target=1), expected(model, TOKENS, ones, 1), 1e-12)


def test_names_modules_and_lines_are_those_of_the_model() -> None:
    explain = fxlrp.compile(encoder(), example_inputs=TOKENS, output="logits")
    assert {"embedding", "mix", "head"} <= {node.name for node in explain.nodes}
    assert fxlrp.compile(encoder(), [("mix", fxlrp.rules.Gamma())], example_inputs=TOKENS, output="logits")
    mix = next(node for node in explain.nodes if node.name == "mix")
    assert "test_export.py" in (mix.stack_trace or "")


def test_operations_without_a_rule_are_listed_for_both_front_ends() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.special.bessel_j0(x) if x.shape[1] > 2 else x
            return torch.special.bessel_j1(x)

    with pytest.raises(UnsupportedOpError, match=r"2 operations have") as caught:
        fxlrp.compile(Net().eval(), example_inputs=torch.rand(2, 3))
    assert "test_export.py" in str(caught.value)

    @fxlrp.rule_for(torch.special.bessel_j1)
    def j1_relevance(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
        return relevance

    @fxlrp.rule_for(torch.special.bessel_j0)
    def j0_relevance(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
        return 2 * relevance

    explain = fxlrp.compile(Net().eval(), example_inputs=torch.rand(2, 3), extensions=[j1_relevance, j0_relevance])
    seed = torch.rand(2, 3)
    assert torch.equal(explain(torch.rand(2, 3), seed=seed), 2 * seed)


def test_the_product_of_an_export_compiles_and_exports() -> None:
    model = encoder()
    explain = fxlrp.compile(model, LRP0, example_inputs=TOKENS, output="logits")
    compiled = torch.compile(explain, fullgraph=True, backend="aot_eager")
    for tokens in (TOKENS, TOKENS[:, :4]):
        assert_relevance(compiled(tokens, target=1), explain(tokens, target=1), 1e-12)
    again = torch.export.export(explain, (TOKENS,), {"target": 1}, strict=False).module()
    assert_relevance(again(TOKENS, target=1), explain(TOKENS, target=1), 1e-12)


@pytest.mark.parametrize("rules", ["epsilon", "attnlrp", "cplrp"])
def test_the_balance_of_every_node_is_what_its_rule_says(rules: str) -> None:
    """Softmax creates ``sum x (R - y sum R) - sum R``; nothing else does where there are no biases."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24, bias=False)
            self.head = nn.Linear(8, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.head((x + torch.softmax(q @ k.transpose(1, 2), -1) @ v).mean(1))

    torch.manual_seed(0)
    model, x = Attention().double().eval(), random(2, 4, 8)
    parts = fxlrp.Optimizations(fuse_attention=False)
    explain = fxlrp.compile(model, PRESETS[rules](epsilon=1e-12), optimize=parts)
    balance = explain.balance(x, target=1)
    assert abs(balance.explained - float(model(x)[:, 1].sum())) < 1e-12
    assert abs(balance.at_inputs - float(explain(x, target=1).sum())) < 1e-9
    leaks = balance.leaks(1e-6)
    assert {leak.operation for leak in leaks} == ({"softmax"} if rules != "cplrp" else set())
    if rules == "cplrp":
        return
    # LRP-epsilon by hand as far as the attention weights
    with torch.no_grad():
        q, k, v = model.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2)
        weights = torch.softmax(scores, -1)
        values = weights @ v
        total = x + values
        logits = model.head(total.mean(1))
        r = total.mean(1) * model.head.weight[1]
        r = (r / total.mean(1)).unsqueeze(1) * total / 4
        r = r * values / total
        r = weights * ((r / (2 * values)) @ v.transpose(1, 2))
        created = (scores * (r - weights * r.sum(-1, keepdim=True))).sum() - r.sum()
        assert logits.shape == (2, 3)
    (softmax,) = leaks
    assert abs(softmax.received - float(r.sum())) < 1e-9
    assert abs(softmax.created - float(created)) < 1e-9
    assert f"{len(balance.nodes)} nodes" in str(balance) and "softmax" in str(balance)
    assert balance.by_operation()["softmax"] == softmax.created


def test_a_copy_into_another_type_is_not_taken_for_one_into_its_own() -> None:
    class Copies(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.dtype = dtype

        def forward(self, x: Tensor) -> Tensor:
            out = torch.zeros(x.shape, dtype=self.dtype)
            out.copy_(3 * x)
            return out.double().sum(1, keepdim=True) + 0 * x

    x = random(2, 3)
    explain = fxlrp.compile(Copies(torch.float64).eval(), LRP0, example_inputs=x, capture="export")
    assert_relevance(explain(x, seed=lambda y: y), 9 * x, 1e-12)
    with pytest.raises(UnsupportedOpError, match=r"aten\.copy"):
        fxlrp.compile(Copies(torch.float32).eval(), LRP0, example_inputs=x, capture="export")


def test_an_unknown_front_end() -> None:
    with pytest.raises(CaptureError, match="auto, symbolic, export"):
        fxlrp.compile(nn.Linear(2, 2).eval(), capture="onnx")  # type: ignore[arg-type]


def test_control_flow_on_values_is_refused_by_both() -> None:
    def branches(x: Tensor) -> Tensor:
        return -x if x.sum() > 0 else x

    with pytest.raises(CaptureError, match=r"(?s)symbolic tracing cannot follow.*torch.export cannot follow"):
        fxlrp.compile(One(branches).eval(), example_inputs=torch.rand(2, 3))
