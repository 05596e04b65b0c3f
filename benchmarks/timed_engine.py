"""Our server with an engine of known service time: ``python -m benchmarks.timed_engine BUNDLE``. It says its ports."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

from nlpdeploy.bundle.digest import verified_manifest
from nlpdeploy.bundle.evidence import LatencyCurve
from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.bundle.specs import Layout, TensorSpec
from nlpdeploy.runtime.engine import Feed, Outputs
from nlpdeploy.runtime.predictor import TOKENIZER_FILE, Predictor
from nlpdeploy.runtime.text import TextEncoder
from nlpdeploy.serve.app import Settings, run

BASE_SECONDS, ROW_SECONDS = 0.004, 0.002


class TimedEngine:
    """Keeps the contract of ``runtime/engine.py``; sleeps 4 ms a call and 2 ms a row, and the first class wins."""

    layout = Layout.PADDED
    inputs = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask"))

    def __init__(self, entry: EngineEntry, classes: int) -> None:
        self.id = entry.id
        self.outputs = (TensorSpec("logits", "FP32", (-1, classes)),)
        self._classes = classes

    def run(self, feed: Feed) -> Outputs:
        """See ``Engine.run``."""
        rows = len(feed["input_ids"])
        time.sleep(BASE_SECONDS + ROW_SECONDS * rows)
        logits = np.zeros((rows, self._classes), np.float32)
        logits[:, 0] = 1.0
        return {"logits": logits}

    def close(self) -> None:
        """See ``Engine.close``."""


def main(bundle: str) -> int:
    """Serve until SIGTERM, on one lane."""
    folder = Path(bundle)
    manifest = verified_manifest(folder)
    curve = LatencyCurve(base=BASE_SECONDS, per_token=0.0, per_row=ROW_SECONDS, per_square=0.0)
    entry = dataclasses.replace(manifest.engine(None), layout=Layout.PADDED, curve=curve)
    manifest = dataclasses.replace(manifest, engines=(entry,), default_engine=entry.id)
    engine = TimedEngine(entry, len(manifest.model.labels))
    encoder = TextEncoder(folder / TOKENIZER_FILE, manifest.model.max_length)
    settings = Settings(http_port=0, grpc_port=0, json_line=True)
    return run(settings, [Predictor(manifest, encoder, engine)])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
