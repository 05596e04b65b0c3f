"""A text-classification ``.mar`` of another maker -> the checkpoint in it, ready for the normal export.

Entries are read, never run: Python files stay in the archive, and the weights go to the export, which reads pickles as
plain tensors or not at all.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..bundle.errors import CorruptBundle, InvalidInput, NotFound, Unsupported
from .archived import MAR_MANIFEST
from .zipped import open_zip, read_entry

LABELS_NAME = "index_to_name.json"
SETUP_NAME = "setup_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""As Transformers names whole weights."""
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")
_KEPT_SUFFIXES = frozenset({".json", ".txt", ".model"})
_NOT_CHECKPOINT = frozenset({LABELS_NAME, SETUP_NAME})
_GENERIC = re.compile(r"LABEL_\d+")
_MEND = "say which are right with --labels FILE, one a line in order of the classes"


@dataclass(frozen=True)
class Migrated:
    """What an archive held.

    Attributes:
        name: the model's name in the archive.
        checkpoint: the folder with its checkpoint.
        labels: labels that the archive's handler named, where the checkpoint names none of its own.
        notes: what the handler's settings said that an export doesn't take over, one sentence each.
    """

    name: str
    checkpoint: Path
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def unpack_checkpoint(mar: Path, target: Path, *, labels_given: bool = False) -> Migrated:
    """Find the Transformers checkpoint in an archive and unpack its files, and nothing else.

    Args:
        mar: the archive.
        target: the folder to make.
        labels_given: the caller names the labels, so that the archive's need not agree.

    Raises:
        NotFound, InvalidInput: no such file, no ``.mar``, or several checkpoints in it.
        Unsupported: it holds TorchScript or a model of its own code instead of a Transformers checkpoint.
        InvalidInput: its labels contradict the checkpoint's.
        CorruptBundle: an entry is damaged.
    """
    manifest = _json_entry(mar, MAR_MANIFEST)
    model = manifest.get("model") if isinstance(manifest, Mapping) else None
    if not isinstance(model, Mapping):
        raise InvalidInput(f"{MAR_MANIFEST} of {mar}", wanted="a model, as in every .mar")
    with open_zip(mar) as archive:
        entries = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
        serialized = str(model.get("serializedFile") or "")
        root, config = _checkpoint_root(mar, entries, serialized)
        labels = None if labels_given else _labels(mar, entries, config)
        target.mkdir(parents=True)
        for path, name in _files(entries, root, serialized).items():
            _unpack(archive, mar, entries[path], target / name)
    return Migrated(str(model.get("modelName") or mar.stem), target, labels, _notes(mar, entries))


def _checkpoint_root(
    mar: Path, entries: Mapping[str, zipfile.ZipInfo], serialized: str
) -> tuple[PurePosixPath, Mapping[str, Any]]:
    """The folder in the archive that has a Transformers configuration with weights beside it, and the configuration."""
    found = {}
    for path in entries:
        if PurePosixPath(path).name == "config.json":
            config = _json_entry(mar, path)
            root = PurePosixPath(path).parent
            if isinstance(config, Mapping) and config.get("model_type") and _weights(entries, root, serialized):
                found[root] = config
    if len(found) > 1:
        raise InvalidInput(f"checkpoints in {mar}", found=", ".join(map(str, found)), wanted="one")
    if not found:
        listed = ", ".join(sorted(path for path in entries if path.endswith((".pt", ".pth", ".bin", ".safetensors"))))
        raise Unsupported(
            f"{mar} holds no Transformers checkpoint",
            found=listed or "no weights",
            wanted="config.json with model.safetensors or pytorch_model.bin beside it",
            mend="export the checkpoint that it was packed from with `nlpdeploy export CKPT`",
        )
    return next(iter(found.items()))


def _weights(entries: Mapping[str, zipfile.ZipInfo], root: PurePosixPath, serialized: str) -> dict[str, str]:
    """Weight files in a folder: path in the archive -> the name that Transformers looks for."""
    named = {}
    for path in entries:
        place = PurePosixPath(path)
        if place.parent == root and (place.name in WEIGHTS or _SHARD.fullmatch(place.name)):
            named[path] = place.name
    own = PurePosixPath(serialized)
    if not named and own.suffix in (".safetensors", ".bin") and str(root / own.name) in entries:
        named[str(root / own.name)] = WEIGHTS[0] if own.suffix == ".safetensors" else WEIGHTS[1]
    return named


def _files(entries: Mapping[str, zipfile.ZipInfo], root: PurePosixPath, serialized: str) -> dict[str, str]:
    """What makes up the checkpoint: path in the archive -> file name."""
    files = _weights(entries, root, serialized)
    for path in entries:
        place = PurePosixPath(path)
        if place.parent == root and place.suffix in _KEPT_SUFFIXES and place.name not in _NOT_CHECKPOINT:
            files[path] = place.name
    return files


def _unpack(archive: zipfile.ZipFile, mar: Path, entry: zipfile.ZipInfo, file: Path) -> None:
    try:
        with archive.open(entry) as source, file.open("xb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise CorruptBundle(f"archive {mar} ({error})", changed=(entry.filename,), mend=None) from None


def _labels(mar: Path, entries: Mapping[str, zipfile.ZipInfo], config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The labels of ``index_to_name.json``, where the checkpoint's are absent or generic.

    Raises:
        InvalidInput: they contradict those of the checkpoint, or are none.
    """
    paths = [path for path in entries if PurePosixPath(path).name == LABELS_NAME]
    if not paths:
        return None
    named = _json_entry(mar, paths[0])
    if isinstance(named, Mapping) and isinstance(named.get("mapping"), Mapping):
        named = named["mapping"]
    try:
        # Image classifiers have [code, name] here; the last is what a person reads.
        by_index = {int(key): str(value[-1] if isinstance(value, list) else value) for key, value in named.items()}
        labels = tuple(by_index[index] for index in range(len(by_index)))
    except (AttributeError, TypeError, ValueError, KeyError, IndexError):
        raise InvalidInput(f"{paths[0]} of {mar}", wanted="labels by index from 0", mend=_MEND) from None
    own = config.get("id2label")
    if isinstance(own, Mapping) and own:
        theirs = {int(key): str(value) for key, value in own.items() if str(key).isdecimal()}
        for index in range(max(len(theirs), len(labels))):
            mine = labels[index] if index < len(labels) else "nothing"
            other = theirs.get(index, "nothing")
            if mine != other and not (_GENERIC.fullmatch(other) and mine != "nothing"):
                raise InvalidInput(
                    f"labels of {mar}: class {index} is {mine!r} in {LABELS_NAME} and {other!r} in config.json",
                    found=f"{len(labels)} and {len(theirs)} labels", wanted="the same", mend=_MEND,
                )  # fmt: skip
        if tuple(theirs.get(index) for index in range(len(labels))) == labels:
            return None
    return labels


def _notes(mar: Path, entries: Mapping[str, zipfile.ZipInfo]) -> tuple[str, ...]:
    """Settings of TorchServe's own Transformers handler that change answers."""
    paths = [path for path in entries if PurePosixPath(path).name == SETUP_NAME]
    setup = _json_entry(mar, paths[0]) if paths else None
    if not isinstance(setup, Mapping):
        return ()
    notes = []
    if setup.get("max_length"):
        notes.append(f"{SETUP_NAME} cuts texts at {setup['max_length']} tokens; the bundle, where the tokenizer does")
    if "do_lower_case" in setup:
        notes.append(f"do_lower_case of {SETUP_NAME} is {setup['do_lower_case']}; here the tokenizer's files decide")
    return tuple(notes)


def _json_entry(mar: Path, path: str) -> Any:
    raw = read_entry(mar, path)
    if raw is None:
        raise NotFound(f"{path} in {mar}", wanted="a .mar as torch-model-archiver packs it")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{path} of {mar} is not JSON") from None
