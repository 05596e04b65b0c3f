"""Bundle -> ``.mar`` for TorchServe, the same bytes for the same bundle and settings.

MAR-INF/MANIFEST.json          TorchServe's manifest, as torch-model-archiver writes it
MAR-INF/digests.json           SHA-256 of every other entry
model-config.yaml              TorchServe's settings of the model, and the worker's
nlpdeploy_handler.py           the entry point
nlpdeploy_vendored/…           the rooms that it needs, so that a worker need not have nlpdeploy
bundle/…                       the bundle, its folders kept, narrowed to one engine
checkpoint/…                   only with a reference: the untouched checkpoint, in place of the engine
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..bundle.digest import file_digest, verified_manifest
from ..bundle.errors import EngineUnavailable, InvalidInput, NotFound
from ..bundle.manifest import MANIFEST_NAME, EngineEntry, Manifest
from ..bundle.names import Reference
from ..bundle.specs import EngineState
from ..bundle.staging import sync
from ..bundle.store import Store
from ..runtime.lanes import fill_cores
from .archived import MAR_MANIFEST
from .sealed import BUNDLE_FOLDER, CHECKPOINT_FOLDER, SEALS_NAME, seals
from .settings import CONFIG_NAME, ModelSettings, config_yaml
from .zipped import Contents, write_zip

ENTRY_POINT = "nlpdeploy_handler.py"
VENDORED = "nlpdeploy_vendored"
ARCHIVER_VERSION = "0.12.0"
"""Of torch-model-archiver, whose layout this is."""
REFERENCE_SUFFIX = "-reference"
ROOMS = ("bundle", "runtime")
WORKER_MODULES = ("__init__", "bodies", "handler", "metrics", "reference", "replies", "sealed", "settings")
"""What of this room runs in a worker."""
CHECKPOINT_SUFFIXES = frozenset({".json", ".txt", ".model"})
"""Of a checkpoint's files beside its weights: configuration, vocabularies. What only training needs stays out."""


@dataclass(frozen=True)
class ArchiveRequest:
    """What to pack.

    Attributes:
        bundle: the version.
        settings: TorchServe's settings of the model.
        engine: id of the engine; by default the bundle's.
        vendor: pack the rooms that the handler needs.
        checkpoint: pack this untouched checkpoint with an eager PyTorch handler instead of an engine.
    """

    bundle: Reference
    settings: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    engine: str | None = None
    vendor: bool = True
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Packed:
    """An archive ready to be written.

    Attributes:
        name: the model's name in TorchServe.
        version: its version there.
        engine: what answers.
        digest: of the bundle.
        settings: TorchServe's settings of the model, the workers chosen.
        contents: by path.
    """

    name: str
    version: str
    engine: str
    digest: str
    settings: ModelSettings
    contents: Contents

    @property
    def file_name(self) -> str:
        """``<name>-<version>.mar``."""
        return f"{self.name}-{self.version}.mar"


def pack(request: ArchiveRequest) -> Packed:
    """Gather what goes into the archive; every file of the bundle is verified first.

    Raises:
        CorruptBundle: the bundle is not what was published.
        NotFound, EngineUnavailable: no such engine, or it is not ready.
        InvalidInput: settings out of range, or the checkpoint is not the one that the bundle came from.
    """
    settings = request.settings.checked()
    manifest = verified_manifest(request.bundle.path)
    if request.checkpoint is None:
        entry = _ready_entry(manifest, request.engine)
        name, engine, handler = request.bundle.name, entry.id, "handler:BundleHandler"
        settings = dataclasses.replace(settings, workers=settings.workers or measured_workers(entry))
        model = _narrowed(request.bundle.path, manifest, entry)
    else:
        if request.engine:
            raise InvalidInput("--engine", found="given", wanted="absent beside --reference, which has no engine")
        name, engine, handler = request.bundle.name + REFERENCE_SUFFIX, "torch-fp32", "reference:ReferenceHandler"
        model = _reference(request.bundle.path, manifest, request.checkpoint)
    version = str(request.bundle.version)
    contents: dict[str, bytes | Path] = {
        MAR_MANIFEST: _mar_manifest(name, version, manifest.created),
        CONFIG_NAME: config_yaml(settings, {"engine": None if request.checkpoint else engine}).encode(),
        ENTRY_POINT: _entry_point(VENDORED if request.vendor else "nlpdeploy", handler),
        **(_vendored() if request.vendor else {}),
        **model,
    }
    contents[SEALS_NAME] = seals(contents)
    return Packed(name, version, engine, manifest.digest, settings, contents)


def measured_workers(entry: EngineEntry) -> int:
    """As many workers as the threads that answered a lone text fastest fitted into the cores when it was measured.

    They compute side by side, and while one's batch is on the way another's is in its engine. What stands in the bundle
    decides, not this machine: an archive packed elsewhere is the same.
    """
    cores, threads = entry.options.get("cores"), entry.options.get("lone_threads")
    if not isinstance(cores, int) or not isinstance(threads, int) or threads < 1:
        return 1
    return fill_cores(threads, cores)[0]


def write_archive(packed: Packed, store: Store, target: Path | None = None) -> Path:
    """Write an archive in one step: a reader sees the file that was there, or all of the new one.

    Args:
        packed: as gathered.
        store: where it goes, as ``<name>-<version>.mar``.
        target: goes there instead.

    Raises:
        StoreFailed: the store can't be written.
        NotFound: the target's folder doesn't exist.
    """
    if target is None:
        with store.staging(packed.name) as staging:
            return _replace(store.root / packed.file_name, staging.path / packed.file_name, packed.contents)
    if not target.parent.is_dir():
        raise NotFound(
            f"folder {target.parent} for the archive", found="no such folder", mend="make it, or give another --output"
        )
    with tempfile.TemporaryDirectory(prefix=".archive-", dir=target.parent) as folder:
        return _replace(target, Path(folder) / packed.file_name, packed.contents)


def _replace(path: Path, draft: Path, contents: Contents) -> Path:
    write_zip(draft, contents)
    sync(draft)
    os.replace(draft, path)
    sync(path.parent)
    return path


def _ready_entry(manifest: Manifest, engine: str | None) -> EngineEntry:
    entry = manifest.engine(engine)
    if entry.state is not EngineState.READY:
        raise EngineUnavailable(f"engine {entry.id} is {entry.state}", found=entry.reason, wanted="ready")
    return entry


def _narrowed(folder: Path, manifest: Manifest, entry: EngineEntry) -> dict[str, bytes | Path]:
    """The bundle with one engine and a manifest of its own, which says what it was derived from."""
    own = f"{Path(entry.file or '').parent.as_posix()}/"
    others = tuple(f"engines/{other.id}/" for other in manifest.engines if f"engines/{other.id}/" != own)
    files = {path: digest for path, digest in manifest.files.items() if not path.startswith(others)}
    narrowed = dataclasses.replace(
        manifest, engines=(entry,), default_engine=entry.id, files=files, derived_from=manifest.digest
    ).sealed()
    packed: dict[str, bytes | Path] = {f"{BUNDLE_FOLDER}/{path}": folder / path for path in files}
    return {**packed, f"{BUNDLE_FOLDER}/{MANIFEST_NAME}": narrowed.to_bytes()}


def _reference(folder: Path, manifest: Manifest, checkpoint: Path) -> dict[str, bytes | Path]:
    """The checkpoint's own files and, for labels and limits, the bundle's manifest."""
    if not checkpoint.is_dir():
        raise NotFound(f"checkpoint {checkpoint}", wanted="a folder")
    weights = manifest.source.weights
    for name, digest in weights.items():
        file = checkpoint / name
        found = file_digest(file)[:12] if file.is_file() else "no such file"
        if found != digest[:12]:
            raise InvalidInput(
                f"checkpoint {checkpoint} is not the one that {manifest.name} came from: {name}",
                found=found, wanted=digest[:12], mend=f"it was exported from {manifest.source.path}",
            )  # fmt: skip
    names = {path.name for path in checkpoint.iterdir() if path.is_file() and path.suffix in CHECKPOINT_SUFFIXES}
    packed: dict[str, bytes | Path] = {f"{CHECKPOINT_FOLDER}/{n}": checkpoint / n for n in names | weights.keys()}
    return {**packed, f"{BUNDLE_FOLDER}/{MANIFEST_NAME}": folder / MANIFEST_NAME}


def _mar_manifest(name: str, version: str, created: str) -> bytes:
    # The time is the bundle's: an archive packed twice is the same archive.
    plain = {
        "createdOn": dt.datetime.fromisoformat(created).strftime("%d/%m/%Y %H:%M:%S"),
        "runtime": "python",
        "model": {"modelName": name, "handler": ENTRY_POINT, "modelVersion": version, "configFile": CONFIG_NAME},
        "archiverVersion": ARCHIVER_VERSION,
    }
    return json.dumps(plain, indent=2).encode()


def _entry_point(package: str, handler: str) -> bytes:
    module, name = handler.split(":")
    return (
        f'"""Where TorchServe enters this archive, which nlpdeploy packed."""\n\n'
        f"from {package}.handlers.{module} import {name}\n\n\n"
        f"class ArchiveHandler({name}):\n"
        f'    """The only class of this module, as TorchServe wants it."""\n'
    ).encode()


def _vendored() -> dict[str, bytes | Path]:
    """The pure-Python rooms, under a name of their own so that an installed nlpdeploy is never mixed in."""
    here = Path(__file__).parent
    files = {f"handlers/{name}.py": here / f"{name}.py" for name in WORKER_MODULES}
    for room in ROOMS:
        files |= {f"{room}/{path.name}": path for path in (here.parent / room).glob("*.py")}
    # Read now: what is digested is what is written, whoever edits the code meanwhile.
    packed: dict[str, bytes | Path] = {f"{VENDORED}/{path}": file.read_bytes() for path, file in files.items()}
    return {**packed, f"{VENDORED}/__init__.py": b""}
