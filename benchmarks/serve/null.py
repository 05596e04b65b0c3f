"""Our server with an engine that answers at once: what is left of a request is the front. ``null BUNDLE HTTP GRPC``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from nlpdeploy.bundle.digest import verified_manifest
from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.runtime.engine import Feed, Outputs
from nlpdeploy.runtime.predictor import TOKENIZER_FILE, Predictor, load
from nlpdeploy.runtime.text import TextEncoder
from nlpdeploy.serve.app import run
from nlpdeploy.serve.settings import Settings


class NullEngine:
    """Keeps the contract of ``runtime/engine.py`` and computes nothing: the first class wins."""

    def __init__(self, entry: EngineEntry, classes: int) -> None:
        self.id = entry.id
        self.layout = entry.layout
        self.inputs = entry.inputs
        self.outputs = entry.outputs
        self._classes = classes

    def run(self, feed: Feed) -> Outputs:
        """See ``Engine.run``."""
        rows = len(feed["first_tokens"]) if "first_tokens" in feed else len(feed["input_ids"])
        logits = np.zeros((rows, self._classes), np.float32)
        logits[:, 0] = 1.0
        return {"logits": logits}

    def close(self) -> None:
        """See ``Engine.close``."""


def main(bundle: str, engine: str, http_port: str, grpc_port: str) -> int:
    """Serve until SIGTERM, with as many lanes as the real engine has here."""
    folder = Path(bundle)
    manifest = verified_manifest(folder)
    real = load(folder, engine=engine, all_lanes=True)
    lanes = len(real.lanes)
    real.close()
    entry, classes = manifest.engine(engine), len(manifest.model.labels)
    first, *others = [NullEngine(entry, classes) for _ in range(lanes)]
    encoder = TextEncoder(folder / TOKENIZER_FILE, manifest.model.max_length)
    settings = Settings(http_port=int(http_port), grpc_port=int(grpc_port))
    return run(settings, [Predictor(manifest, encoder, first, others)])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
