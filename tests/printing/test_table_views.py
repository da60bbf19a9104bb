"""Parts of the annotated table: chosen nodes, hidden columns and rows, folded shape operations, a width."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import rules
from fxlrp.errors import InputError
from oracles import One, Two


class Attention(nn.Module):
    """Attention written out, with the layout of heads that transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        weights = F.softmax(q @ k.transpose(-2, -1) * 0.5, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class Transformer(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention() for _ in range(depth))
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.norm(self.head(x.mean(1)))


@pytest.fixture(scope="module")
def explain() -> fxlrp.Explainer:
    torch.manual_seed(0)
    return fxlrp.compile(Transformer(6).eval(), "attnlrp", example_inputs=torch.rand(2, 5, 8))


@pytest.fixture(scope="module")
def small() -> fxlrp.Explainer:
    torch.manual_seed(0)
    return fxlrp.compile(Transformer(2).eval(), "attnlrp", example_inputs=torch.rand(2, 5, 8))


def column(table: str, name: str) -> list[str]:
    header, ruler, *lines = table.split("\n")
    spans = {header[m.start() : m.end()].strip(): m.span() for m in re.finditer("-+", ruler)}
    start, end = spans[name]
    return [line[start:end].strip() for line in lines[: lines.index("")]]


def below(table: str) -> str:
    return table.partition("\n\n")[2]


def test_a_long_table_counts_shape_operations_beside_the_value_that_they_move(explain: fxlrp.Explainer) -> None:
    folded, whole = explain.table(), explain.table(fold=False)
    operations = column(folded, "operation")
    # q, k, v are one linear map; reshape, permute, unbind, three selections and the transpose of k follow it.
    assert [each for each in operations if each.startswith("linear")] == [
        *["linear + 7 shape", "linear"] * 6,
        "linear",
    ]
    counted = sum(int(each.split()[2]) for each in operations if " + " in each)
    assert f"{counted} shape operations are counted in the rows" in below(folded)
    shape = {"reshape", "permute", "unbind", "getitem", "transpose", "expect_dims"}
    arithmetic = [each for each in column(whole, "operation") if each not in {*shape, "getattr", "floordiv"}]
    assert [each.split()[0] for each in operations if each != "getitem"] == arithmetic


def test_folding_does_not_change_the_counts_of_operations_with_relevance(explain: fxlrp.Explainer) -> None:
    folded, whole = (below(explain.table(fold=fold)).splitlines() for fold in (True, False))
    assert folded[:2] == whole[:2]
    sizes = len(column(explain.table(fold=False), "node")) - len(column(explain.table(), "node"))
    found = [int(line.split()[0]) for line in folded if "table(fold=False)" in line]
    assert sum(found) == sizes and len(found) == 2


def test_short_tables_show_every_shape_operation_unless_asked(small: fxlrp.Explainer) -> None:
    assert "unbind" in column(small.table(only="blocks.0"), "operation")
    assert "unbind" not in column(small.table(only="blocks.0", fold=True), "operation")


def test_a_shape_operation_with_a_rule_of_its_own_is_not_folded() -> None:
    net = One(lambda x: x.tanh().flatten(1).relu())
    explain = fxlrp.compile(net.eval(), [("flatten", rules.Custom(lambda input, *, out, relevance: 0 * input))])
    table = explain.table(fold=True)
    assert column(table, "operation") == ["input", "tanh", "flatten", "relu"]
    assert column(fxlrp.compile(net.eval()).table(fold=True), "operation") == ["input", "tanh + 1 shape", "relu"]


def test_where_relevance_ends_is_not_folded() -> None:
    """The branch of the gate: its first row has no relevance, that of the value has."""
    explain = fxlrp.compile(One(lambda x: x * x[:, :1].reshape(-1, 1).sigmoid()).eval())
    rows = zip(*(column(explain.table(fold=True), name) for name in ("operation", "relevance")), strict=True)
    assert list(rows) == [("input", "yes"), ("getitem + 1 shape", "no"), ("sigmoid", "no"), ("mul", "yes")]


def test_what_selects_by_values_or_joins_is_not_folded() -> None:
    net = Two(lambda a, b: torch.cat([torch.where(b > 0, a, 0.5), a.sort(-1).values, b[:, torch.tensor([1, 0])]], 1))
    operations = column(fxlrp.compile(net.eval()).table(fold=True), "operation")
    assert {"where", "cat"} <= set(operations) and any(each.startswith("sort") for each in operations)


@pytest.mark.parametrize(
    ("only", "nodes"),
    [
        ("blocks.0.qkv", ["blocks_0_qkv"]),
        (["head", "x"], ["x", "head_input", "head"]),
        ("blocks.1.out", ["blocks_1_out"]),
        ("blocks.?.qkv", ["blocks_0_qkv", "blocks_1_qkv"]),
        ("add*", ["add", "add_1"]),
        ("head.weight", ["head_weight"]),
    ],
)
def test_only(small: fxlrp.Explainer, only: list[str], nodes: list[str]) -> None:
    table = small.table(only=only)
    assert column(table, "node") == nodes
    operations = sum(node not in ("x", "head_weight") for node in nodes)
    assert below(table).startswith(f"{operations} operations")


def test_a_module_stands_for_everything_inside_it(small: fxlrp.Explainer) -> None:
    found = column(small.table(only="blocks.0"), "module")
    assert set(found) == {"blocks.0", "blocks.0.qkv", "blocks.0.out"}
    both = column(small.table(only="blocks.*"), "node")
    assert both == column(small.table(only=["blocks.1", "blocks.0"]), "node")
    weights = column(small.table(only="blocks.0.qkv", constants=True), "operation")
    assert weights == ["parameter", "parameter", "linear"]


def test_a_node_that_is_named_is_not_folded(explain: fxlrp.Explainer) -> None:
    names = column(explain.table(fold=False), "node")
    permute = next(name for name in names if name.endswith("permute"))
    assert column(explain.table(only=permute, fold=True), "node") == [permute]


def test_only_rows_with_relevance(small: fxlrp.Explainer) -> None:
    flows = column(small.table(), "relevance")
    assert set(flows) == {"yes", "no"}
    for wanted, word in ((True, "yes"), (False, "no")):
        assert column(small.table(relevance=wanted), "relevance") == [word] * flows.count(word)


def test_hidden_columns(small: fxlrp.Explainer) -> None:
    header = small.table(hide=["why", "shape"]).split("\n")[0].split()
    assert header == ["node", "operation", "module", "rule", "relevance"]
    assert small.table(hide="module").split("\n")[0].split() == "node operation shape rule why relevance".split()


def test_hidden_rows(small: fxlrp.Explainer) -> None:
    table = small.table(hide=["sum", "softmax"])
    assert not {"add", "softmax"} & set(column(table, "operation"))
    before = len(column(small.table(), "node"))
    hidden = before - len(column(table, "node"))
    assert f"{hidden} rows are hidden: sum, softmax" in below(table)
    assert column(small.table(hide="linear"), "operation").count("linear") == 0


@pytest.mark.parametrize("width", [100, 120, 160, 200])
def test_no_line_is_longer_than_the_width(explain: fxlrp.Explainer, width: int) -> None:
    table = explain.table(width=width)
    assert max(map(len, table.split("\n"))) <= width
    full = explain.table()
    for name in ("node", "operation", "module", "shape", "rule", "why", "relevance"):
        for short, cell in zip(column(table, name), column(full, name), strict=True):
            if name in ("node", "module") and short != cell:
                assert short[0] == "…" and cell.endswith(short[1:])
            elif short != cell:
                assert short[-1] == "…" and cell.startswith(short[:-1])
            if name in ("operation", "shape", "relevance"):
                assert short == cell
    words = " ".join(below(table).split())
    assert words == " ".join(below(full).split())


def test_a_wide_table_is_not_shortened(explain: fxlrp.Explainer) -> None:
    longest = max(map(len, explain.table().split("\n\n")[0].split("\n")))
    assert explain.table(width=longest).split("\n\n")[0] == explain.table().split("\n\n")[0]
    assert "…" in explain.table(width=longest - 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(only="blocks.9"), "only='blocks.9': no node and no module has this name; similar names: blocks.1"),
        (dict(only="*.9.*"), "only='*.9.*' matches no module"),
        (dict(only="norm"), "only='norm': this BatchNorm is folded into 'head'"),
        (dict(only=[]), "only must be a name"),
        (dict(only=3), "only must be a name"),
        (dict(hide="reason"), "hide='reason' is neither a column (node, operation"),
        (dict(hide=["lineer"]), "similar names: linear"),
        (dict(hide=["node", "operation", "module", "shape", "rule", "why", "relevance"]), "no column"),
        (dict(width=40), "width=40 is too narrow for the columns node, operation"),
        (dict(width=0), "width must be"),
        (dict(width="80"), "width must be"),
        (dict(relevance="yes"), "relevance must be True, False or None"),
        (dict(fold="all"), "fold must be True, False or None"),
    ],
)
def test_wrong_arguments(small: fxlrp.Explainer, options: dict, said: str) -> None:
    with pytest.raises(InputError) as caught:
        small.table(**options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_node_that_is_part_of_fused_attention_is_not_called_unknown(small: fxlrp.Explainer) -> None:
    assert "blocks_0_softmax" not in column(small.table(), "node")
    with pytest.raises(InputError, match=r"an optimization has made this node a part of another one; with fxlrp.comp"):
        small.table(only="blocks_0_softmax")
    written_out = fxlrp.compile(Transformer(1).eval(), "attnlrp", optimize=False)
    assert column(written_out.table(only="blocks_0_softmax"), "operation") == ["softmax"]
