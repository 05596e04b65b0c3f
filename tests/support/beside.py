"""What takes minutes and is wanted late, made while other tests run: ``python -m support.beside ROOT NAME …``.

Names are those of environments of other clients, ``demo``, and subjects of real bundles; the latter go into ``ROOT``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from support import client_environments, demo_run, real_bundles
from support.shared import SHARED

DEMO = "demo"


@contextmanager
def made_beside(root: Path, names: Sequence[str]) -> Iterator[None]:
    """Make them, one after the other, in a process that is no child of this one, whose children tests look at.

    What fails there is told by who asks for it.
    """
    if not names:
        yield
        return
    command = ["sh", "-c", '"$@" >/dev/null 2>&1 & echo $$', "sh", sys.executable, "-m", __name__, str(root), *names]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    begun = subprocess.run(command, stdout=subprocess.PIPE, start_new_session=True, check=True, env=environment)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have ended
            os.killpg(int(begun.stdout), signal.SIGTERM)


def wanted(fixtures: Collection[str]) -> list[str]:
    """What tests with these fixtures need, in the order in which they need it."""
    names = list(client_environments.PACKAGES) if "environment" in fixtures else []
    names += [DEMO] if DEMO in fixtures else []
    return names + [name for name in real_bundles.SUBJECTS if name in fixtures and SHARED.is_dir()]


def make(root: Path, name: str) -> None:
    """Make one of them."""
    if name in client_environments.PACKAGES:
        client_environments.set_up(name)
    elif name == DEMO:
        demo_run.demo_run(root)
    else:
        real_bundles.exported(root, name)


if __name__ == "__main__":
    for each in sys.argv[2:]:
        make(Path(sys.argv[1]), each)
