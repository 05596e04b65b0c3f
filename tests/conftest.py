"""What several rooms' tests share."""

import os
import signal

import pytest
from hypothesis import settings

from support.client_environments import PACKAGES, set_up_beside

# A red run must mean a change, so CI draws the same examples each time; elsewhere new ones are looked for.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Started in the background by a shell, all processes would ignore Ctrl-C; these tests send it to their children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def environments_beside(request):
    """Environments of other clients are set up while the tests before theirs run."""
    if not any("environment" in item.fixturenames for item in request.session.items):
        yield
        return
    with set_up_beside(PACKAGES):
        yield


@pytest.fixture(scope="session")
def demo_checkpoint(tmp_path_factory):
    """A demo work folder with its checkpoint trained, once for all tests."""
    from nlpdeploy.export.demo_checkpoint import train_demo_checkpoint

    folder = tmp_path_factory.mktemp("demo")
    train_demo_checkpoint(folder / "checkpoint")
    return folder
