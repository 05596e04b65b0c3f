"""The store: names, versions, atomic publication, which version serves.

    <root>/<name>/<version>/       immutable bundles, version = 1, 2, 3 …
    <root>/<name>/current.json     which version serves, and its history
    <root>/.staging/…              half-made bundles that no reader looks at

A bundle becomes visible by one ``rename`` of a synced folder, so a reader sees all of it or nothing, whatever dies
when. Publishers of one name exclude each other with ``flock``; the kernel drops the lock of a process that dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .digest import folder_digests, read_manifest, verified_manifest
from .errors import InvalidInput, NotFound, StoreFailed
from .manifest import MANIFEST_NAME, Manifest
from .names import NAME, Reference, check_name, split_spec
from .staging import Staging, clear_abandoned, locked, new_staging, sync, sync_tree, write_synced

CURRENT_NAME = "current.json"
OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Current:
    """Which version serves: the last of ``history``, whose items are (version, ISO time, why).

    ``newest`` is the highest version ever published, so that a number is not given twice after a deletion.
    """

    version: int
    newest: int
    history: tuple[tuple[int, str, str], ...]


class Store:
    """Bundles under one folder.

    Args:
        root: the folder; made on the first publication.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    # -- reading ------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names with at least one published version, sorted.

        Raises:
            StoreFailed: the root can't be read, or is a file.
        """
        with _store_errors(self.root):
            if not self.root.exists():
                return []
            return sorted(
                path.name for path in self.root.iterdir() if NAME.fullmatch(path.name) and self.versions(path.name)
            )

    def versions(self, name: str) -> list[int]:
        """Published versions of a name, ascending; empty where there is none."""
        folder = self.root / check_name(name)
        with _store_errors(self.root):
            if not folder.is_dir():
                return []
            return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and (p / MANIFEST_NAME).is_file())

    def resolve(self, spec: str) -> Reference:
        """Find ``name`` (the version that serves) or ``name:version`` (``name/version`` is understood too).

        Raises:
            InvalidInput: not of that form.
            NotFound: no such name or version, or an empty store.
        """
        name, version = split_spec(spec)
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "an empty store"
            mend = "`nlpdeploy export CKPT --name NAME` makes one"
            raise NotFound(f"model {name!r} in store {self.root}", found=known, mend=mend)
        if version is None:
            current = self.current(name)
            version = current.version if current and current.version in versions else versions[-1]
        if version not in versions:
            listed = ", ".join(map(str, versions))
            raise NotFound(f"version {version} of model {name!r} in store {self.root}", found=f"versions {listed}")
        return Reference(name, version, self.root / name / str(version))

    def current(self, name: str) -> Current | None:
        """Which version serves, with its history; None before the first publication is complete.

        Raises:
            StoreFailed: current.json can't be read.
        """
        path = self.root / check_name(name) / CURRENT_NAME
        try:
            with _store_errors(self.root):
                text = _text_or_none(path)
            if text is None:
                return None
            plain = json.loads(text)
            history = tuple((int(v), str(when), str(why)) for v, when, why in plain["history"])
            return Current(int(plain["version"]), int(plain["newest"]), history)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreFailed(
                f"{path} is damaged ({error})", mend=f"`nlpdeploy models promote {name}:N` writes it anew"
            ) from None

    def manifest(self, spec: str) -> Manifest:
        """The manifest, its bundle's files not checked."""
        return read_manifest(self.resolve(spec).path)

    def verify(self, spec: str) -> Manifest:
        """Check every file of a bundle.

        Raises:
            CorruptBundle: extra, missing and changed files named apart.
        """
        return verified_manifest(self.resolve(spec).path)

    # -- writing ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Staging]:
        """A private folder on the store's file system; cleared at the end unless it was published.

        Folders of makers that died are cleared first: their lock is free.

        Raises:
            StoreFailed: the store can't be written, or its file system is full while the maker writes.
        """
        check_name(name)
        with _store_errors(self.root):
            base = self.root / ".staging"
            base.mkdir(parents=True, exist_ok=True)
            clear_abandoned(base)
            staging = new_staging(base, name)
        try:
            yield staging
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            raise StoreFailed(f"store {self.root}: {error.strerror}", found=error.filename) from error
        finally:
            staging.close()

    def publish(
        self, staging: Staging, manifest: Manifest, *, promote: bool = True, why: str = "published"
    ) -> Reference:
        """Seal the staged folder and make it the next version of ``manifest.name``.

        Args:
            staging: the folder, all files but the manifest written.
            manifest: without ``files`` and ``digest``; both are filled in here.
            promote: make the new version the one that serves.
            why: goes into the history.

        Raises:
            InvalidInput: the manifest's name is none.
            CorruptBundle: a symbolic link was staged, or the manifest could not be read back.
            StoreFailed: no space or no permission; nothing is visible then.
        """
        check_name(manifest.name)
        with _store_errors(self.root):
            files = folder_digests(staging.path)
            sealed = dataclasses.replace(manifest, files=files).sealed().to_bytes()
            Manifest.from_bytes(sealed)
            write_synced(staging.path / MANIFEST_NAME, sealed)
            sync_tree(staging.path)
            folder = self.root / manifest.name
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                current = self.current(manifest.name)
                newest = max([*self.versions(manifest.name), current.newest if current else 0], default=0)
                version = newest + 1
                serving = version if promote or not current else current.version
                # Written before anything is visible: after it, nothing needs space any more.
                draft = self._draft_current(manifest.name, serving, why, version)
                target = folder / str(version)
                staging.path.rename(target)
                draft.rename(folder / CURRENT_NAME)
                sync(folder)
            return Reference(manifest.name, version, target)

    def promote(self, spec: str, *, why: str = "promoted") -> Reference:
        """Make a version the one that serves. Its files are verified first.

        Raises:
            CorruptBundle: it may not serve.
        """
        reference = self.resolve(spec)
        verified_manifest(reference.path)
        with _store_errors(self.root), locked(reference.path.parent):
            self._write_current(reference.name, reference.version, why)
        return reference

    def rollback(self, name: str) -> Reference:
        """Make the version that served before the current one serve again.

        Raises:
            NotFound: there is no earlier one left.
        """
        versions = self.versions(name)
        current = self.current(name)
        serving = self.resolve(name).version
        earlier = [v for v, _, _ in current.history if v != serving and v in versions] if current else []
        if not earlier:
            raise NotFound(f"an earlier version of {name!r} to roll back to", found=f"versions {versions}")
        return self.promote(f"{name}:{earlier[-1]}", why=f"rolled back from {serving}")

    def delete(self, spec: str) -> Reference:
        """Remove one version, which must be named and must not be the one that serves while others exist.

        Raises:
            InvalidInput: no version named, or it serves.
        """
        name, version = split_spec(spec)
        if version is None:
            raise InvalidInput(f"delete {spec}", wanted="a version", mend=f"`nlpdeploy models delete {name}:N`")
        reference = self.resolve(spec)
        with _store_errors(self.root), locked(reference.path.parent), self.staging(name) as grave:
            if self.resolve(name).version == version and len(self.versions(name)) > 1:
                raise InvalidInput(f"delete {spec}", found="the version that serves", mend="promote another one first")
            current = self.current(name)
            if current is None or current.newest < version:
                # Its publisher died before it noted the number, which must not be given again.
                self._write_current(name, self.resolve(name).version, "published")
            # One rename takes it away from readers; the slow removal happens out of their sight.
            reference.path.rename(grave.path / "deleted")
        return reference

    # -- inside -------------------------------------------------------------------------------------------------------

    def _write_current(self, name: str, version: int, why: str) -> None:
        folder = self.root / name
        self._draft_current(name, version, why).rename(folder / CURRENT_NAME)
        sync(folder)

    def _draft_current(self, name: str, version: int, why: str, newest: int = 0) -> Path:
        try:
            old = self.current(name)
        except StoreFailed:
            old = None
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        history: list[Any] = [list(item) for item in old.history] if old else []
        if not old or old.version != version:
            history.append([version, now, why])
        highest = max(newest, old.newest if old else 0, *self.versions(name))
        plain = {"version": version, "newest": highest, "history": history}
        draft = self.root / name / f".{CURRENT_NAME}"
        write_synced(draft, (json.dumps(plain, indent=2) + "\n").encode())
        return draft


@contextlib.contextmanager
def _store_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        mend = (
            "choose a folder you may write with --store or $NLPDEPLOY_STORE"
            if isinstance(error, PermissionError)
            else None
        )
        raise StoreFailed(f"store {root}: {error.strerror or error}", found=error.filename, mend=mend) from error


def _text_or_none(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
