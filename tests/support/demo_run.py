"""The demo, whole, on a shorter load test."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.once import once

SECONDS, RATE = 8, 30


def demo_run(root: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run it in a folder of ``root``, or take what was run there; the folder and what was printed."""
    folder = root / "demo"
    arguments = ["--seconds", SECONDS, "--rate", RATE, "--timing-seconds", 4, "--json"]
    return folder / "run", once(folder, "demo", "--dir", folder / "run", *arguments, timeout=800)
