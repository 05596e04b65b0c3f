"""Environments of their own for clients and libraries that can't stand beside what the tests are run with.

Each is set up once, in ``interop/`` beside the interpreter's own packages, from the package index.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

# What the package itself depends on, without an engine's runtime.
_OURS = (
    "numpy",
    "tokenizers",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "hpack",
    "httptools",
    "prometheus-client",
    "rich",
)
PACKAGES = {
    "kserve": ("kserve==0.21.0",),
    "protobuf5": ("protobuf>=5,<6", *_OURS),
    "protobuf7": ("protobuf>=7,<8", *_OURS),
}
FOLDER = Path(sys.prefix) / "interop"


def set_up(name: str) -> Path:
    """Set up an environment, or wait for who does, or find it; returns its interpreter.

    Raises:
        RuntimeError: its packages can't be installed.
    """
    folder, wanted = FOLDER / name, "\n".join(PACKAGES[name])
    python, ready = folder / "bin" / "python", folder / "ready"
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != wanted:
            # Our own pip, and no byte code: most of what is installed is never imported.
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True, timeout=120)
            pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
            install = [*pip, "install", "--quiet", "--no-compile", *PACKAGES[name]]
            done = subprocess.run(install, capture_output=True, text=True, timeout=280)
            if done.returncode:
                raise RuntimeError(f"{PACKAGES[name]} can't be installed:\n{done.stderr}")
            ready.write_text(wanted)
    return python
