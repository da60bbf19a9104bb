"""The annotated table: a row for every node, and a summary."""

import re
from collections import Counter
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import rules
from helpers import values_of
from oracles import One, Two, random, randomize

COLUMNS = ["node", "operation", "module", "shape", "rule", "why", "relevance"]


class Row(NamedTuple):
    node: str
    operation: str
    module: str
    shape: str
    rule: str
    why: str
    relevance: str


def rows_of(table: str) -> list[Row]:
    """The cells of the table by the positions of its columns; blanks are cells too."""
    header, ruler, *lines = table.split("\n")
    spans = [match.span() for match in re.finditer("-+", ruler)]
    assert [header[start:end].strip() for start, end in spans] == COLUMNS
    rows = []
    for line in lines:
        if not line:
            break
        cells = [line[start:end].strip() for start, end in spans]
        # Nothing between the columns, and nothing behind the last one: no cell is wider than its column.
        assert re.sub(r"\s+", "", line) == re.sub(r"\s+", "", "".join(cells)), line
        rows.append(Row(*cells))
    return rows


def summary_of(table: str) -> tuple[Counter[str], Counter[str], int]:
    """What the lines below the table say: operations, rules, and how many constants are hidden."""
    summary = table.partition("\n\n")[2]
    found = []
    for what in ("operations", "rules"):
        match = re.search(rf"^(\d+) {what}: (.*)$", summary, re.MULTILINE)
        assert match, summary
        counts = Counter({name: int(n) for n, name in re.findall(r"(\d+) (.+?)(?=, \d+ |$)", match[2])})
        assert counts.total() == int(match[1])
        found.append(counts)
    constants = re.search(r"^(\d+) constants", summary, re.MULTILINE)
    return found[0], found[1], int(constants[1]) if constants else 0


def reached_from_inputs(explain: fxlrp.Explainer) -> set[str]:
    """The forward nodes that an input reaches, by way of tensors, sizes or masks."""
    reached: set[fx.Node] = set()
    for node in explain.nodes:
        if node.op == "placeholder" or reached.intersection(node.all_input_nodes):
            reached.add(node)
    return {node.name for node in reached}


class SqueezeAndExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return (x * gate).flatten(1)


NETS = [
    "residual",
    "shapes",
    "broadcast",
    "computed_weights",
    "batch_norm_beside_other_uses",
    "two_inputs",
    "arithmetic",
]


@pytest.mark.parametrize("name", NETS)
def test_table_has_a_row_for_every_node_that_an_input_reaches(name: str) -> None:
    explain = fxlrp.compile(zoo.small_net(name)[0])
    listed = [row.node for row in rows_of(str(explain))]
    order = [node.name for node in explain.nodes]
    assert len(listed) == len(set(listed))
    assert set(listed) == reached_from_inputs(explain)
    assert listed == [name for name in order if name in set(listed)]  # in order of execution
    everything = [row.node for row in rows_of(explain.table(constants=True))]
    assert everything == order
    assert len(order) > len(listed)


@pytest.mark.slow
def test_table_of_googlenet_is_complete() -> None:
    model, x = zoo.calibrated("googlenet")
    explain = fxlrp.compile(model, "epsilon_plus_flat")
    explain(x)
    rows = rows_of(explain.table(fold=False))
    # 57 convolutions with folded BatchNorm, 57 ReLUs, 13 max poolings, 9 concatenations, average, flatten, head, input
    assert len(rows) == 57 + 57 + 13 + 9 + 4 == 140
    assert Counter(row.operation for row in rows) == {
        "conv2d": 57,
        "relu": 57,
        "max_pool2d": 13,
        "cat": 9,
        "adaptive_avg_pool2d": 1,
        "flatten": 1,
        "linear": 1,
        "input": 1,
    }
    paths = {path for path, _ in model.named_modules()}
    assert {row.module for row in rows} <= paths
    convolutions = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    convolutions = [path for path in convolutions if not path.startswith("aux")]
    assert [row.module for row in rows if row.operation == "conv2d"] == convolutions
    assert all(row.relevance == "yes" and row.shape for row in rows)


def test_table_cells() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
            self.head = nn.Linear(8, 3)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(self.body(image).flatten(1))

    explain = fxlrp.compile(Net().eval(), [("head", rules.Epsilon(0.25)), (nn.Conv2d, rules.Gamma(0.5))])
    explain(torch.rand(5, 1, 4, 4))
    assert rows_of(str(explain)) == [
        Row("image", "input", "", "5x1x4x4", "", "", "yes"),
        Row("body_0", "conv2d", "body.0", "5x2x2x2", "Gamma(gamma=0.5)", "user pair 1: Conv2d", "yes"),
        Row("body_1", "relu", "body.1", "5x2x2x2", "PassThrough()", "default: activation", "yes"),
        Row("flatten", "flatten", "", "5x8", "PassThrough()", "default: shape", "yes"),
        Row("head", "linear", "head", "5x3", "Epsilon(epsilon=0.25)", "user pair 0: head", "yes"),
    ]


def test_table_agrees_with_the_annotations() -> None:
    explain = fxlrp.compile(zoo.small_net("shapes")[0])
    by_name = {node.name: node for node in explain.nodes}
    for row in rows_of(str(explain)):
        annotated = by_name[row.node].meta.get("fxlrp")
        if annotated is None:
            assert (row.rule, row.why) == ("", "")
        else:
            assert row.rule == str(annotated.rule)
            assert row.why == f"{annotated.origin}: {annotated.reason}"
            assert row.relevance == "yes"


def test_table_cuts_nothing_off() -> None:
    long = "a_module_with_a_name_that_is_far_too_long_for_any_terminal_" * 4

    def a_rule_with_a_name_that_is_also_far_too_long_for_any_column_of_a_table_on_a_screen(
        input: Tensor, *, out: Tensor, relevance: Tensor
    ) -> Tensor:
        return relevance

    custom = rules.Custom(a_rule_with_a_name_that_is_also_far_too_long_for_any_column_of_a_table_on_a_screen)
    box = rules.ZBox(tuple(-float(i) - 0.125 for i in range(24)), tuple(float(i) + 0.125 for i in range(24)))
    model = nn.Sequential()
    model.add_module(long, nn.Sequential(nn.Conv2d(24, 2, 1)))
    model.add_module("activation", nn.Tanh())
    explain = fxlrp.compile(
        model.eval(), [("conv2d", box), ("tanh", custom)], example_inputs=torch.rand(12, 24, 11, 13)
    )
    first, second = rows_of(str(explain))[1:]
    assert first.module == f"{long}.0" and first.node == f"{long}_0"
    assert first.shape == "12x2x11x13"
    assert first.rule == str(box) and first.rule.count("23.125") == 2
    assert first.why == "user pair 0: conv2d"
    assert second.rule.endswith("on_a_screen)")
    assert not re.search(r"\.\.\.|…", str(explain))


def test_table_shows_shapes_after_the_first_call() -> None:
    model, (x,) = zoo.small_net("residual")
    explain = fxlrp.compile(model)
    assert {row.shape for row in rows_of(str(explain))} == {""}
    for batch, size in ((2, 8), (5, 10)):
        x = zoo.images(batch, size)
        explain(x)
        values = values_of(explain, x)
        for row in rows_of(explain.table(constants=True)):
            assert row.shape == "x".join(map(str, values[row.node].shape)), row
        head = rows_of(str(explain))[-1]
        assert head.shape == f"{batch}x5"


def test_table_shows_shapes_at_once_with_example_inputs() -> None:
    model, inputs = zoo.small_net("two_inputs", batch=3)
    explain = fxlrp.compile(model, example_inputs=inputs)
    shapes = [row.shape for row in rows_of(str(explain)) if row.operation == "input"]
    assert shapes == ["3x6", "3x3"]
    values = values_of(explain, *inputs)
    for row in rows_of(str(explain)):
        assert row.shape == "x".join(map(str, values[row.node].shape)), row
    # No shape is baked in: other inputs change what is shown.
    explain(*(torch.cat([x, x]) for x in inputs))
    assert rows_of(str(explain))[-1].shape == "6x5"


def test_table_shows_no_shape_for_what_is_no_tensor() -> None:
    model, (x,) = zoo.small_net("shapes")
    explain = fxlrp.compile(model, example_inputs=x)
    values = values_of(explain, x)
    blank = {row.node for row in rows_of(str(explain)) if not row.shape}
    assert blank == {row.node for row in rows_of(str(explain)) if not isinstance(values[row.node], Tensor)}
    assert {"chunk", "split"} <= blank


def test_table_of_a_scalar_model() -> None:
    explain = fxlrp.compile(One(lambda x: x.sum()).eval())
    explain(random(2, 3))
    assert [row.shape for row in rows_of(str(explain))] == ["2x3", ""]


def test_table_says_no_for_the_gates() -> None:
    explain = fxlrp.compile(randomize(SqueezeAndExcitation()), "epsilon")
    flows = {row.node: row.relevance for row in rows_of(str(explain))}
    assert [node for node, flow in flows.items() if flow == "no"] == [
        "mean",
        "squeeze",
        "relu_1",
        "excite",
        "sigmoid",
    ]
    rows = {row.node: row for row in rows_of(str(explain))}
    assert "gate" in rows["mul"].why
    assert all(rows[node].rule == "" for node, flow in flows.items() if flow == "no")


def test_table_says_no_for_an_input_that_gets_none() -> None:
    explain = fxlrp.compile(Two(lambda a, b: torch.where(b > 0, a, 2 * a)).eval())
    rows = {row.node: row for row in rows_of(str(explain))}
    assert rows["a"].relevance == "yes" and rows["a"].why == ""
    assert rows["b"].relevance == "no" and rows["b"].why == "no rule passes relevance to it"
    assert rows["gt"].relevance == "no"


def test_table_says_no_where_only_zero_arrives() -> None:
    """All of the sum goes to the other operand: nothing reaches this branch, nor an input that only it reads."""
    explain = fxlrp.compile(Two(lambda a, b: a.relu() + b.tanh()).eval(), [("add", rules.Only(0))])
    flows = {row.node: row.relevance for row in rows_of(str(explain))}
    assert flows == {"a": "yes", "b": "no", "relu": "yes", "tanh": "no", "add": "yes"}
    first, second = explain(random(2, 3), random(2, 3, seed=1)).values()
    assert first.abs().sum() > 0 and torch.equal(second, torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", NETS)
def test_summary_agrees_with_the_nodes(name: str) -> None:
    explain = fxlrp.compile(zoo.small_net(name)[0], "epsilon_plus_flat")
    for constants in (False, True):
        table = explain.table(constants=constants)
        rows = rows_of(table)
        operations, of_rules, hidden = summary_of(table)
        assert operations == Counter(row.operation for row in rows if row.operation not in ("input", "parameter"))
        annotated = [node.meta["fxlrp"] for node in explain.nodes if "fxlrp" in node.meta]
        assert of_rules == Counter(str(annotation.rule) for annotation in annotated)
        assert hidden == (0 if constants else len(explain.nodes) - len(rows))


def test_summary_of_resnet18() -> None:
    explain = fxlrp.compile(zoo.build("resnet18"), "epsilon_plus_flat")
    operations, of_rules, hidden = summary_of(str(explain))
    assert operations == {
        "conv2d": 20,
        "relu": 17,
        "add": 8,
        "max_pool2d": 1,
        "adaptive_avg_pool2d": 1,
        "flatten": 1,
        "linear": 1,
    }
    assert of_rules == {
        "ZPlus()": 19,
        "PassThrough()": 18,
        "Epsilon(epsilon=1e-06)": 10,
        "Flat()": 1,
        "WinnerTakesAll()": 1,
    }
    # 62 parameters, 40 running statistics, 20 folded weights and 20 folded biases
    assert hidden == 62 + 40 + 20 + 20


def test_table_of_constants() -> None:
    """Parameters and what is computed from them, with module and shape; none of it carries relevance."""
    model, (x,) = zoo.small_net("residual")
    explain = fxlrp.compile(model, example_inputs=x)
    shown = {row.node: row for row in rows_of(explain.table(constants=True))}
    hidden = shown.keys() - {row.node for row in rows_of(str(explain))}
    parameters = {
        name.replace(".", "_"): tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if not name.endswith("num_batches_tracked")
    }
    assert parameters.keys() <= hidden
    for name, tensor in parameters.items():
        assert shown[name].operation == "parameter"
        assert shown[name].shape == "x".join(map(str, tensor.shape))
        assert shown[name].module == name.split("_")[0]
    assert {"conv1_folded_weight", "conv3_folded_bias"} <= hidden - parameters.keys()
    assert {shown[name].relevance for name in hidden} == {"no"}


def test_repr_is_one_line() -> None:
    explain = fxlrp.compile(zoo.build("resnet18"))
    assert "\n" not in repr(explain) and len(repr(explain)) < 100
    assert "ResNet" in repr(explain)
    assert "49" in repr(explain)  # steps: as many as calls that are left once BatchNorm is folded


def test_str_is_the_table() -> None:
    explain = fxlrp.compile(zoo.small_net("residual")[0])
    assert str(explain) == explain.table() == f"{explain}"
    assert explain.table() != explain.table(constants=True)
