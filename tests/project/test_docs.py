"""Every code block of the documentation and the README runs, and prints what the page says it prints."""

from __future__ import annotations

import doctest
import importlib.util
import io
import pkgutil
import re
import unicodedata
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import fxlrp
from fxlrp.extras import import_torchvision
from helpers import ROOT, one_in

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# These compile, export and serve.
SLOW = ("language-model.md", "serve-explanations.md", "serving.md", "torch-compile.md", "transformers.md")
# These use packages that may be absent.
NEEDED = {"datasets.md": "zarr", "inseq.md": "inseq", "quantus.md": "quantus"}
# The other blocks of a page run without the block that imports one of these.
NEEDED_BY_A_BLOCK = ("ray", "transformers")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_there_are_pages_with_code() -> None:
    assert sum("```python" in page.read_text() for page in PAGES) >= 5


def marked(page: Path) -> Any:
    return pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in SLOW))


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page.name in NEEDED:
        pytest.importorskip(NEEDED[page.name], reason=f"{NEEDED[page.name]} is not installed")
    namespace: dict[str, object] = {"__name__": "page"}
    printed: str | None = ""
    for language, block in FENCE.findall(page.read_text()):
        needed = next((each for each in NEEDED_BY_A_BLOCK if f"import {each}\n" in block), None)
        if language == "python" and needed is not None:
            if importlib.util.find_spec(needed) is None:
                printed = None
                continue
            if needed == "transformers":
                import_torchvision()  # transformers imports it
        if language == "python":
            # Errors cite source lines, so the block is a file of its own.
            source = tmp_path / "block.py"
            source.write_text(block)
            out = io.StringIO()
            with redirect_stdout(out):
                exec(compile(block, str(source), "exec"), namespace)
            printed = out.getvalue()
        elif language == "text" and printed is not None:
            assert [line.rstrip() for line in printed.rstrip().splitlines()] == block.rstrip().splitlines()


# "(Bach et al., 2015)" or "Bach et al. (2015)", also across lines of a docstring or a comment.
CITATION = re.compile(r"(\w+)\s+et\s+al\.,?[\s#]+\(?(\d{4})")
ENTRY = re.compile(r"^\*\*(\w+) et al\., (\d{4})\.\*\*\n((?:.+\n)+)", re.MULTILINE)
Citation = tuple[str, str]


def plain(text: str) -> str:
    """The text without accents: docstrings write Andeol."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def citations(text: str) -> set[Citation]:
    return set(CITATION.findall(plain(text)))


def test_the_forms_of_a_citation_are_found() -> None:
    text = "(Bach et al., 2015), (Montavon et al.,\n    2017; Andéol et al., 2021), by Arras et al. (2019)"
    assert citations(text) == {("Bach", "2015"), ("Montavon", "2017"), ("Andeol", "2021"), ("Arras", "2019")}


def test_every_citation_is_in_the_bibliography() -> None:
    bibliography = ROOT / "docs" / "bibliography.md"
    entries = ENTRY.findall(plain(bibliography.read_text()))
    for name, year, reference in entries:
        assert re.match(rf"(\S+ )+?{name}, ", reference), f"{name} is not the first author of: {reference}"
        assert f"{year}." in reference
    known = [(name, year) for name, year, _ in entries]
    assert known == sorted(set(known))
    sources = [*(ROOT / "fxlrp").rglob("*.py"), *(ROOT / "passes").rglob("*.py"), *PAGES]
    cited = {source: citations(source.read_text()) for source in sources if source != bibliography}
    missing = {str(source.relative_to(ROOT)): found - set(known) for source, found in cited.items()}
    assert not {source: found for source, found in missing.items() if found}
    assert set(known) == set().union(*cited.values())


def modules() -> list[str]:
    found = pkgutil.walk_packages(fxlrp.__path__, "fxlrp.")
    return ["fxlrp", *(module.name for module in found if "demo" not in module.name)]


# These cannot be imported, or run their examples, without a package that may be absent.
PACKAGES = {"fxlrp.adapters.inseq": "inseq", "fxlrp.data.run": "zarr"}


@pytest.mark.parametrize("name", one_in(4, modules()))
def test_docstring_examples(name: str) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]} is not installed")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_docstrings_have_examples() -> None:
    finder = doctest.DocTestFinder()
    with_examples = sum(
        bool(test.examples)
        for name in modules()
        if name not in PACKAGES
        for test in finder.find(importlib.import_module(name))
    )
    assert with_examples >= 10
