"""Where a run ran, in words that hold no host name and no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

import fxlrp
from benchmarks.settings import Settings

PEERS = ("zennit", "captum", "autolrp", "lxt")


def describe(settings: Settings) -> dict[str, str]:
    """The machine, the versions and the settings, for the reader of the report."""
    device = f"{_processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    if settings.device != "cpu":
        device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, beside {device}"
    arithmetic = settings.dtype + (", TF32 allowed" if settings.tf32 else "")
    return {
        "machine": device,
        "threads": str(settings.threads),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, fxlrp {fxlrp.__version__}",
        "peers": ", ".join(f"{name} {_version(name)}" for name in PEERS),
        "arithmetic": arithmetic + (", channels last" if settings.channels_last else ""),
        "rounds": str(settings.repeats),
    }


def _processor() -> str:
    """The model name of the CPU."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
