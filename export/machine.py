"""What this machine is and which engines can be built on it; nothing is imported to find out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ..bundle.errors import EngineUnavailable
from ..runtime.cores import instruction_sets, usable_cores
from ..runtime.gpus import find_gpus
from .builders import BUILDERS, GPU_BUILDERS, find_builder

NEEDED = ("torch", "transformers", "safetensors", "onnx", "onnxruntime", "jinja2", "matplotlib")
GPU_PACKAGES = {
    "tensorrt-rtx": "pip install 'nlpdeploy[rtx]'",
    "cuda-bindings": "pip install 'nlpdeploy[rtx]'",
    "tensorrt": "pip install 'nlpdeploy[gpu]'",
    "onnxruntime-gpu": "pip uninstall -y onnxruntime && pip install 'nlpdeploy[gpu]'",
}
"""What engines for GPUs need, and the line that installs it; the last one takes the place of the CPU's package."""
AHEAD_EXAMPLE = "tensorrt-rtx-fp16-sm86"
"""Stands for all architectures: what one needs to be built, all need."""
OWN_LOAD = 1.0
"""What an export itself can add to the load average beyond its threads' share."""


def describe_machine(packages: Sequence[str]) -> dict[str, Any]:
    """Cores, instruction sets, versions of ``packages`` (None: missing), and each engine with what it lacks."""
    lacking = _lacking()
    no_export = lacking.line() if lacking else None
    return {
        "cores": usable_cores(),
        "instruction_sets": sorted(instruction_sets()),
        "packages": package_versions(packages),
        "gpu": describe_gpus(),
        "engines": [
            {"id": builder.id, "available": (reason := builder.unavailable() or no_export) is None, "reason": reason}
            for builder in (*BUILDERS.values(), *GPU_BUILDERS.values(), find_builder(AHEAD_EXAMPLE))
            if builder is not None
        ],
    }


def describe_gpus() -> dict[str, Any]:
    """The driver, each GPU, the packages for them, and the lines that install what is missing."""
    found = find_gpus()
    versions = package_versions(GPU_PACKAGES)
    return {
        "driver_cuda": found.driver,
        "problem": found.problem,
        "devices": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "capability": "{}.{}".format(*gpu.capability),
                "architecture": gpu.architecture,
                "memory_bytes": gpu.memory_bytes,
            }
            for gpu in found.devices
        ],
        "packages": versions,
        "install": {name: line for name, line in GPU_PACKAGES.items() if versions[name] is None},
    }


def check_packages() -> None:
    """See that what every export needs is there.

    Raises:
        EngineUnavailable: with the names of what is missing, and the line that installs it.
    """
    if lacking := _lacking():
        raise lacking


def _lacking() -> EngineUnavailable | None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    mend = "pip install torch==2.13.0 && pip install 'nlpdeploy[cpu,export]'"
    return EngineUnavailable(f"export needs {', '.join(missing)}", mend=mend) if missing else None


def busy_note() -> tuple[str, ...]:
    """A sentence where other programs use the machine, so that times measured now can't be trusted; else nothing."""
    load, cores = os.getloadavg()[0], usable_cores()
    if load <= cores + OWN_LOAD:
        return ()
    return (
        f"the machine was busy (load {load:.1f} on {cores} cores) while speeds were measured: export again when idle",
    )


def package_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Installed version by distribution name; None where it is missing."""
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions
