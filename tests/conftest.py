"""What several rooms' tests share."""

import pytest


@pytest.fixture(scope="session")
def demo_checkpoint(tmp_path_factory):
    """A demo work folder with its checkpoint trained, once for all tests."""
    from nlpdeploy.export.demo_checkpoint import train_demo_checkpoint

    folder = tmp_path_factory.mktemp("demo")
    train_demo_checkpoint(folder / "checkpoint")
    return folder
