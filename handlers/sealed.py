"""The table of digests inside an archive, and the check of an unpacked archive against it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ..bundle.digest import file_digest
from ..bundle.errors import CorruptBundle

BUNDLE_FOLDER = "bundle"
"""Where an archive has its bundle, so that a bundle's files and TorchServe's never meet."""
CHECKPOINT_FOLDER = "checkpoint"
"""Where an archive of the reference has the untouched checkpoint."""
SEALS_NAME = "MAR-INF/digests.json"
MEND = "pack it again with `nlpdeploy archive`"


def seals(contents: Mapping[str, bytes | Path]) -> bytes:
    """The table: SHA-256 by path of all entries but itself, with its own digest, in one canonical form."""
    return _canonical(
        {
            path: file_digest(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
            for path, content in contents.items()
        }
    )


def read_seals(raw: bytes, where: str) -> dict[str, str]:
    """SHA-256 by path from the table of an archive.

    Raises:
        CorruptBundle: it is not in the form it was written in.
    """
    try:
        table = dict(json.loads(raw)["files"])
        intact = _canonical(table) == raw
    except (ValueError, TypeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise CorruptBundle(f"archive {where} is not what was packed", changed=(SEALS_NAME,), mend=MEND)
    return table


def _canonical(table: Mapping[str, str]) -> bytes:
    seal = hashlib.sha256("".join(f"{table[path]}  {path}\n" for path in sorted(table)).encode()).hexdigest()
    return (json.dumps({"files": table, "seal": seal}, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def check_sealed(folder: Path) -> None:
    """Compare an unpacked archive with its table. What else lies there (Python's caches) is not looked at.

    Raises:
        CorruptBundle: files missing or changed, by name.
    """
    seals_file = folder / SEALS_NAME
    if not seals_file.is_file():
        raise CorruptBundle(f"archive in {folder} is not what was packed", missing=(SEALS_NAME,), mend=MEND)
    table = read_seals(seals_file.read_bytes(), f"in {folder}")
    missing = tuple(path for path in table if not (folder / path).is_file())
    changed = tuple(path for path in table if path not in missing and file_digest(folder / path) != table[path])
    if missing or changed:
        what = f"archive in {folder} is not what was packed"
        raise CorruptBundle(what, missing=missing, changed=changed, mend=MEND)
