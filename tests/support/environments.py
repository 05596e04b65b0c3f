"""A Python environment with a few of the installed distributions and what they require, and nothing else."""

from __future__ import annotations

import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement


def linked_environment(folder: Path, *names: str) -> Path:
    """Make a virtual environment whose packages are links to those installed here; returns its interpreter.

    As ``pip install`` of these names would leave it, in a second and without a package index.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    for distribution in required(*names).values():
        for top in {Path(file).parts[0] for file in distribution.files or () if Path(file).parts[0] != ".."}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin/python"


def required(*names: str) -> dict[str, metadata.Distribution]:
    """The distributions and all that they require here, by normalised name."""
    found: dict[str, metadata.Distribution] = {}
    queue = [Requirement(name) for name in names]
    while queue:
        requirement = queue.pop()
        name = requirement.name.lower().replace("_", "-").replace(".", "-")
        if name in found:
            continue
        found[name] = metadata.distribution(requirement.name)
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({**default_environment(), "extra": ""}):
                queue.append(needed)
    return found
