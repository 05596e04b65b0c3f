"""Fixtures of the export room."""

import pytest

from support.checkpoints import const_head


@pytest.fixture
def folder(tmp_path):
    """A whole checkpoint whose logits are -1.5 and 2.5 for any text."""
    return const_head(tmp_path / "model", [-1.5, 2.5], id2label={"0": "no", "1": "yes"})
