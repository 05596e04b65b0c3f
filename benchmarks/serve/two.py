"""A store with two bundles that were published in different ones."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from nlpdeploy.bundle.store import Store

from .plans import Served


def pair(first: Served, second: Served, root: Path) -> tuple[Served, Served]:
    """Copy both into one store, as they were published."""
    shutil.rmtree(root, ignore_errors=True)

    def copies() -> Iterator[Served]:
        for model in (first, second):
            folder = root / model.name / str(model.version)
            shutil.copytree(model.bundle, folder)
            Store(root).promote(f"{model.name}:{model.version}", why="copied")
            yield dataclasses.replace(model, store=root, bundle=folder)

    one, other = copies()
    return one, other
