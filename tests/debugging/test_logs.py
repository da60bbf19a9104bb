"""The logs of the passes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import fxlrp
from debugged_models import conv_bn
from fxlrp.debugging import logs
from helpers import ROOT


@pytest.fixture
def quiet() -> Iterator[None]:
    yield
    fxlrp.set_logs()
    assert not logging.getLogger("fxlrp").handlers


def test_the_log_of_the_passes(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = conv_bn()
    with caplog.at_level(logging.DEBUG, "fxlrp.passes"):
        stages = fxlrp.compile(model, debug=True).stages
    assert {record.name for record in caplog.records} == {"fxlrp.passes"}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(stages)
    for message, stage in zip(messages, stages, strict=True):
        if stage.count == 0:
            assert message == f"{stage.name}: nothing changed"
        else:
            assert message.startswith(f"{stage.name}: {stage.count}")
            assert message.endswith(stage.code) or message.endswith("the graph is unchanged")
    (folded,) = [message for message in messages if message.startswith("fold_batch_norm")]
    assert "folded_weight(" in folded


def test_the_logs_of_the_annotated_graph_and_of_the_program(caplog: pytest.LogCaptureFixture) -> None:
    model, x = conv_bn()
    with caplog.at_level(logging.DEBUG, "fxlrp.annotate"):
        explain = fxlrp.compile(model, example_inputs=x)
    (record,) = caplog.records
    assert record.name == "fxlrp.annotate" and str(explain) in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "fxlrp.emit"):
        explain = fxlrp.compile(model)
    (record,) = caplog.records
    assert record.name == "fxlrp.emit" and explain.code in record.getMessage()


def test_nothing_is_rendered_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("rendered")

    monkeypatch.setattr(logs, "graph_text", refuse)
    monkeypatch.setattr(logs, "program_text", refuse)
    monkeypatch.setattr("fxlrp.printing.table.render", refuse)
    fxlrp.compile(conv_bn()[0])
    fxlrp.set_logs(passes=True)
    with pytest.raises(AssertionError, match="rendered"):
        fxlrp.compile(conv_bn()[0])
    fxlrp.set_logs()


def test_set_logs_prints_to_stderr_until_it_is_switched_off(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, quiet: None
) -> None:
    model, _ = conv_bn()
    for _ in range(2):
        fxlrp.set_logs(emit=True)
        explain = fxlrp.compile(model)
        printed = capsys.readouterr()
        # Once, and not by the handlers of the root logger as well.
        assert printed.err == f"fxlrp.emit: the generated program\n{explain.code}\n" and printed.out == ""
        assert not caplog.records
    fxlrp.set_logs()
    fxlrp.compile(model)
    assert capsys.readouterr().err == "" and logging.getLogger("fxlrp").propagate


SCRIPT = "import torch, fxlrp; fxlrp.compile(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).eval())"


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_the_environment_switches_logs_on() -> None:
    done = python(SCRIPT, FXLRP_LOGS="passes, annotate")
    assert done.returncode == 0 and done.stdout == ""
    assert "fxlrp.passes: remove_identities: 1\n" in done.stderr and "fxlrp.passes: capture: " in done.stderr
    assert "fxlrp.annotate: the annotated graph\nnode " in done.stderr and "fxlrp.emit" not in done.stderr
    assert python(SCRIPT, FXLRP_LOGS="").stderr == python(SCRIPT).stderr == ""


@pytest.mark.slow
def test_an_unknown_log_is_an_error_at_import() -> None:
    done = python("import fxlrp", FXLRP_LOGS="passes,graphs")
    assert done.returncode != 0
    assert "FXLRP_LOGS contains the unknown log 'graphs'; the logs are: passes, annotate, emit" in done.stderr
