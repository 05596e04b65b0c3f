"""What an archive says of itself, read without unpacking it or running anything in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..bundle.errors import EngineUnavailable, InvalidInput
from .sealed import SEALS_NAME
from .settings import ModelSettings
from .zipped import check_zip, read_entry

MAR_MANIFEST = "MAR-INF/MANIFEST.json"


@dataclass(frozen=True)
class ArchivedModel:
    """An archive's model.

    Attributes:
        path: the archive.
        name: the model's name.
        version: its version.
        settings: those of TorchServe's settings that it names, by TorchServe's names.
        sealed: whether nlpdeploy packed it, so that every file has been checked.
    """

    path: Path
    name: str
    version: str
    settings: Mapping[str, int]
    sealed: bool


def read_archived(path: Path) -> ArchivedModel:
    """Read an archive's description; one that nlpdeploy packed is checked file by file.

    Raises:
        NotFound, InvalidInput: no such file, no ``.mar``, or it has no model.
        CorruptBundle: it is not what was packed.
        EngineUnavailable: PyYAML is missing.
    """
    sealed = read_entry(path, SEALS_NAME) is not None
    if sealed:
        check_zip(path)
    try:
        model = json.loads(read_entry(path, MAR_MANIFEST) or b"null")["model"]
        name, version = str(model["modelName"]), str(model.get("modelVersion") or "1.0")
        config = model.get("configFile")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidInput(f"{MAR_MANIFEST} of {path}", wanted="a model with its name, as in every .mar") from None
    return ArchivedModel(path, name, version, _settings(path, config), sealed)


def _settings(path: Path, config: str | None) -> dict[str, int]:
    """Those of TorchServe's settings that the archive names."""
    try:
        import yaml
    except ImportError:
        mend = "pip install 'nlpdeploy[torchserve]'"
        raise EngineUnavailable("TorchServe here: package yaml is missing", mend=mend) from None
    raw = read_entry(path, config) if config else None
    try:
        found = yaml.safe_load(raw) if raw else {}
    except yaml.YAMLError:
        raise InvalidInput(f"{config} of {path}", wanted="YAML") from None
    known = ModelSettings().for_torchserve()
    return {key: found[key] for key in known if isinstance(found, dict) and type(found.get(key)) is int}
