"""Where a builder's files go and how big they came out."""

from __future__ import annotations

from pathlib import Path


def engine_folder(bundle: Path, engine_id: str) -> Path:
    """A new, empty ``engines/<id>/`` in the bundle."""
    folder = bundle / "engines" / engine_id
    folder.mkdir(parents=True)
    return folder


def size_bytes(folder: Path) -> int:
    """Size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
