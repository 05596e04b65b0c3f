"""Environments of their own for clients and libraries that can't stand beside what the tests are run with.

Each is set up once, in ``interop/`` beside the interpreter's own packages, from the package index; where that can't be
reached the tests fail.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nlpdeploy import bundle

TESTS = Path(__file__).resolve().parents[1]
ROOMS = Path(bundle.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Environment:
    """An interpreter with packages of its own, our rooms beside them."""

    python: Path
    path: Path

    def variables(self):
        return os.environ | {
            "PYTHONPATH": f"{self.path}{os.pathsep}{TESTS}",
            "PYTHONWARNINGS": "error::ResourceWarning",
        }

    def run(self, code, *arguments):
        """Standard output of a program in it, as JSON."""
        command = [self.python, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=self.variables())
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Set up, or find, the environment of that name with these packages."""
    path = tmp_path_factory.mktemp("path")
    (path / "nlpdeploy").mkdir()
    for room in ("bundle", "wire", "runtime", "serve"):
        (path / "nlpdeploy" / room).symlink_to(ROOMS / room)

    def made(name, *packages):
        folder = Path(sys.prefix) / "interop" / name
        python, wanted = folder / "bin" / "python", "\n".join(packages)
        ready = folder / "ready"
        if not ready.exists() or ready.read_text() != wanted:
            # Our own pip, and no byte code: most of what is installed is never imported.
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True, timeout=120)
            pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
            install = [*pip, "install", "--quiet", "--no-compile", *packages]
            done = subprocess.run(install, capture_output=True, text=True, timeout=280)
            assert done.returncode == 0, f"{packages} can't be installed:\n{done.stderr}"
            ready.write_text(wanted)
        return Environment(python, path)

    return made
