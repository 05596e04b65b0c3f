"""SHA-256 of files and folders, and the check of a bundle folder against its manifest."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .errors import CorruptBundle, NotFound, StoreFailed
from .manifest import MANIFEST_NAME, REPORT_NAME, Manifest

UNHASHED = frozenset({MANIFEST_NAME, REPORT_NAME})
"""Files outside the table of hashes: the manifest, which seals itself, and the report for people."""
HASHERS = 4
"""Files hashed at a time."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """SHA-256 by relative POSIX path of every file that the manifest has to list.

    Raises:
        CorruptBundle: a symbolic link or something that is neither file nor folder.
    """
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CorruptBundle(f"bundle {folder}: only plain files and folders are allowed", extra=(name,))
        if path.is_file() and name not in UNHASHED:
            names.append(name)
    # Side by side: hashing is most of what a server's start spends on a bundle, and needs no interpreter lock.
    with ThreadPoolExecutor(HASHERS) as pool:
        return dict(zip(names, pool.map(file_digest, [folder / name for name in names]), strict=True))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle folder, itself checked, its files not.

    Raises:
        NotFound: no bundle there.
        CorruptBundle: the manifest was changed.
        Unsupported: written by a newer nlpdeploy.
        StoreFailed: it can't be read.
    """
    path = folder / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no bundle in {folder}: {MANIFEST_NAME} is missing") from None
    except OSError as error:
        raise _unreadable(folder, error) from error
    return Manifest.from_bytes(raw, path)


def verified_manifest(folder: Path) -> Manifest:
    """The manifest, after every file of the bundle was compared with it. Call this before parsing any of them.

    Raises:
        NotFound, CorruptBundle, Unsupported, StoreFailed: as :func:`read_manifest`; extra, missing and changed files
            named apart. A bundle that is deleted while it is read is not found, rather than corrupt.
    """
    manifest = read_manifest(folder)
    try:
        _compare(folder, manifest)
    except (CorruptBundle, OSError) as error:
        if not folder.exists():
            raise NotFound(f"bundle {folder} was deleted while it was read") from None
        if isinstance(error, OSError):
            raise _unreadable(folder, error) from error
        raise
    return manifest


def _compare(folder: Path, manifest: Manifest) -> None:
    found, listed = folder_digests(folder), manifest.files
    extra = tuple(sorted(found.keys() - listed.keys()))
    missing = tuple(sorted(listed.keys() - found.keys()))
    changed = tuple(path for path in sorted(found.keys() & listed.keys()) if found[path] != listed[path])
    missing += tuple(e.file for e in manifest.engines if e.file is not None and e.file not in listed)
    if extra or missing or changed:
        raise CorruptBundle(f"bundle {folder} is not what was published", extra=extra, missing=missing, changed=changed)


def _unreadable(folder: Path, error: OSError) -> StoreFailed:
    return StoreFailed(f"bundle {folder} can't be read: {error.strerror or error}", found=error.filename)
