"""``python -m fxlrp.survey``: try every model, and write the table of ``docs/supported-models.md``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fxlrp.command_line import Parser, at_least_one, non_negative
from fxlrp.survey import operator_report, report
from fxlrp.survey.measure import Result, measure
from fxlrp.survey.models import LIBRARIES, canonical, check_name, names


def main(arguments: list[str] | None = None) -> None:
    """Run the survey."""
    parser = Parser(prog="python -m fxlrp.survey", description=__doc__)
    add_arguments(parser)
    parser.run(arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the survey's arguments."""
    parser.add_argument(
        "models",
        nargs="*",
        help="torchvision:resnet18, hf:bert, timm, ... (default: all models), or operators for PyTorch's operators",
    )
    parser.add_argument("--workers", type=at_least_one, default=1, help="number of models that run at the same time")
    parser.add_argument("--timeout", type=non_negative, default=900, help="seconds per model")
    parser.add_argument("--results", type=Path, default=Path("build/survey.jsonl"), help="file of raw results")
    parser.add_argument("--keep", action="store_true", help="skip models that work according to earlier results")
    parser.add_argument("--docs", type=Path, help="page to write the table into")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Try the models, print a line for each model, and write the table."""
    if options.models == ["operators"]:
        _run_operators(options.docs)
        return
    if options.one:
        print(json.dumps(measure(options.one).as_dict()))
        return
    chosen = _wanted(options.models)
    if options.docs:
        report.check_page(options.docs)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    known = report.read(options.results) if options.keep else {}
    if not options.keep:
        options.results.unlink(missing_ok=True)
    wanted = [name for name in chosen if name not in known or not known[name].works]
    with ThreadPoolExecutor(options.workers) as pool, options.results.open("a") as file:
        for result in pool.map(lambda name: _in_a_process(name, options.timeout), wanted):
            file.write(json.dumps(result.as_dict()) + "\n")
            file.flush()
            print(report.line(result), flush=True)
    results = report.read(options.results)
    print(report.summary(results.values()))
    if options.docs:
        report.write(options.docs, results.values())


def _run_operators(page: Path | None) -> None:
    results = operator_report.survey()
    print(operator_report.summary(results))
    if page:
        operator_report.write(page, results)


def _wanted(chosen: list[str]) -> list[str]:
    chosen = chosen or list(LIBRARIES)
    for each in chosen:
        check_name(each)
    chosen = list(map(canonical, chosen))
    return [name for each in chosen for name in ([each] if ":" in each else names([each]))]


def _in_a_process(name: str, timeout: float) -> Result:
    """Run a model in its own process, so that it cannot affect the others."""
    command = [sys.executable, "-m", "fxlrp.survey", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Result(name, problem=f"took more than {timeout:g} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode < 0:
        return Result(name, problem=f"ended by signal {-done.returncode}: out of memory, most likely")
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return Result(name, problem=last[0])
    return Result(**json.loads(lines[-1]))


if __name__ == "__main__":
    main()
