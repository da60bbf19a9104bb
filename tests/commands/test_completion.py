"""``fxlrp completion``: the scripts, and what bash completes with its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fxlrp.__main__ import main
from fxlrp.rules.presets import PRESETS

BASH = shutil.which("bash")


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("shtab", reason="pip install 'fxlrp[completion]'")
    main(["completion", shell])
    return capsys.readouterr().out


@pytest.fixture
def sourced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The script for bash, beside a file and a folder."""
    (tmp_path / "fxlrp.bash").write_text(script("bash", capsys))
    (tmp_path / "my rules.json").touch()
    (tmp_path / "my_folder").mkdir()
    return tmp_path / "fxlrp.bash"


def completed(sourced: Path, *words: str) -> set[str]:
    """What bash offers when TAB is pressed at the end of the last word."""
    assert BASH is not None
    ask = (
        'source "$1"; function=$(complete -p fxlrp | sed "s/.*-F \\([^ ]*\\) .*/\\1/"); shift; '
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "$function"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = [BASH, "--norc", "-c", ask, "bash", str(sourced), "fxlrp", *words]
    done = subprocess.run(command, cwd=sourced.parent, capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines())


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ex"], {"explain"}),
        (["explain", "--ta"], {"--target"}),
        (["explain", "--rules", "attn"], {"attnlrp"}),
        (["explain", "--rules", "my"], {"my rules.json", "my_folder"}),
        (["explain", "--out", "my"], {"my_folder"}),
        (["explain", "my"], {"my rules.json", "my_folder"}),
        (["check", "--capture", ""], {"auto", "symbolic", "export"}),
        (["completion", "z"], {"zsh"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bash_completes(words: list[str], expected: set[str], sourced: Path) -> None:
    assert completed(sourced, *words) == expected


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
def test_bash_completes_every_preset(sourced: Path) -> None:
    assert completed(sourced, "rules", "") >= set(PRESETS)


def test_the_script_for_zsh(capsys: pytest.CaptureFixture[str]) -> None:
    text = script("zsh", capsys)
    assert text.startswith("#compdef fxlrp") and ":PRESET|FILE:_fxlrp_rules" in text and ":FOLDER:_files -/" in text


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "bash"])
    assert "shtab is not installed: pip install 'fxlrp[completion]'" in capsys.readouterr().err
