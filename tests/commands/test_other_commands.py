"""``fxlrp graph``, ``rules``, ``check`` and ``--help``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from command_models import MODULE, enter
from fxlrp.__main__ import main
from fxlrp.rules.presets import PRESETS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    found = capsys.readouterr()
    assert found.err == ""
    return found.out


def operations(text: str) -> list[str]:
    header, _, *lines = text.splitlines()
    start = header.index("operation")
    return [line[start:].split("  ")[0] for line in lines[: lines.index("")]]


def test_graph_of_ones_own_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "graph", f"{MODULE}:plain", "--rules", "epsilon")
    assert operations(text) == ["input", "conv2d", "relu", "adaptive_avg_pool2d", "flatten", "linear"]
    assert "1x4x55x55" in text  # (224 - 7) / 4 + 1
    short = printed(capsys, "graph", f"{MODULE}:plain", "--only", "4", "--hide", "why", "shape", "--width", "80")
    assert operations(short) == ["linear"] and max(map(len, short.splitlines())) <= 80
    whole = printed(capsys, "graph", f"{MODULE}:plain", "--all")
    assert operations(whole).count("parameter") == 2


def test_graph_with_an_example(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "graph", f"{MODULE}:digits", "--input", "images/cat.png", "--relevance")
    assert "1x1x8x8" in text and operations(text)[-1] == "linear"
    text = printed(capsys, "graph", f"{MODULE}:words", "--input", "a fine film")
    assert "1x3" in text and "embedding" in operations(text)
    assert "embedding" in operations(printed(capsys, "graph", f"{MODULE}:words"))


def test_graph_as_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["graph", f"{MODULE}:plain", "--html"]
    # With the output.
    assert printed(capsys, *call, "plain.html").startswith("plain.html: 7 nodes")
    printed(capsys, *call, "with.html", "--input", "images/cat.png")
    plain, with_relevance = (Path(name).read_text() for name in ("plain.html", "with.html"))
    assert "<html" in plain and plain != with_relevance


def test_graph_of_a_library(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "graph", "torchvision:squeezenet1_1", "--rules", "epsilon_plus")
    assert operations(text).count("conv2d") == 26


def test_graph_of_a_family_of_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    main(["graph", "hf:bert", "--rules", "attnlrp", "--relevance"])
    assert "attention" in capsys.readouterr().out


def test_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "rules").splitlines()[2:]
    assert [line.partition("(")[0] for line in lines] == list(PRESETS)
    assert any(line.startswith("epsilon_gamma_box(low, high, gamma=0.25, epsilon=1e-06)") for line in lines)
    assert not any(":func:" in line or "`" in line for line in lines)


@pytest.mark.parametrize("name", PRESETS)
def test_the_rules_of_a_preset(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    box = ["--parameters", "low=-1", "high=2"] if name == "epsilon_gamma_box" else []
    text = printed(capsys, "rules", name, *box)
    preset = PRESETS[name](-1.0, 2.0) if box else PRESETS[name]()
    assert text.startswith(f"{name}(")
    for pair in preset.pairs:
        assert str(pair.rule) in text


def test_a_preset_that_needs_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "rules", "epsilon_gamma_box")
    assert "Other convolutions: Gamma." in text and "need low and high: --parameters low=NUMBER high=NUMBER" in text


def test_rules_in_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "rules", "rules.json")
    assert "Epsilon(epsilon=0.5)" in text


def test_hf_is_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    text = printed(capsys, "check", "hf:bert", "--tolerance", "1e9")
    assert text.startswith("hf:bert, epsilon, captured by")


@pytest.mark.parametrize("command", ["", "explain", "graph", "rules", "check", "survey"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*filter(None, [command]), "--help"])
    text = capsys.readouterr().out
    assert not caught.value.code
    assert not command or f"examples:\n  fxlrp {command}" in text


def test_help_imports_nothing_that_takes_long() -> None:
    heavy = ("matplotlib", "PIL", "torchvision", "timm", "transformers", "torch._dynamo", "onnx", "sklearn")
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "from fxlrp.__main__ import main\n"
        "try: main(['explain', '--help'])\nexcept SystemExit: pass\n"
        f"print([each for each in {heavy} if each in sys.modules and each not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
