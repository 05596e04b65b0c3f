"""A command that is run once, whoever asks first: here, or beside the tests."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path

from support.cli import nlpdeploy


def once(folder: Path, *arguments: object, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, or wait for who runs it, or tell what became of it; ``folder`` keeps that."""
    folder.mkdir(exist_ok=True)
    kept = folder / "printed.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            done = nlpdeploy(*arguments, timeout=timeout)
            kept.write_text(json.dumps([done.returncode, done.stdout, done.stderr]), encoding="utf-8")
        status, out, err = json.loads(kept.read_text(encoding="utf-8"))
    return subprocess.CompletedProcess(list(map(str, arguments)), status, out, err)
