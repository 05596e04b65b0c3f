"""Where results go: tables on standard output, one JSON file a section into ``benchmarks/results``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nlpdeploy.bundle.manifest import to_plain

from .subject import HERE, Subject

RESULTS = HERE / "results"
BUSY_PERCENT = 10.0
_PACKAGES = (
    "numpy",
    "onnxruntime",
    "openvino",
    "tokenizers",
    "torch",
    "transformers",
    "grpcio",
    "protobuf",
    "hpack",
    "httptools",
)


def machine() -> dict[str, Any]:
    """What the numbers are measured on: cores, processor, instruction sets, versions, commit, and how busy it is now.

    Takes a second, in which this process is idle: what is busy then are others, and a warning says so.
    """
    import psutil

    from nlpdeploy.export.machine import package_versions
    from nlpdeploy.runtime.cores import instruction_sets, usable_cores

    busy = psutil.cpu_percent(interval=1.0)
    if busy > BUSY_PERCENT:
        print(
            f"\nother processes keep {busy:.0f} % of the processor busy: these numbers will not be repeatable",
            flush=True,
        )
    return {
        "cores": usable_cores(),
        "cpu": _cpu_model(),
        "instruction_sets": sorted(instruction_sets()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(_PACKAGES),
        "commit": _commit(),
        "load_average": os.getloadavg(),
        "busy_percent": busy,
    }


def write_result(name: str, subject: Subject, before: dict[str, Any], measured: Any) -> Path:
    """Write ``<UTC time>-<name>.json``.

    Args:
        name: of the section.
        subject: what was measured.
        before: :func:`machine` as it was before the measurement; the load after it is added.
        measured: dataclasses, mappings and sequences of JSON's scalars.

    Returns:
        The file.
    """
    now = datetime.now(UTC)
    result = {
        "name": name,
        "time": now.isoformat(timespec="seconds"),
        "machine": {**before, "load_average_after": os.getloadavg()},
        "subject": subject.plain(),
        "measured": measured,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}-{name}.json"
    path.write_text(json.dumps(to_plain(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(f"-> {os.path.relpath(path)}\n", flush=True)
    return path


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table, its first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    print(f"\n{title}")
    for cells in (headings, ["-" * width for width in widths], *rows):
        first, *others = zip(cells, widths, strict=True)
        print("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip())


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _commit() -> str | None:
    """The commit that is checked out, with ``+`` after it where files differ from it; None outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
