"""The distribution: what the wheel holds, and that it works beside its dependencies alone."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fxlrp
from fxlrp.extras import require
from fxlrp.version import __version__
from helpers import ROOT

MODULES = {
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "fxlrp").rglob("*.py") if "passes" not in path.parts),
    *(f"fxlrp/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "passes").rglob("*.py")),
}


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that knows nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(source: Path, target: Path) -> Path:
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target)]
    run(sys.executable, "-m", "pip", "wheel", *options, str(source), cwd=target.parent)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in: building writes into the source tree, and two workers may build at once."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("fxlrp", "passes"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(checkout, tmp_path_factory.mktemp("wheel"))


def runtime_distributions(wheel: Path) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that the wheel asks for without any extra, and what those ask for."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    waiting = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    found: dict[str, importlib.metadata.Distribution] = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
        ):
            continue
        if name not in found:
            found[name] = importlib.metadata.distribution(requirement.name)
            waiting += [Requirement(line) for line in found[name].requires or []]
    return found


@pytest.fixture(scope="module")
def empty_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment with the wheel and its dependencies, and nothing else."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    for distribution in runtime_distributions(wheel).values():
        for entry in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            installed = Path(str(distribution.locate_file(entry)))
            if not entry.endswith(".pth") and not (site / entry).exists():
                (site / entry).symlink_to(installed)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return python


def test_wheel_holds_every_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if name.endswith(".py")} == MODULES
    assert len(names) == len(set(names))
    assert "fxlrp/passes/__init__.py" in names
    assert "fxlrp/py.typed" in names
    assert any(re.fullmatch(r"fxlrp-[^/]+\.dist-info/licenses/LICENSE", name) for name in names)


def test_source_distribution_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    source = tmp_path / "checkout"
    shutil.copytree(checkout, source, symlinks=True)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", build, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "wheel").mkdir()
    with zipfile.ZipFile(build_wheel(unpacked, tmp_path / "wheel")) as again, zipfile.ZipFile(wheel) as first:
        assert sorted(again.namelist()) == sorted(first.namelist())


def test_runtime_dependencies_are_torch_and_tabulate(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    assert {item.name for item in requirements if item.marker is None} == {"torch", "tabulate"}
    extras = {"vision", "text", "operators", "survey", "demo", "show", "onnx", "docs", "test", "dev"}
    extras |= {"captum", "completion", "data", "quantus", "inseq", "ray", "serve"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "BSD-3-Clause AND MIT AND EPL-1.0"
    # The texts of all three are in the wheel.
    files = metadata.get_all("License-File", [])
    texts = " ".join((ROOT / name).read_text() for name in files)
    for title in ("BSD 3-Clause License", "Permission is hereby granted, free of charge", "Public License - v 1.0"):
        assert title in texts
    with zipfile.ZipFile(wheel) as archive:
        assert all(name.replace("METADATA", f"licenses/{each}") in archive.namelist() for each in files)


def test_one_version_everywhere(wheel: Path) -> None:
    assert wheel.name.startswith(f"fxlrp-{__version__}-")
    assert not re.search(r"^version = \"", (ROOT / "pyproject.toml").read_text(), re.M)
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M) == [__version__]
    assert runpy.run_path(str(ROOT / "docs" / "conf.py"))["release"] == __version__


IN_THE_EMPTY_ENVIRONMENT = """
import importlib.util, pathlib, sys
import torch
from torch import nn

before = set(sys.modules)
import fxlrp, fxlrp.passes

home = pathlib.Path(sys.prefix).resolve()
for module in (fxlrp, fxlrp.passes):
    assert home in pathlib.Path(module.__file__).resolve().parents, module.__file__

absent = ["torchvision", "sklearn", "matplotlib", "scipy", "PIL", "tqdm", "pytest", "zennit", "onnx", "onnxscript"]
for name in absent:
    assert importlib.util.find_spec(name) is None, f"{name} is here: the environment is not empty"

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5, bias=False)
).double().eval()
explain = fxlrp.compile(model, rules="epsilon")
x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
logits = model(x).amax(1)
(gradient,) = torch.autograd.grad(logits.sum(), x)
relevance = explain(x.detach())
# Without biases LRP-0 is gradient x input; epsilon is small.
torch.testing.assert_close(relevance, (gradient * x).detach(), rtol=1e-3, atol=1e-5)
print(explain)

explained = torch.compile(model, backend="fxlrp", options={"rules": "epsilon"})
explained(x).amax(1).sum().backward()
torch.testing.assert_close(x.grad, relevance)

from fxlrp import show
from fxlrp.extras import import_torchvision, require
assert "<span" in show.tokens(["a"], [1.0])._repr_html_() and str(show.table([2], [1.0])) and explain._repr_html_()
for load, extra in (
    (import_torchvision, "vision"),
    (lambda: require("sklearn.datasets", "demo"), "demo"),
    (lambda: show.heatmap(relevance[0]), "show"),
    (lambda: show.grid([torch.rand(3, 2, 2)]), "show"),
    (lambda: show.signal(torch.rand(4), torch.rand(4)), "show"),
):
    try:
        load()
    except ImportError as error:
        assert f"fxlrp[{extra}]" in str(error), error
    else:
        raise AssertionError(f"no error without the extra {extra}")
print("works")
"""


@pytest.mark.slow
def test_wheel_works_in_an_empty_environment(empty_environment: Path, tmp_path: Path) -> None:
    output = run(empty_environment, "-I", "-c", IN_THE_EMPTY_ENVIRONMENT, cwd=tmp_path)
    assert output.rstrip().endswith("works")


IMPORTS = """
import sys
import torch
before = set(sys.modules)
import fxlrp
for name in fxlrp.__all__:
    getattr(fxlrp, name)
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_import_loads_no_extra() -> None:
    """Here every extra is installed, so that an import of one would succeed and be seen."""
    extras = {"torchvision", "PIL", "sklearn", "scipy", "matplotlib", "tqdm", "zennit", "pytest"}
    extras |= {"onnx", "onnxscript", "onnxruntime", "captum"}
    for name in extras:
        assert importlib.util.find_spec(name) is not None, name
    path = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    loaded = set(run(sys.executable, "-c", f"{path}\n{IMPORTS}", cwd=ROOT.parent).split())
    assert "fxlrp" in loaded
    assert not loaded & extras


def test_import_is_quick() -> None:
    """Each name is imported when it is asked for, whatever is imported first.

    Inductor alone takes two seconds to import, and sympy longer than all of fxlrp: a compilation needs neither.
    """
    check = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import torch, fxlrp
assert {{name for name in sys.modules if name.startswith("fxlrp")}} == {{"fxlrp", "fxlrp.version"}}
fxlrp.compile, fxlrp.deploy, fxlrp.load
assert not {{"torch._inductor", "torch._dynamo", "sympy"}} & {{*sys.modules}}
later = ("fxlrp.show", "fxlrp.concepts", "fxlrp.data", "fxlrp.evaluate", "fxlrp.backward", "fxlrp.bilrp")
assert not [name for name in sys.modules if name.startswith(later)]
assert {{*fxlrp.__all__}} <= {{*dir(fxlrp)}}
import fxlrp.bilrp, fxlrp.backward.dynamo
from fxlrp.bilrp import similarity
assert fxlrp.similarity is similarity and fxlrp.show is __import__("fxlrp.show").show
print(*(name for name in fxlrp.__all__ if not hasattr(fxlrp, name)))
"""
    assert not run(sys.executable, "-c", check, cwd=ROOT.parent).split()


def test_no_module_has_the_name_of_a_function() -> None:
    """Importing it, from anywhere, would put it in the place of the function."""
    modules = {each.name for each in pkgutil.iter_modules(fxlrp.__path__)}
    found = {name: getattr(fxlrp, name) for name in modules.intersection(fxlrp.__all__)}
    assert "rules" in found and all(isinstance(value, ModuleType) for value in found.values()), found


def test_every_name_can_be_asked_for_first() -> None:
    """No module may need that another one is imported before it."""
    check = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import torch, fxlrp
for asked in fxlrp.__all__:
    for name in [name for name in sys.modules if name.partition(".")[0] == "fxlrp"]:
        del sys.modules[name]
    import fxlrp
    print(getattr(fxlrp, asked) is not None)
"""
    assert run(sys.executable, "-c", check, cwd=ROOT.parent).split() == ["True"] * len(fxlrp.__all__)


def test_a_name_that_fxlrp_does_not_have() -> None:
    with pytest.raises(AttributeError, match="module 'fxlrp' has no attribute 'explain'"):
        fxlrp.explain  # type: ignore[attr-defined]  # noqa: B018


def test_passes_are_reached_through_a_relative_link() -> None:
    link = ROOT / "fxlrp" / "passes"
    assert link.is_symlink()
    assert os.readlink(link) == "../passes"
    assert link.resolve() == ROOT / "passes"


TORCHVISION_TWICE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import torch
sys.path.insert(0, {root!r})
try:
    import torchvision  # what a user may have tried first; it fails beside a torch without CUDA
except RuntimeError:
    pass
from fxlrp.extras import import_torchvision
with ThreadPoolExecutor(8) as threads:
    modules = list(threads.map(lambda _: import_torchvision(), range(8)))
assert all(module is modules[0] for module in modules)
import torchvision
assert torchvision is modules[0]
model = torchvision.models.squeezenet1_1(weights=None).eval()
assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
assert torchvision.transforms.functional.resize(torch.rand(3, 8, 8), 4).shape == (3, 4, 4)
print("works")
"""


@pytest.mark.slow
def test_torchvision_is_imported_once_from_many_threads() -> None:
    output = run(sys.executable, "-c", TORCHVISION_TWICE.format(root=str(ROOT)), cwd=ROOT.parent)
    assert output.strip() == "works"


def test_constraints_pin_every_dependency_of_every_extra() -> None:
    """Every requirement, and every requirement of those, has one pin that holds on this Python.

    The extras `text`, `survey` and `inseq` are left out: they are for examples, the survey and one adapter, and no
    target of make has them.
    """
    pinned: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and "+" not in specifier.version, line
        if pin.marker is None or pin.marker.evaluate():
            assert canonicalize_name(pin.name) not in pinned, f"two pins hold at once: {line}"
            pinned[canonicalize_name(pin.name)] = specifier.version
    assert pinned["torch"] == "2.13.0"
    assert pinned["torchvision"] == "0.28.0"

    text = (ROOT / "pyproject.toml").read_text()
    declared = re.search(r"^dependencies = .*?^dev = [^\n]*", text, re.S | re.M)
    assert declared is not None
    installed = re.sub(r"^(inseq|text|survey) = .*\n", "", declared.group(), flags=re.M)
    waiting = [Requirement(item) for item in re.findall(r'"([^"]+)"', installed)]
    seen: set[tuple[str, ...]] = set()
    unpinned = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name == "fxlrp" or not applies(requirement):
            continue
        if name not in pinned and not name.startswith(("nvidia-", "cuda-", "triton")):
            unpinned.add(name)  # what a CUDA build of torch brings is pinned by that build
        key = (name, *sorted(requirement.extras))
        if key not in seen:
            seen.add(key)
            try:
                lines = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            waiting += [item for item in map(Requirement, lines) if applies(item, requirement.extras)]
    assert not unpinned


def applies(requirement: Requirement, extras: set[str] | frozenset[str] = frozenset()) -> bool:
    """Whether a requirement holds on this Python, for any of `extras` or for none."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def test_require_blames_the_extra_only_for_its_own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_extra.py").write_text("import something_that_is_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    assert require("json", "demo").loads("[1]") == [1]
    with pytest.raises(ImportError, match=r"absent_extra .* pip install 'fxlrp\[demo\]'"):
        require("absent_extra.inside", "demo")
    with pytest.raises(ModuleNotFoundError, match="something_that_is_not_installed"):
        require("broken_extra", "demo")
