"""``python -m benchmarks.gpu CKPT BUNDLE``: a bundle's GPU engines against PyTorch on the same card, in one run.

For each shape all contenders are called in turn, arrays of the host in and out, and their medians compared: ratios are
of one run. Without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nlpdeploy.bundle.digest import verified_manifest
from nlpdeploy.bundle.errors import EngineUnavailable, NlpdeployError
from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.bundle.specs import EngineState
from nlpdeploy.export.checkpoint import Checkpoint, load_torch, read_checkpoint
from nlpdeploy.runtime.catalogue import load_engine
from nlpdeploy.runtime.engine import EngineOptions, Feed
from nlpdeploy.runtime.gpus import find_gpus
from nlpdeploy.runtime.predictor import bundle_folder

BATCHES = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (16, 32, 64, 128, 256, 512)
RUNTIMES = ("tensorrt", "tensorrt_rtx", "onnxruntime-cuda", "onnxruntime-tensorrt")
BASELINE = "torch fp32"
WARM, ROUNDS = 10, 50
GRAPHS_OFF = ", no CUDA graphs"

Call = Callable[[Feed], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 also where there is no GPU, 2 for wrong input."""
    parser = _parser()
    options = parser.parse_args(arguments)
    found = find_gpus()
    if found.problem:
        print(f"skipped: {found.problem}")
        return 0
    if options.bundle is None:
        parser.error("give the checkpoint and the folder of its bundle")
    try:
        result = measure(options.checkpoint, options.bundle, options.rounds)
    except NlpdeployError as error:
        print(f"error: {error.line()}", file=sys.stderr)
        return 2
    print(table(result["shapes"]))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(checkpoint_folder: Path, bundle: Path, rounds: int) -> dict[str, Any]:
    """Median milliseconds by shape and contender, and the device memory that each took when it was loaded.

    Raises:
        EngineUnavailable: the bundle has no ready engine for GPUs.
    """
    import torch

    checkpoint = read_checkpoint(checkpoint_folder)
    folder = bundle_folder(bundle)
    manifest = verified_manifest(folder)
    ready = [e for e in manifest.engines if e.runtime in RUNTIMES and e.state is EngineState.READY]
    if not ready:
        raise EngineUnavailable(f"engines for GPUs in {folder}", found="none ready", wanted="export it on this machine")
    memory: dict[str, int] = {}
    calls: dict[str, Call] = {}
    for name, make in _makers(checkpoint, ready, folder).items():
        before = torch.cuda.mem_get_info()[0]
        calls[name] = make()
        calls[name](_feed(checkpoint, 8, 128))
        memory[name] = before - torch.cuda.mem_get_info()[0]
    shapes = {}
    for length in (length for length in LENGTHS if length <= manifest.model.max_length):
        for batch in BATCHES:
            shapes[f"{batch}x{length}"] = medians(calls, _feed(checkpoint, batch, length), rounds)
    gpu = find_gpus().devices[0]
    return {"gpu": gpu.name, "torch": torch.__version__, "memory_bytes": memory, "shapes": shapes}


def medians(calls: Mapping[str, Call], feed: Feed, rounds: int) -> dict[str, float]:
    """Median milliseconds of a call by contender, all of them in turn in each round."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order = np.random.default_rng(0)
    for step in range(WARM + rounds):
        for index in order.permutation(len(calls)):
            name = list(calls)[index]
            started = time.perf_counter()
            calls[name](feed)
            if step >= WARM:
                taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(times) for name, times in taken.items()}


def table(shapes: Mapping[str, Mapping[str, float]]) -> str:
    """A line a shape: the baseline's milliseconds, and how many times as fast the others were."""
    names = [name for name in next(iter(shapes.values())) if name != BASELINE]
    lines = [f"{'shape':>8}  {BASELINE + ' ms':>14}  " + "  ".join(f"{name:>20}" for name in names)]
    for shape, times in shapes.items():
        ratios = "  ".join(f"{times[BASELINE] / times[name]:>18.2f} x" for name in names)
        lines.append(f"{shape:>8}  {times[BASELINE]:>14.3f}  {ratios}")
    return "\n".join(lines)


def _makers(checkpoint: Checkpoint, entries: Sequence[EngineEntry], folder: Path) -> dict[str, Callable[[], Call]]:
    makers: dict[str, Callable[[], Call]] = {
        BASELINE: lambda: _torch(checkpoint, half=False),
        "torch fp16": lambda: _torch(checkpoint, half=True),
        "torch.compile fp16": lambda: _torch(checkpoint, half=True, compiled=True),
    }
    for entry in entries:
        makers[entry.id] = lambda entry=entry: load_engine(entry, folder, EngineOptions(1)).run  # type: ignore[misc]
        if entry.runtime.startswith("tensorrt"):
            makers[entry.id + GRAPHS_OFF] = lambda entry=entry: _without_graphs(entry, folder)  # type: ignore[misc]
    return makers


def _without_graphs(entry: EngineEntry, folder: Path) -> Call:
    engine = load_engine(entry, folder, EngineOptions(1))

    def call(feed: Feed) -> Any:
        os.environ["NLPDEPLOY_CUDA_GRAPHS"] = "0"
        try:
            return engine.run(feed)
        finally:
            del os.environ["NLPDEPLOY_CUDA_GRAPHS"]

    return call


def _torch(checkpoint: Checkpoint, *, half: bool, compiled: bool = False) -> Call:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    model = load_torch(checkpoint, attention="sdpa").cuda()
    model = model.half() if half else model
    run: Any = torch.compile(model) if compiled else model

    def call(feed: Feed) -> Any:
        with torch.inference_mode():
            return run(**{name: torch.from_numpy(value).cuda() for name, value in feed.items()}).logits.float().cpu()

    return call


def _feed(checkpoint: Checkpoint, batch: int, length: int) -> Feed:
    ids = np.random.default_rng(batch * length).integers(5, 100, (batch, length))
    fill = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: fill[name] for name in checkpoint.inputs}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="the checkpoint that the bundle came from")
    parser.add_argument("bundle", type=Path, nargs="?", help="folder of a bundle that was exported on this machine")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
