"""``nlpdeploy doctor``: what this machine can run; for each engine it can't, why and what to install."""

from __future__ import annotations

import argparse
import platform
from typing import Any

from . import console

PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "locust", "tritonclient")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "doctor", help="what this machine can build and run, and what to install for the rest"
    )
    console.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look and tell; nothing is loaded."""
    from ..export.machine import describe_machine

    machine = describe_machine(PACKAGES)
    store = console.store_root(arguments)
    found = {"python": platform.python_version(), "store": str(store.resolve()), **machine}
    if arguments.json:
        console.print_json(found)
        return 0
    sets = " ".join(machine["instruction_sets"]) or "no known instruction sets"
    console.note(f"Python {found['python']}, {machine['cores']} usable cores")
    console.note(sets)
    console.note(f"store {found['store']}")
    packages = [[name, version or "missing"] for name, version in machine["packages"].items()]
    console.print_table(["package", "version"], packages, left=(0, 1))
    _print_gpus(machine["gpu"])
    engines = [[e["id"], "can be built" if e["available"] else "no", e["reason"] or ""] for e in machine["engines"]]
    console.print_table(["engine", "here", "why not, and what to do"], engines, left=(0, 1, 2))
    return 0


def _print_gpus(gpu: dict[str, Any]) -> None:
    if gpu["problem"]:
        driver = f", driver for CUDA {gpu['driver_cuda']}" if gpu["driver_cuda"] else ""
        console.note(f"GPU: {gpu['problem']}{driver}")
        console.note("engines for GPUs elsewhere: `nlpdeploy export --gpu sm86`")
    for device in gpu["devices"]:
        console.note(
            f"GPU {device['index']}: {device['name']}, compute capability {device['capability']} "
            f"({device['architecture']}), {device['memory_bytes'] / 2**30:.0f} GiB, "
            f"driver for CUDA {gpu['driver_cuda']}"
        )
    rows = [[name, version or "missing", gpu["install"].get(name, "")] for name, version in gpu["packages"].items()]
    console.print_table(["for GPUs", "version", "to install"], rows, left=(0, 1, 2))
