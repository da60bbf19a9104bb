"""The pages: templates with the results as tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.checks import TOLERANCE, TOLERANCE_FLOAT64
from benchmarks.results import Record, Results

TEMPLATE = Path(__file__).with_name("template.md")
TRANSFORMERS = Path(__file__).with_name("template_transformers.md")
MARK = "<!-- results -->\n"


def page(results: Results, picture: str) -> str:
    """The page of networks for images, which shows the picture of this name."""
    sections = [
        _where(results),
        f"![The tables below as bars and curves]({picture})",
        _gradient(results),
        _time(results),
        _memory(results),
        _differences(results),
        _compiling(results),
        _failures(results),
        *(_growth(results, series) for series in ("batch", "size", "depth")),
    ]
    return _filled(TEMPLATE, sections)


def transformers_page(results: Results, picture: str) -> str:
    """The page of transformers, which shows the picture of this name."""
    return _filled(TRANSFORMERS, [_where(results), _lengths(results, picture), _capture(results), _failures(results)])


def _filled(template: Path, sections: Sequence[str]) -> str:
    return template.read_text().replace(MARK, "\n\n".join(section for section in sections if section) + "\n")


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    # Numbers come formatted: left to itself, tabulate would give 2e-07 as many decimals as the column's longest.
    return tabulate(rows, headers=header, tablefmt="github", disable_numparse=True, stralign="left")


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f}" if seconds >= 0.01 else f"{seconds * 1000:.2f}"


def _cell(record: Record, contestant: str, text: str) -> str:
    """The text of a number, marked where it is that of another result; or that the contestant did not run."""
    if contestant in record.failures():
        return "no rule" if record.entry(contestant).get("not_offered") else "fails"
    return f"{text} †" if text and record.is_another_result(contestant) else text


def _where(results: Results) -> str:
    return "## Where it ran\n\n" + _table(("", ""), list(results.where.items()))


def _gradient(results: Results) -> str:
    records, names = results.of("gradient"), results.contestants("gradient")
    if not records:
        return ""
    header = ("model", "batch", "eager (ms)", "peak memory (MB)", *names, *(f"{name}: compile (s)" for name in names))
    rows = []
    for record in records:
        case, peak = record.case, record.entry("gradient").get("peak")
        size = "" if peak is None else f"{peak / 1e6:.0f}" if peak >= 1e7 else f"{peak / 1e6:.2f}"
        ratios = [_cell(record, name, _number(record.time(name))) for name in names]
        compiling = [_number(record.entry(name).get("first_call"), 0) for name in names]
        rows.append((case.model, case.batch, _milliseconds(record.seconds()), size, *ratios, *compiling))
    text = "The unit of all other tables: the eager gradient of the largest logit of each image."
    return f"## The plain gradient\n\n{text}\n\n{_table(header, rows)}"


def _by_preset(results: Results, cell: Callable[[Record, str], str], first: str = "", value: str = "") -> str:
    """A row for each model and preset, a column for each contestant."""
    names = results.contestants("presets")
    rows = []
    for record in results.of("presets"):
        extra = [_exponent(record.fields.get(value))] if value else []
        rows.append((record.case.model, record.case.preset, *extra, *(cell(record, name) for name in names)))
    return _table(("model", "preset", *([first] if first else []), *names), rows)


def _time(results: Results) -> str:
    if not results.of("presets"):
        return ""
    table = _by_preset(results, lambda record, name: _cell(record, name, _number(record.time(name))))
    spreads = [
        (max(ratios) - min(ratios)) / statistics.median(ratios)
        for record in results.of("presets")
        for name in record.case.contestants
        if name != "gradient" and (ratios := record.ratios(name))
    ]
    text = (
        "Multiples of the time of the eager gradient. "
        f"Between the slowest and the fastest round, a typical ratio varied by {statistics.median(spreads):.0%}."
        if spreads
        else "Multiples of the time of the eager gradient."
    )
    legend = (
        "*fails*, *no rule*: see [what did not run](#what-did-not-run). Empty: not measured. "
        "†: computes a different result, see [the same relevance?](#the-same-relevance)"
    )
    return f"## Time\n\n{text}\n\n{table}\n\n{legend}"


def _memory(results: Results) -> str:
    if not results.of("presets"):
        return ""
    table = _by_preset(results, lambda record, name: _cell(record, name, _number(record.memory(name))))
    text = "The peak memory of a call, in addition to model and images, in multiples of the eager gradient."
    return f"## Memory\n\n{text}\n\n{table}"


def _exponent(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def _differences(results: Results) -> str:
    if not results.of("presets"):
        return ""

    def cell(record: Record, name: str) -> str:
        text = _exponent(record.entry(name).get("difference"))
        wrong = any(f": {name} differs" in line for line in record.wrong())
        return f"**{text}**" if wrong else text

    table = _by_preset(results, cell, "rounding", "rounding")
    exact = [record.fields["float64"] for record in results.records if record.fields.get("float64") is not None]
    worst = f" The largest difference caused by optimizations in float64 is {_exponent(max(exact))}." if exact else ""
    text = (
        "The largest difference of each result from that of fxlrp with `optimize=False`, relative to the largest "
        "value. *rounding* is the difference of the unoptimized program itself when the images change in the sixth "
        "decimal. It shows how much a denominator near zero, or two pixels that compete for a maximum, amplify a "
        "rounding error. "
        f"A float32 result of fxlrp may differ by {TOLERANCE:.0e}, or by ten times *rounding* if that is more. "
        f"In float64, which is checked for one image of each case, it may differ by {TOLERANCE_FLOAT64:.0e}.{worst}"
    )
    return f"## The same relevance?\n\n{text}\n\n{table}\n\n{_verdict(results)}"


def _verdict(results: Results) -> str:
    wrong = results.wrong()
    if not wrong:
        return "Every timed result of fxlrp passes."
    return "**These do not pass:**\n\n" + "\n".join(f"- {line}" for line in wrong)


def _compiling(results: Results) -> str:
    names = [name for name in results.contestants("presets") if name.startswith("fxlrp ")]
    rows = []
    for record in results.of("presets"):
        times = record.fields.get("compile_seconds")
        if times:
            first = [_number(record.entry(name).get("first_call"), 0) for name in names]
            case = record.case
            rows.append((case.model, case.preset, _number(statistics.median(times)), _number(max(times)), *first))
    if not rows:
        return ""
    header = ("model", "preset", "fxlrp.compile", "slowest", *(f"torch.compile, {name}" for name in names))
    text = (
        "Seconds for `fxlrp.compile` (the median and the slowest run), and for the first call of the explainer under "
        "`torch.compile`, with the compiler already started and nothing cached."
    )
    return f"## Compile time\n\n{text}\n\n{_table(header, rows)}"


def _failures(results: Results) -> str:
    presets: dict[tuple[str, str, str], list[str]] = {}
    for record in results.records:
        for name, reason in record.failures().items():
            presets.setdefault((name, record.case.model, reason), []).append(record.case.preset or "gradient")
    models: dict[tuple[str, str, str], list[str]] = {}
    for (name, model, reason), where in presets.items():
        models.setdefault((name, ", ".join(dict.fromkeys(where)), reason), []).append(model)
    if not models:
        return "## What did not run\n\nEverything ran."
    rows = [(name, ", ".join(dict.fromkeys(run)), where, reason) for (name, where, reason), run in models.items()]
    return "## What did not run\n\n" + _table(("contestant", "models", "presets", "reason"), sorted(rows))


def _growth(results: Results, series: str) -> str:
    records, names = results.of(series), results.contestants(series)
    if not records:
        return ""
    titles = {"batch": "How cost grows with the batch", "size": "with the size of the images", "depth": "with depth"}
    columns: list[str] = []
    for name in names:
        columns += [name, f"{name}: memory"]
    rows = []
    for record in records:
        case = record.case
        value = {"batch": case.batch, "size": case.size, "depth": case.model}[series]
        cells = []
        for name in names:
            cells += [_cell(record, name, _number(kind(name))) for kind in (record.time, record.memory)]
        rows.append((value, _milliseconds(record.seconds()), *cells))
    case = records[0].case
    fixed = {
        "batch": f"{case.model}, {case.size} pixels",
        "size": f"{case.model}, batch {case.batch}",
        "depth": f"batch {case.batch}, {case.size} pixels",
    }[series]
    title = titles[series] if series == "batch" else f"How cost grows {titles[series]}"
    text = f"{case.preset}, {fixed}; time and memory in multiples of the eager gradient."
    header = ({"batch": "batch", "size": "pixels", "depth": "model"}[series], "gradient (ms)", *columns)
    return f"## {title}\n\n{text}\n\n{_table(header, rows)}"


def _lengths(results: Results, picture: str) -> str:
    records, names = results.of("length"), results.contestants("length")
    if not records:
        return ""
    columns = [column for name in names for column in (name, f"{name}: memory")]
    rows = []
    for record in records:
        case, peak = record.case, record.entry("gradient").get("peak")
        cells = [_cell(record, name, _number(kind(name))) for name in names for kind in (record.time, record.memory)]
        size = f"{case.size} {case.unit}" + (f", batch {case.batch}" if case.batch > 1 else "")
        unit = (_milliseconds(record.seconds()), "" if peak is None else f"{peak / 1e6:.0f}")
        difference = _exponent(record.entry("fxlrp").get("difference"))
        rows.append((case.model, case.preset, size, *unit, *cells, difference))
    header = ("model", "preset", "input", "gradient (ms)", "(MB)", *columns, "difference")
    text = (
        "Time and memory in multiples of the plain gradient with fused attention, of the largest logit: of a language "
        "model at the last position. The gradient starts at the embeddings or the image. *difference* is that of fxlrp "
        "from `detached`, relative to the largest value, in the arithmetic of the run."
    )
    picture_line = f"![Time and memory over the number of tokens]({picture})"
    return f"## Time and memory\n\n{text}\n\n{picture_line}\n\n{_table(header, rows)}"


def _capture(results: Results) -> str:
    records = [record for record in results.of("capture") if record.fields.get("capture_seconds")]
    if not records:
        return ""
    names = list(records[0].fields["capture_seconds"])
    rows = []
    for record in records:
        times = {name: statistics.median(record.fields["capture_seconds"][name]) for name in names}
        rows.append((record.case.model, *(_number(times[name]) for name in names)))
    text = (
        'Seconds of `torch.export.export` with an open batch and length, of `fxlrp.compile(capture="export")`, and of '
        "`fxlrp.compile` with the front end that it chooses."
    )
    return f"## How long they take to compile\n\n{text}\n\n{_table(('model', *names), rows)}"
