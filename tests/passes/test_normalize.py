"""normalize: every spelling becomes one canonical call."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import fxlrp.passes
from fxlrp.errors import CaptureError, UnsupportedOpError
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.normalize import normalize
from fxlrp.vocabulary import CANONICAL
from oracles import One, assert_relevance, random
from pass_programs import calls, node_named, program_after, value

WEIGHT = random(6, 6, seed=3)
INDEX = torch.zeros(2, 6, dtype=torch.int64)
X = random(2, 6, seed=4)


def test_normalize_leaves_canonical_calls_only() -> None:
    def function(x: Tensor) -> Tensor:
        y = torch.relu_(x.add(1)).mul(2).sub_(x)
        y = F.leaky_relu(y, negative_slope=0.2, inplace=True).view(2, 3, -1)
        return torch.sum(y.transpose(1, 2).contiguous(), axis=1)  # type: ignore[call-overload]

    program = program_after((functionalize, normalize), function)
    operations = [CANONICAL.operation(node) for node in program.graph.nodes if node.op == "call_function"]
    assert [operation.name for operation in operations if operation] == [
        "add_scaled",
        "relu",
        "mul",
        "sub_scaled",
        "leaky_relu",
        "reshape",
        "transpose",
        "contiguous",
        "sum",
    ]
    assert {node.op for node in program.graph.nodes} == {"placeholder", "call_function", "output"}
    for node in program.graph.nodes:
        operation = CANONICAL.operation(node)
        assert operation is None or node.target is operation.function
    assert not [n for n in program.graph.nodes if "inplace" in n.kwargs or "axis" in n.kwargs]
    assert_relevance(value(program, X), function(X), 1e-13)


def test_normalize_writes_arguments_in_the_shortest_way() -> None:
    program = program_after(
        (functionalize, normalize), lambda x: torch.flatten(input=F.hardtanh(x, -1.0, 2.0), start_dim=0)
    )
    hardtanh, flatten = (node for node in program.graph.nodes if node.op == "call_function")
    assert hardtanh.args == (node_named(program, "x"),) and hardtanh.kwargs == {"max_val": 2.0}
    assert flatten.args == (hardtanh,) and flatten.kwargs == {}


def test_normalize_again_finds_nothing(resnet18: nn.Module) -> None:
    program = program_after((functionalize, normalize), resnet18)
    once = str(program.graph)
    assert normalize(program) == 0
    assert str(program.graph) == once


def test_normalize_counts(resnet18: nn.Module) -> None:
    """All calls but the average pooling, which is canonical as it is; whatever changes about a node, it counts once."""
    program = program_after((functionalize,), resnet18)
    old = {node.name: (node.op, node.target, node.args, node.kwargs) for node in program.graph.nodes}
    count = normalize(program)
    new = {node.name: (node.op, node.target, node.args, node.kwargs) for node in program.graph.nodes}
    changed = [name for name in new if name in old and old[name] != new[name]]
    assert count == len(changed) == 68
    # 20 convolutions, 20 BatchNorms, 17 ReLUs, 8 sums, 2 poolings, flatten and the head
    assert 20 + 20 + 17 + 8 + 2 + 1 + 1 == len(calls(program)) == 69
    assert "adaptive_avg_pool2d" not in changed


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: F.dropout(x, 0.5), "training=True.*test_normalize.py"),
        (lambda x: F.batch_norm(x, None, None, training=True), "training=True.*test_normalize.py"),
        (lambda x: torch.scatter(x, 1, INDEX, x, reduce="multiply"), "reduce='multiply'.*test_normalize.py"),
        (lambda x: x.grad, "'grad'.*pass_programs.py"),  # not the model's line, but the one that starts the capture
    ],
    ids=["dropout", "batch_norm", "scatter", "attribute"],
)
def test_normalize_refuses_what_it_would_change(function: Callable[[Tensor], Tensor], named: str) -> None:
    program = program_after((functionalize,), function)
    with pytest.raises(CaptureError, match=named):
        normalize(program)


UNUSUAL: dict[str, Callable[[Tensor], Tensor]] = {
    "to_device_dtype": lambda x: x.to("cpu", torch.float32),
    "to_device_dtype_copy": lambda x: x.to("cpu", torch.float32, False, True),
    "to_dtype_positional": lambda x: x.to(torch.float32, True),
    "to_other": lambda x: x.to(WEIGHT),
    "to_dtype": lambda x: x.to(dtype=torch.float32),
    "to_device": lambda x: x.to(device="cpu"),
    "to_device_dtype_keywords": lambda x: x.to(device="cpu", dtype=torch.float32),
    "to_dtype_format": lambda x: x.to(torch.float32, memory_format=torch.preserve_format),
    "to_format": lambda x: x.to(memory_format=torch.preserve_format),
    "type_as": lambda x: x.type_as(WEIGHT),
    "split_size": lambda x: x.split(split_size=3, dim=1)[0],
    "split_sizes": lambda x: x.split([2, 4], 1)[1],
    "reshape": lambda x: x.reshape(shape=(2, 6)),
    "view_size": lambda x: x.view(size=(2, 6)),
    "swapaxes_keywords": lambda x: x.swapaxes(axis0=0, axis1=1),
    "torch_dropout": lambda x: torch.dropout(x, p=0.5, train=False),
    "clamp_max": lambda x: torch.clamp(x, None, 0.5),
    "expand": lambda x: x.expand(3, -1, -1),
    "repeat": lambda x: x.repeat(2, 1),
    "transpose_keyword": lambda x: torch.transpose(x, 0, dim1=1),
    "mean_axis": lambda x: x.mean(axis=1, keepdim=True),  # type: ignore[call-overload]
    "sum_dims": lambda x: torch.sum(x, (0, 1), True),
    "flip": lambda x: x.flip(0, 1) + torch.flip(x, dims=[0]),
    "where_method": lambda x: x.where(x > 0, 0.25 * x),
}


@pytest.mark.parametrize("function", UNUSUAL.values(), ids=list(UNUSUAL))
def test_normalize_keeps_the_meaning_of_unusual_spellings(function: Callable[[Tensor], Tensor]) -> None:
    """dtype and values are those of the call, however it is written; a refusal is an error of fxlrp's own."""
    program = program_after((functionalize, normalize), function)
    assert_relevance(value(program, X), function(X), 1e-13)
    try:
        fxlrp.compile(One(function).eval(), capture="symbolic")
    except (CaptureError, UnsupportedOpError) as error:
        assert "test_normalize.py" in str(error)
