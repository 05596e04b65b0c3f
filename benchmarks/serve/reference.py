"""Labels of the untouched checkpoint, one text a call; kept by the digests of weights and texts.

``reference BUNDLE CHECKPOINT IN OUT`` runs in a process of its own, so that the benchmark's has no PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..subject import HERE, WORK
from .plans import Served

SECONDS = 900.0


def reference_labels(model: Served, texts: Sequence[str]) -> tuple[list[str], str | None]:
    """The checkpoint's label of each text; none, and why, where it can't be asked."""
    if not model.checkpoint.is_dir():
        return [], f"no checkpoint at {model.checkpoint}; name it with --checkpoint"
    key = json.dumps([sorted(model.manifest.source.weights.items()), list(model.manifest.model.labels), list(texts)])
    folder = WORK / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if not kept.exists():
        given, taken = folder / "texts.json", folder / "labels.json"
        given.write_text(json.dumps(list(texts)), encoding="utf-8")
        print(f"asking the checkpoint {len(texts)} texts, one by one ...", flush=True)
        command = [sys.executable, "-m", "benchmarks.serve.reference", str(model.bundle), str(model.checkpoint)]
        try:
            done = subprocess.run(
                [*command, str(given), str(taken)],
                cwd=HERE.parent,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [], f"the checkpoint took longer than {SECONDS:.0f} s"
        if done.returncode:
            return [], (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:300]
        taken.replace(kept)
    labels: list[str] = json.loads(kept.read_text(encoding="utf-8"))
    return labels, None


def main(bundle: str, checkpoint: str, given: str, taken: str) -> None:
    """Ask and write."""
    from nlpdeploy.export.baseline import reference_predictor

    predictor = reference_predictor(Path(bundle), Path(checkpoint))
    texts: list[str] = json.loads(Path(given).read_text(encoding="utf-8"))
    labels = [predictor([text])[0].label for text in texts]
    Path(taken).write_text(json.dumps(labels, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
