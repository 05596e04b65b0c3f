"""What this machine is and which engines can be built on it; nothing is imported to find out."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from ..runtime.cores import instruction_sets, usable_cores
from .builders import BUILDERS


def describe_machine(packages: Sequence[str]) -> dict[str, Any]:
    """Cores, instruction sets, versions of ``packages`` (None: missing), and each engine with what it lacks."""
    return {
        "cores": usable_cores(),
        "instruction_sets": sorted(instruction_sets()),
        "packages": package_versions(packages),
        "engines": [
            {"id": builder.id, "available": (reason := builder.unavailable()) is None, "reason": reason}
            for builder in BUILDERS.values()
        ],
    }


def package_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Installed version by distribution name; None where it is missing."""
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions
