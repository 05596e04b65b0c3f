"""Bundles of the real checkpoints, exported once as a user would."""

import pytest

from support.real_bundles import Exported, exported
from support.shared import SHARED


def _real(root, which) -> Exported:
    if not SHARED.is_dir():
        pytest.skip(f"no real checkpoints and data at {SHARED}")
    return exported(root, which)


@pytest.fixture(scope="session")
def english(beside_root) -> Exported:
    return _real(beside_root, "english")


@pytest.fixture(scope="session")
def chinese(beside_root) -> Exported:
    return _real(beside_root, "chinese")
