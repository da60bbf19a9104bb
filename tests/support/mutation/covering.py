"""Which tests execute a line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from coverage import CoverageData

# Tests that take minutes are not tried: what they alone notice counts as not noticed.
QUICK = "not slow and not repeats"
SETTINGS = "[run]\nsource = {tree}\ninclude =\n    */passes/*\n    */fxlrp/relevance/*\ndata_file = {data}\n"


def measure(tree: Path, data: Path, tests: Sequence[str] = ("tests",)) -> None:
    """Run the quick tests of a checkout, and write which of them execute which lines.

    Args:
        tree: The checkout.
        data: The file that is written.
        tests: The folders of the tests, relative to the checkout.

    Raises:
        RuntimeError: The tests do not pass.
    """
    settings = data.with_suffix(".ini")
    settings.write_text(SETTINGS.format(tree=tree, data=data))
    coverage = ["-p", "pytest_cov", "--cov", f"--cov-config={settings}", "--cov-context=test", "--cov-report="]
    command = [sys.executable, "-m", "pytest", "-q", *coverage, "-m", QUICK, *tests, "--ignore=tests/project"]
    paths = os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": paths}, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the tests fail without a change, with status {done.returncode}")


class Covering:
    """The tests by the lines that they execute."""

    def __init__(self, data: Path, tree: Path) -> None:
        """Read what :func:`measure` wrote.

        Args:
            data: The file.
            tree: The checkout.
        """
        read = CoverageData(str(data))
        read.read()
        self._lines: dict[str, Mapping[int, list[str]]] = {}
        for path in read.measured_files():
            file = str(Path(path).relative_to(tree)).removeprefix("fxlrp/" * ("fxlrp/passes/" in path))
            self._lines[file] = read.contexts_by_lineno(path)

    def tests(self, file: str, line: int, *, files: int, each: int) -> list[str]:
        """Some of the tests that execute a line; of a line that is executed at import, some that execute the file.

        Args:
            file: The file.
            line: The line, from 1.
            files: From how many test files at most, those with the most such tests.
            each: How many tests of a file at most, evenly spaced.
        """
        lines = self._lines.get(file, {})
        found = _named(lines.get(line, ())) or _named([name for names in lines.values() for name in names])
        grouped: dict[str, list[str]] = defaultdict(list)
        for name in sorted(found):
            grouped[name.split("::")[0]].append(name)
        mirrored = Path(file).stem
        order = sorted(grouped, key=lambda path: (mirrored not in path, -len(grouped[path]), path))
        return [name for path in order[:files] for name in _spaced(grouped[path], each)]


def _named(contexts: Sequence[str]) -> set[str]:
    """The ids of tests: a context is the id and the phase; what is executed at import has an empty one."""
    return {context.rpartition("|")[0] for context in contexts if context}


def _spaced(names: list[str], count: int) -> list[str]:
    step = max(1, len(names) / count)
    return [names[int(index * step)] for index in range(min(count, len(names)))]
