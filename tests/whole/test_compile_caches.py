"""Compiled explanations in the caches of PyTorch: another process does not compile them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT, compiler_needed

SUPPORT = ROOT / "tests" / "support"


def started(folder: Path, cache: Path, hash_seed: int, *arguments: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)]),
        "PYTHONHASHSEED": str(hash_seed),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        # In an empty cache Inductor compiles programs that try the vector instructions: half of the time.
        "TORCHINDUCTOR_VEC_ISA_OK": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "compiled_explanations", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.repeats
def test_keys_do_not_depend_on_the_process(tmp_path: Path) -> None:
    """Neither on the order of sets, the folder, the values of the weights, nor on what was compiled before."""
    names = ["convolutional", "questions", "attention_regions", "derived"]
    one = started(tmp_path / "one", tmp_path / "cache", 1, *names)
    other = started(tmp_path / "other", tmp_path / "cache", 2, "--seed", "7", *reversed(names))
    keys, others = result(one), result(other)
    assert keys == others
    assert len({key for key, *_ in keys.values()}) == len(names), "different explanations have different keys"


@compiler_needed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", pytest.param("regions", marks=pytest.mark.repeats)])
def test_another_process_does_not_compile_again(name: str, tmp_path: Path) -> None:
    cache, artifacts = tmp_path / "cache", str(tmp_path / "artifacts")
    first = result(started(tmp_path, cache, 1, "--compile", "--save", artifacts, name))[name]
    assert first["counted"].pop("autograd_cache_saved") == 1
    assert first["counted"] == {"autograd_cache_miss": 1, "fxgraph_cache_miss": 1}
    # The weights are inputs of the compiled code, so code for others is found, too.
    again = result(started(tmp_path, cache, 2, "--compile", "--seed", "7", name))[name]
    carried = result(started(tmp_path, tmp_path / "empty", 3, "--compile", "--load", artifacts, name))[name]
    for found in (again, carried):
        assert found["counted"] == {"autograd_cache_hit": 1, "fxgraph_cache_hit": 1}
        assert found["difference"] < 1e-5
