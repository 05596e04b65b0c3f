"""Zip files that depend on their contents alone: entries sorted and stored, no times, no owners."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from ..bundle.errors import CorruptBundle, InvalidInput, NotFound
from .sealed import MEND, SEALS_NAME, read_seals

Contents = Mapping[str, bytes | Path]
"""By path in the archive: the bytes themselves, or the file that holds them."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can say."""
PLAIN_FILE = 0o100644 << 16
UNIX = 3


def write_zip(target: Path, contents: Contents) -> None:
    """Write a zip whose bytes depend on ``contents`` alone.

    Entries are stored as they are: weights hardly shrink, and what a compressor makes of them differs by its version.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(contents):
            content = contents[path]
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.external_attr, entry.create_system = PLAIN_FILE, UNIX
            entry.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
            with archive.open(entry, "w") as stream:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, stream, 1 << 20)
                else:
                    stream.write(content)


LARGEST_ENTRY = 256 * 1024 * 1024
"""Bytes of an entry that is read whole: a description, never weights."""


def read_entry(path: Path, entry: str) -> bytes | None:
    """The bytes of one entry of a zip, or None where it has none of that name.

    Raises:
        NotFound: no such file.
        InvalidInput: it is no zip, or the entry is larger than ``LARGEST_ENTRY``.
        CorruptBundle: the entry is damaged.
    """
    with open_zip(path) as archive:
        try:
            size = archive.getinfo(entry).file_size
            if size > LARGEST_ENTRY:
                raise InvalidInput(f"{entry} of {path}", found=f"{size} bytes", wanted=f"at most {LARGEST_ENTRY}")
            return archive.read(entry)
        except KeyError:
            return None
        except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError) as error:
            raise CorruptBundle(f"archive {path} ({error})", changed=(entry,), mend=MEND) from None


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip, opened for reading.

    Raises:
        NotFound: no such file.
        InvalidInput: it is no zip.
    """
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise NotFound(f"archive {path} ({error.strerror or error})") from None
    except (zipfile.BadZipFile, ValueError) as error:
        raise InvalidInput(f"archive {path} ({error})", wanted="a .mar file, which is a zip") from None


def check_zip(path: Path) -> None:
    """Compare every entry of a packed archive with the table of digests in it.

    Raises:
        NotFound, InvalidInput: no such file, or no zip.
        CorruptBundle: entries extra, missing or changed, by name.
    """
    raw = read_entry(path, SEALS_NAME)
    if raw is None:
        raise CorruptBundle(f"archive {path} is not what was packed", missing=(SEALS_NAME,), mend=MEND)
    table = read_seals(raw, str(path))
    with open_zip(path) as archive:
        names = {entry.filename for entry in archive.infolist() if not entry.is_dir()} - {SEALS_NAME}
        extra, missing = tuple(sorted(names - table.keys())), tuple(sorted(table.keys() - names))
        common = sorted(names & table.keys())
        changed = tuple(name for name in common if _digest(archive, name) != table[name])
    if extra or missing or changed:
        what = f"archive {path} is not what was packed"
        raise CorruptBundle(what, extra=extra, missing=missing, changed=changed, mend=MEND)


def _digest(archive: zipfile.ZipFile, name: str) -> str | None:
    try:
        with archive.open(name) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError):
        return None  # its own checksum or its header is off
