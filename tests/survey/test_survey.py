"""The survey and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fxlrp.__main__ import main
from fxlrp.survey import __main__ as survey
from fxlrp.survey import models, report
from fxlrp.survey.measure import Result, measure, prepare

PAGE = "# Page\n\n<!-- survey: begin -->\nold\n<!-- survey: end -->\n\nThe end.\n"


def test_the_lists_hold_every_model_once() -> None:
    names = models.names(["torchvision", "timm", "transformers"])
    assert len(names) == len(set(names))
    counts = {library: len(models.names([library])) for library in models.LIBRARIES}
    assert counts == {"torchvision": 97, "timm": 98, "transformers": 39, "others": 29}


@pytest.mark.parametrize(
    ("name", "front_end"),
    [
        ("torchvision:squeezenet1_1", "symbolic"),
        pytest.param("torchvision:vit_b_32", "symbolic", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_works(name: str, front_end: str) -> None:
    result = measure(name)
    assert result.works, result
    assert result.front_end == front_end and result.error is not None and 0 < result.error < 1e-8
    assert (result.softmax != 0) == ("vit" in name)


def test_a_model_that_does_not_work_says_why() -> None:
    result = measure("torchvision:no_such_model")
    assert not result.works and "no_such_model" in result.problem


def test_prepare_leaves_no_bias_and_calibrates_batch_norm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1), nn.LazyLinear(2))
    x = torch.randn(8, 3, 6, 6)
    model(x)
    model.eval()
    prepare(model, x.double())
    assert not any(value.any() for name, value in model.named_parameters() if name.endswith("bias"))
    squares = model[1](model[0](x.double())).square().mean((0, 2, 3))
    torch.testing.assert_close(squares, model.get_parameter("1.weight").square().detach(), rtol=1e-3, atol=0)


@pytest.mark.slow
def test_a_survey_writes_lines_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results" / "survey.jsonl"
    page.write_text(PAGE)
    known = Result("torchvision:alexnet", "symbolic", 0.5, 20, 1e-9)
    results.parent.mkdir()
    results.write_text(json.dumps(known.as_dict()) + "\n")
    arguments = ["torchvision:alexnet", "torchvision:squeezenet1_1", "torchvision:no_such_model"]
    survey.main([*arguments, "--keep", "--results", str(results), "--docs", str(page)])
    printed = capsys.readouterr().out
    assert "works torchvision:squeezenet1_1 symbolic" in printed and "alexnet" not in printed
    assert "FAILS torchvision:no_such_model" in printed and "torchvision: 2 of 3" in printed
    text = page.read_text()
    assert text.startswith("# Page") and text.endswith("The end.\n") and "old" not in text
    assert text.count("| alexnet") == 1 and "2 of 3" in text
    survey.main(["torchvision:alexnet", "--keep", "--results", str(results), "--docs", str(page)])
    assert page.read_text() == text


def test_problems_name_files_without_folders() -> None:
    result = Result("timm:some", problem="CaptureError: at /home/someone/models/net.py:3: if x:\nmore")
    assert report.line(result) == "FAILS timm:some  0.0 s  CaptureError: at net.py:3: if x:"


def test_check_prints_the_balance(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "torchvision:squeezenet1_1", "--conserving"])
    printed = capsys.readouterr().out
    assert "captured by symbolic" in printed and "no node leaks" in printed
    main(["check", "torchvision:squeezenet1_1", "--capture", "export", "--tolerance", "0"])
    printed = capsys.readouterr().out
    assert "captured by export" in printed and "conv2d" in printed and "created" in printed
