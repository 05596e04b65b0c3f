"""Engines that were built before, by what they were built from: a second export builds none of them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from ...bundle.digest import file_digest
from .tensorrt_build import BuildOptions, Built

PLAN, LAYERS, NOTES = "model.engine", "layers.txt", "notes.json"
FORM = 2
"""Counts up where the meaning of a cached file changes."""


def cache_folder() -> Path:
    """``$NLPDEPLOY_CACHE``, else ``nlpdeploy`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; may not exist."""
    own = os.environ.get("NLPDEPLOY_CACHE")
    if own:
        return Path(own) / "tensorrt"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nlpdeploy" / "tensorrt"


def cache_key(graph: Path, options: BuildOptions, version: str, gpu: str) -> str:
    """SHA-256 over graph, options, the builder's version and the GPU that it is built for; hexadecimal."""
    external = sorted(path for path in graph.parent.glob(f"{graph.name}.*") if path.is_file())
    parts = [file_digest(path) for path in (graph, *external)]
    text = json.dumps([FORM, parts, asdict(options), version, gpu], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def cached(key: str) -> Built | None:
    """What was built under a key; None where nothing was, or where its files are not as they were written."""
    folder = cache_folder() / key
    try:
        notes = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        plan, layers = (folder / PLAN).read_bytes(), (folder / LAYERS).read_text(encoding="utf-8")
        if hashlib.sha256(plan + layers.encode()).hexdigest() != notes["sha256"]:
            return None
        return Built(plan, layers, notes["weights_bytes"], notes["scratch_bytes"], tuple(notes["warnings"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(key: str, built: Built) -> None:
    """Remember a build; a cache that can't be written is no error."""
    root = cache_folder()
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root))
        try:
            (draft / PLAN).write_bytes(built.plan)
            (draft / LAYERS).write_text(built.layers, encoding="utf-8")
            notes = {
                "sha256": hashlib.sha256(built.plan + built.layers.encode()).hexdigest(),
                "weights_bytes": built.weights_bytes,
                "scratch_bytes": built.scratch_bytes,
                "warnings": list(built.warnings),
            }
            (draft / NOTES).write_text(json.dumps(notes), encoding="utf-8")
            shutil.rmtree(root / key, ignore_errors=True)
            draft.rename(root / key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
