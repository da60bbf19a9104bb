"""Every call on the page of the command line is one, and those that need no network run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from command_models import enter
from fxlrp.__main__ import main, parser
from helpers import ROOT

PAGE = (ROOT / "docs" / "command-line.md").read_text()
CALLS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
HELP = [line.strip() for path in (ROOT / "fxlrp" / "commands").glob("*.py") for line in path.read_text().splitlines()]
EXAMPLES = [re.sub(r"^['\"](.*)['\"],$", r"\1", line) for line in HELP if re.match(r"['\"]fxlrp \w+.*,$", line)]
# The other calls download weights, or take minutes.
RUN = [call for call in CALLS if "mymodels:" in call or "torchvision:resnet18 --only" in call or "fxlrp rules" in call]


def test_there_are_calls() -> None:
    assert len(CALLS) > 12 and len(EXAMPLES) > 12 and len(RUN) > 6


@pytest.mark.parametrize("call", [*CALLS, *EXAMPLES])
def test_a_call_is_one(call: str) -> None:
    command, *arguments = shlex.split(call.partition(" > ")[0])
    assert command == "fxlrp" and callable(parser().parse_args(arguments).run)


@pytest.mark.parametrize("call", RUN)
def test_a_call_runs(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = enter(tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, "mymodels", raising=False)
    (source,) = re.findall(r"```python\n(# mymodels.py\n.*?)```", PAGE, re.DOTALL)
    (folder / "mymodels.py").write_text(source)
    (folder / "reviews.txt").write_text("dull\n")
    (folder / "digits").mkdir()
    for name in ("3.png", "8.png"):
        (folder / "digits" / name).write_bytes((folder / "images" / "cat.png").read_bytes())
    main(shlex.split(call)[1:])
    printed = capsys.readouterr()
    assert printed.out and not printed.err
    if "explain" in call:
        assert re.search(r"^(\d) of \1 explained", printed.out, re.MULTILINE)
