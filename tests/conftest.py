"""What several rooms' tests share."""

import os
import signal

import pytest
from hypothesis import settings

from support.beside import made_beside, wanted

# A red run must mean a change, so CI draws the same examples each time; elsewhere new ones are looked for.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Started in the background by a shell, all processes would ignore Ctrl-C; these tests send it to their children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def beside_root(tmp_path_factory):
    """Where what is made beside the tests goes."""
    return tmp_path_factory.mktemp("beside")


@pytest.fixture(scope="session", autouse=True)
def made_while_other_tests_run(request, beside_root):
    """What takes minutes, and only tests far down want."""
    fixtures = {name for item in request.session.items for name in item.fixturenames}
    with made_beside(beside_root, wanted(fixtures)):
        yield


@pytest.fixture(scope="session")
def demo_checkpoint(tmp_path_factory):
    """A demo work folder with its checkpoint trained, once for all tests."""
    from nlpdeploy.export.demo_checkpoint import train_demo_checkpoint

    folder = tmp_path_factory.mktemp("demo")
    train_demo_checkpoint(folder / "checkpoint")
    return folder
