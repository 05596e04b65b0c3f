"""Whatever a load test is made for, its books balance."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.loadruns import assert_books_balance


@pytest.fixture(autouse=True)
def books_balance(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of every run with real traffic that the test leaves in its folder: those have Locust's output beside them."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    for record in folder.rglob("run.json") if folder else ():
        if (record.parent / "locust").is_dir():
            assert_books_balance(record.parent)
