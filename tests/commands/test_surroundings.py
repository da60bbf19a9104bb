"""Names, texts, folders, pipes and signals that a command meets."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_models import MODULE, enter
from fxlrp.__main__ import main
from fxlrp.command_line import in_short
from fxlrp.commands.image_run import picture_names

PLAIN = ["--model", f"{MODULE}:plain", "--no-balance"]
WORDS = ["--model", f"{MODULE}:words", "--no-balance"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch)


def process(folder: Path, *arguments: str, shell: str = "{}", **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    call = shell.format(" ".join([sys.executable, "-m", "fxlrp", *arguments]))
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(["sh", "-c", call], capture_output=True, text=True, cwd=folder, env=environment)


def test_pictures_inside_of_the_folder_of_images_are_not_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", "images", *PLAIN, "--out", "images/out"])
    capsys.readouterr()
    main(["explain", "images", *PLAIN, "--out", "images/out"])
    printed = capsys.readouterr().out
    assert "3 images in images/out are left out, because it is --out" in printed and "3 of 3 explained" in printed


def test_a_long_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is longer than the name of a file may be."""
    text = "a fine film " * 100
    main(["explain", text, *WORDS])
    table = capsys.readouterr().out.partition("at the input\n---")[2]
    assert table and max(map(len, table.splitlines())) < 140
    with Path("explanations/summary.csv").open() as file:
        assert [row["input"] for row in csv.DictReader(file)] == [text]


def test_long_names_in_short() -> None:
    assert in_short("a" * 80) == "a" * 80
    assert in_short("a" * 50 + "b" * 50) == "a" * 40 + "…" + "b" * 39


def test_a_text_of_which_a_function_makes_no_tensors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["explain", "a film", "--model", f"{MODULE}:lists"])
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 1 and "must return (tokens, inputs): a list of strings, and a tensor" in line


def test_a_file_with_the_mark_of_an_editor(folder: Path) -> None:
    Path("names.txt").write_bytes("zéro\neins\nzwei\n".encode("utf-8-sig"))
    digits = ["--model", f"{MODULE}:digits", "--no-balance", "--classes", "names.txt"]
    main(["explain", "images/cat.png", *digits, "--target", "zéro"])
    with Path("explanations/summary.csv").open(encoding="utf-8") as file:
        assert [(row["index"], row["class"]) for row in csv.DictReader(file)] == [("0", "zéro")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="names of files are bytes elsewhere")
def test_names_that_are_not_text_and_an_output_in_ascii(folder: Path) -> None:
    names = [os.fsdecode(b"images/k\xe4tzchen.png"), "images/cat \u732b.png"]
    for name in names:
        Path(name).write_bytes(Path("images/cat.png").read_bytes())
    done = process(folder, "explain", "images", *PLAIN, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "") and "5 of 5 explained" in done.stdout
    with Path("explanations/summary.csv").open(encoding="utf-8", errors="surrogateescape") as file:
        assert set(names) < {row["input"] for row in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the shell of Unix")
def test_outputs_that_are_closed(folder: Path) -> None:
    graph = ("graph", f"{MODULE}:plain")
    assert process(folder, *graph, shell="{} >&-").returncode == 0
    assert process(folder, *graph, shell="{} | true").stderr == ""
    full = process(folder, *graph, shell="{} >/dev/full")
    assert full.returncode == 2 and len(full.stderr.splitlines()) == 1
    assert process(folder, "explain", "images/cat.png", *PLAIN, shell="{} 2>&-").returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_an_interrupt_is_one_line(folder: Path) -> None:
    Path("slow.py").write_text("import time\n\n\ndef model():\n    print('ready', flush=True)\n    time.sleep(60)\n")
    call = [sys.executable, "-m", "fxlrp", "explain", "images", "--model", "slow:model"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def heed_interrupts() -> None:
        """Shells have processes in the background ignore interrupts, and those they start, too."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(call, **pipes, cwd=folder, env=environment, preexec_fn=heed_interrupts) as started:
        assert started.stdout is not None and started.stdout.readline() == "ready\n"
        started.send_signal(signal.SIGINT)
        _, error = started.communicate(timeout=60)
    assert (started.returncode, error) == (130, "fxlrp: interrupted\n")


def test_pictures_of_images_with_the_same_name_have_their_own_names() -> None:
    paths = [Path("x_5.png"), *(Path(letter) / "b" / "x.png" for letter in "acdefg")]
    names = picture_names(paths)
    assert names[paths[0]] == "x_5.png" and names[paths[1]] == "x.png" and names[paths[2]] == "b_x.png"
    assert len(set(names.values())) == len(paths)
