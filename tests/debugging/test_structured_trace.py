"""The compiler in PyTorch's structured trace."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxlrp
from fxlrp.debugging import structured_trace
from helpers import ROOT

TRACE = logging.getLogger("torch.__trace")


class Records(logging.Handler):
    """What is written to the trace, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.artifacts: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []

    def emit(self, record: Any) -> None:
        if "artifact" in record.metadata:
            assert record.metadata["artifact"]["name"] not in self.artifacts, "names are unique"
            self.artifacts[record.metadata["artifact"]["name"]] = record.payload
        if "chromium_event" in record.metadata:
            self.events.append(json.loads(record.payload))

    def stages(self) -> list[str]:
        return [re.sub(r"^fxlrp_\d+_\d\d_", "", name) for name in self.artifacts]


@pytest.fixture
def records() -> Iterator[Records]:
    handler, before = Records(), TRACE.level
    TRACE.addHandler(handler)
    TRACE.setLevel(logging.DEBUG)
    yield handler
    TRACE.removeHandler(handler)
    TRACE.setLevel(before)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(1), nn.Linear(288, 5)).eval()


def test_every_graph_that_a_pass_changes_is_an_artifact(records: Records) -> None:
    """The stages of debug=True, which another part of the package records, are the same graphs."""
    explain = fxlrp.compile(net(), debug=True)
    changed = [stage for index, stage in enumerate(explain.stages) if explain.stages.diff(index)]
    graphs = {name: text for name, text in records.artifacts.items() if not name.endswith("_rules")}
    assert [name for name in records.stages() if name != "annotate_rules"] == [stage.name for stage in changed]
    for text, stage in zip(graphs.values(), changed, strict=True):
        header, _, code = text.partition("\n")
        assert code == stage.code
        assert header == f"# Sequential after {stage.name} ({stage.count})"
    (rules,) = (text for name, text in records.artifacts.items() if name.endswith("_rules"))
    assert "ZPlus()" in rules


def test_every_pass_has_a_duration_inside_that_of_the_compilation(records: Records) -> None:
    explain = fxlrp.compile(net(), debug=True)
    names = [event["name"].removeprefix("fxlrp.") for event in records.events]
    assert names == [*(stage.name for stage in explain.stages), "generate_code", "compile"]
    whole = records.events[-1]
    for event in records.events:
        assert event["ph"] == "X" and event["dur"] >= 0
        assert whole["ts"] <= event["ts"] and event["ts"] + event["dur"] <= whole["ts"] + whole["dur"] + 1
    passes = sum(event["dur"] for event in records.events[:-1])
    assert passes <= whole["dur"] + len(names)


def test_another_question_is_traced_with_another_number(records: Records) -> None:
    explain = fxlrp.compile(net())
    of_compile = len(records.artifacts)
    explain(torch.rand(2, 3, 8, 8), target=1, at="0")
    explain(torch.rand(2, 3, 8, 8), target=2, at="0")
    more = list(records.artifacts)[of_compile:]
    assert any("emit_relevance" in name for name in more)
    assert len({name.split("_")[1] for name in more}) == 1, "the program is made once"
    assert [event["name"] for event in records.events].count("fxlrp.answer") == 1


def test_a_compilation_that_fails_is_traced_up_to_its_error(records: Records) -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(fxlrp.errors.UnsupportedOpError):
        fxlrp.compile(Unknown().eval(), capture="symbolic")
    assert [event["name"] for event in records.events][-2:] == ["fxlrp.annotate", "fxlrp.compile"]
    assert "annotate" not in records.stages()


def test_nothing_is_rendered_while_nobody_reads_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> str:
        raise AssertionError("a graph is rendered")

    monkeypatch.setattr(structured_trace, "graph_text", fail)
    monkeypatch.setattr("fxlrp.printing.table.render", fail)
    monkeypatch.setattr(TRACE, "handlers", [])
    fxlrp.compile(net())


PROGRAM = """
import torch, fxlrp, sys
fxlrp.compile(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval())(torch.rand(2, 4))
assert "torch._dynamo" not in sys.modules
"""


def test_the_environment_variable_of_pytorch_writes_the_file_that_tlparse_reads(tmp_path: Path) -> None:
    environment = {**os.environ, "TORCH_TRACE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=120)
    (log,) = tmp_path.glob("*.log")
    lines = [json.loads(line.partition("] ")[2]) for line in log.read_text().splitlines() if not line.startswith("\t")]
    artifacts = [line for line in lines if line.get("artifact", {}).get("name", "").startswith("fxlrp_0_")]
    assert artifacts and all("stack" not in line and line["has_payload"] for line in artifacts)
