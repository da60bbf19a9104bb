"""Run tests with a changed file, in a forked process: torch is imported once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from mutation.mutants import Mutant


class _First:
    """Remembers the first test that fails."""

    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def killer(tree: Path, mutant: Mutant | None, tests: Sequence[str], seconds: float) -> str | None:
    """What notices a mutant: a test, an error while tests are collected, or the time; None if nothing does.

    Args:
        tree: The checkout. The file is changed in it, and changed back.
        mutant: The mutant; None for no change.
        tests: The tests to run.
        seconds: How long they may take.
    """
    path = tree / mutant.place.file if mutant else None
    if mutant and path:
        # A change within the second of the last one, of the same size, would be taken for no change.
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        path.write_text(mutant.after)
    try:
        return _run(tree, tests, seconds)
    finally:
        if mutant and path:
            path.write_text(mutant.before)


def _run(tree: Path, tests: Sequence[str], seconds: float) -> str | None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tests, args=(tree, tests, theirs))
    process.start()
    theirs.close()
    found: str | None = "time" if not ours.poll(seconds) else None
    if found is None:
        try:
            found = ours.recv()
        except EOFError:
            found = "end of the process"
    elif process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return found or None


def _tests(tree: Path, tests: Sequence[str], answer: Connection) -> None:
    os.setsid()
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    first = _First()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        status = pytest.main([*options, *tests], plugins=[first])
    answer.send("" if status == pytest.ExitCode.OK else first.failed or f"pytest ended with {status!r}")
    answer.close()
    os._exit(0)
