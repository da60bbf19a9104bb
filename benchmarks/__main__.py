"""Measure what explanations cost, and write docs/benchmarks.md and docs/benchmarks-transformers.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import plot, report
from benchmarks.explainers import PRESETS, RECIPES
from benchmarks.plan import COMPILED_PRESETS, LENGTHS, MODELS, QUICK, Case, Plan, jobs
from benchmarks.results import Results
from benchmarks.settings import Settings

ROOT = Path(__file__).parent.parent


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    what = parser.add_argument_group("what is measured")
    what.add_argument("--models", nargs="*", metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    what.add_argument("--presets", nargs="+", choices=PRESETS, help="default: all of them")
    what.add_argument("--recipes", nargs="*", choices=RECIPES, help="ways to call torch.compile; none: eager only")
    what.add_argument(
        "--compile-presets",
        nargs="*",
        choices=PRESETS,
        help=f"those that go through torch.compile; default: {' '.join(COMPILED_PRESETS)}; all of the first model",
    )
    what.add_argument("--batch", type=int, help="default: 8, and 2 for the slowest models")
    what.add_argument("--size", type=int, help="of the images, in pixels; default: 224")
    what.add_argument("--scaling", action=argparse.BooleanOptionalAction, default=True, help="how cost grows, too")
    what.add_argument("--lengths", action=argparse.BooleanOptionalAction, default=True, help="transformers, too")
    what.add_argument("--quick", action="store_true", help="a tiny model and tiny images, to try the suite itself")
    how = parser.add_argument_group("how it is measured")
    how.add_argument("--repeats", type=int, default=None, help="rounds; default: 5")
    how.add_argument("--threads", type=int, default=1)
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    how.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32")
    how.add_argument("--channels-last", action="store_true")
    how.add_argument("--tf32", action="store_true")
    where = parser.add_argument_group("where the results go")
    where.add_argument("--results", type=Path, default=ROOT / "build" / "benchmarks", help="the folder of raw numbers")
    where.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder of the page and its picture")
    where.add_argument("--keep", action="store_true", help="add to the results that are there")
    where.add_argument("--report-only", action="store_true", help="measure nothing, write the page of what is there")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan with what the command line says otherwise."""
    plan = QUICK if options.quick else Plan()
    given = {
        "models": options.models,
        "presets": options.presets,
        "recipes": options.recipes,
        "compiled_presets": options.compile_presets,
    }
    chosen = {name: tuple(values) for name, values in given.items() if values is not None}
    return replace(
        plan,
        **chosen,
        batch=options.batch or plan.batch,
        size=options.size or plan.size,
        growth=plan.growth if options.scaling else None,
        lengths=plan.lengths if options.lengths else None,
    )


def run(name: str, cases: Sequence[Case], settings: Settings, folder: Path) -> None:
    """Measure cases in a process of their own; if it ends early, the cases that it left get that as a result."""
    output = folder / f"{name}.jsonl"
    before = _cases_in(output)
    job = json.dumps({"settings": asdict(settings), "cases": [asdict(case) for case in cases]})
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(settings.threads),
            "TORCHINDUCTOR_CACHE_DIR": cache,  # new, so that every compilation is one
            "KINETO_LOG_LEVEL": "9",  # the profiler has nothing to say
        }
        command = [sys.executable, "-m", "benchmarks.worker", job, str(output)]
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if status:
        done = _cases_in(output) - before
        died = {"died": f"its process ended with status {status}"}
        with output.open("a") as file:
            file.writelines(json.dumps({"case": asdict(case), **died}) + "\n" for case in cases[done:])


def _cases_in(output: Path) -> int:
    return sum('"case"' in line for line in output.read_text().splitlines()) if output.exists() else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the pages, and return 1 if a result of fxlrp is not right."""
    options = parse(arguments)
    plan = plan_of(options)
    settings = Settings(
        repeats=options.repeats or (1 if options.quick else 5),
        threads=options.threads,
        device=options.device,
        dtype=options.dtype,
        channels_last=options.channels_last,
        tf32=options.tf32,
    )
    results = options.results.absolute()
    results.mkdir(parents=True, exist_ok=True)
    if not options.report_only:
        if not options.keep:
            for file in results.glob("*.jsonl"):
                file.unlink()
        for name, cases in jobs(plan).items():
            run(name, cases, settings, results)

    found = Results.read(results, MODELS)
    options.docs.mkdir(parents=True, exist_ok=True)
    write_pages(found, options.docs)
    for line in found.wrong():
        print(line, file=sys.stderr)
    return 1 if found.wrong() else 0


def write_pages(results: Results, folder: Path) -> None:
    """Write the pages and pictures of what was measured; a page without results stays as it is."""
    networks, transformers = results.apart(LENGTHS)
    if networks.records:
        plot.draw(networks, folder / "benchmarks.png")
        (folder / "benchmarks.md").write_text(report.page(networks, "benchmarks.png"))
    if transformers.records:
        plot.draw_lengths(transformers, folder / "benchmarks-lengths.png")
        text = report.transformers_page(transformers, "benchmarks-lengths.png")
        (folder / "benchmarks-transformers.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
