"""Our rooms beside packages that can't stand beside those of the tests."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from nlpdeploy import bundle
from support.client_environments import set_up

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
    """Set up, or find, the environment of that name; where the package index can't be reached its tests fail."""
    path = tmp_path_factory.mktemp("path")
    (path / "nlpdeploy").mkdir()
    for room in ("bundle", "wire", "runtime", "serve"):
        (path / "nlpdeploy" / room).symlink_to(ROOMS / room)
    return lambda name: Environment(set_up(name), path)
