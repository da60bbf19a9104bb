"""The command line: a wrong call is one line on stderr and exit status 2, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fxlrp.__main__ import main
from fxlrp.demo import __main__ as demo
from fxlrp.survey import __main__ as survey
from fxlrp.survey import models
from fxlrp.survey.case import Case

MODEL = "torchvision:squeezenet1_1"


def refused(run: Callable[[list[str]], object], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2 and printed.out == ""
    (line,) = printed.err.splitlines()
    assert ": error: " in line
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["explain"], "IMAGE|FOLDER|TEXT"),
        (["check"], "MODEL"),
        (["check", "resnet18"], "unknown model 'resnet18': models are named LIBRARY:MODEL"),
        (["check", ""], "unknown model ''"),
        (["check", "keras:vgg"], "torchvision, timm, transformers"),
        (["check", "torchvision:"], "torchvision cannot make the model ''"),
        (["check", "torchvision:no_such_model"], "torchvision cannot make the model 'no_such_model'"),
        (["check", MODEL, "more"], "more"),
        (["check", MODEL, "--rules", "epsilom"], "epsilon_plus"),
        (["check", MODEL, "--rules", "epsilon_gamma_box"], "needs low and high: --parameters low=NUMBER high=NUMBER"),
        (["check", MODEL, "--rules", "epsilon_gamma_box", "--parameters", "low=-1"], "needs high"),
        (["check", MODEL, "--rules", "epsilon_gamma_box", "--parameters", "low=1", "high=-1"], "low=1.0 exceeds"),
        (["check", MODEL, "--parameters", "epsilon=tiny"], "'epsilon=tiny' is not NAME=NUMBER"),
        (["check", MODEL, "--parameters", "epsilon"], "'epsilon' is not NAME=NUMBER"),
        (["check", MODEL, "--parameters", "=1"], "'=1' is not NAME=NUMBER"),
        (["check", MODEL, "--parameters", "gamma=1"], "gamma"),
        (["check", MODEL, "--parameters", "epsilon=-1"], "epsilon must be"),
        (["check", MODEL, "--rules", "default", "--conserving"], "--conserving needs a preset with an epsilon"),
        (["check", MODEL, "--capture", "onnx"], "onnx"),
        (["check", MODEL, "--tolerance", "small"], "'small' is not a finite number of at least 0"),
        (["check", MODEL, "--tolerance", "nan"], "'nan' is not a finite number"),
        (["check", MODEL, "--tolerance", "-1"], "'-1' is not a finite number"),
        (["survey", "keras"], "unknown model 'keras'"),
        (["survey", "keras:vgg"], "unknown model 'keras:vgg'"),
        (["survey", "--workers", "0"], "'0' is not a whole number of at least 1"),
        (["survey", "--workers", "many"], "'many' is not a whole number"),
        (["survey", "--timeout", "inf"], "'inf' is not a finite number"),
        (["survey", "--docs", "no/such/page.md"], "page.md"),
    ],
    ids=" ".join,
)
def test_a_wrong_call(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(main, arguments, capsys)


def test_wrong_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.md").write_text("no markers")
    (tmp_path / "results.jsonl").write_text("no results\n")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    keep = [MODEL, "--keep", "--results"]
    assert "markers" in refused(survey.main, [MODEL, "--docs", str(tmp_path / "page.md")], capsys)
    assert "results of the survey" in refused(survey.main, [*keep, str(tmp_path / "results.jsonl")], capsys)
    assert "results of the survey" in refused(survey.main, [*keep, str(tmp_path / "other.jsonl")], capsys)
    assert str(tmp_path) in refused(survey.main, [*keep, str(tmp_path)], capsys)
    assert "file" in refused(survey.main, [*keep, str(tmp_path / "page.md" / "results.jsonl")], capsys)
    assert (tmp_path / "results.jsonl").read_text() == "no results\n"


@pytest.mark.parametrize("arguments", [["timm:no_such_model"], ["transformers:no_such_model"]], ids=" ".join)
def test_a_model_that_a_library_lacks(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(arguments[0].partition(":")[0])
    assert "'no_such_model'" in refused(main, ["check", *arguments], capsys)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install 'fxlrp[survey]'" in refused(main, ["check", "timm:vgg11"], capsys)


def test_a_model_that_cannot_be_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Exponential(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.matrix_exp(x).flatten(1)

    case = Case(Exponential().eval(), torch.rand(2, 3, 3))
    monkeypatch.setitem(models.LIBRARIES, "own", (list, lambda name: case))
    with pytest.raises(SystemExit) as caught:
        main(["check", "own:exponential"])
    assert caught.value.code == 2
    assert "matrix_exp" in capsys.readouterr().err


def test_the_box_of_the_first_layer(capsys: pytest.CaptureFixture[str]) -> None:
    box = ["--parameters", "low=-3,-2.5,-3", "high=3", "gamma=0.1"]
    main(["check", MODEL, "--rules", "epsilon_gamma_box", *box, "--tolerance", "1e9"])
    assert "epsilon_gamma_box, captured by symbolic" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--output", "no/such/folder.png"], "folder"), (["--output", "digits.xyz"], ".png")]
)
def test_a_picture_that_the_demo_cannot_write(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(arguments)
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_as_a_process() -> None:
    done = subprocess.run([sys.executable, "-m", "fxlrp", "check", "resnet18"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("fxlrp: error: unknown model 'resnet18'") and len(done.stderr.splitlines()) == 1
