"""Section ``engines``: every ready engine in this process, against eager PyTorch on the same rows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.bundle.specs import ModelSpec
from nlpdeploy.export.baseline import reference_predictor
from nlpdeploy.export.timing import call_seconds
from nlpdeploy.runtime.batching import lay_out, plan, token_budget
from nlpdeploy.runtime.calls import MAX_ROWS
from nlpdeploy.runtime.engine import Engine, Feed
from nlpdeploy.runtime.predictor import load
from nlpdeploy.runtime.text import Row

from .results import print_table
from .samples import Arm, Spread, interleave, ratios, spread
from .subject import Subject

_ROUNDS, _PASSES = 20, 5
_PASS_SECONDS = 1.0
_LEAST_BATCHED, _MOST_BATCHED = 32, 512


@dataclass(frozen=True)
class EngineResult:
    """One engine.

    Attributes:
        batch_1_ms: of one text's call.
        speedup: PyTorch's time over the engine's, of the same text in the same round.
        texts_per_second: in the planner's batches, a sample a pass over the texts.
        throughput_ratio: the engine's over PyTorch's, of the same pass.
    """

    batch_1_ms: Spread
    speedup: Spread
    texts_per_second: Spread
    throughput_ratio: Spread


@dataclass(frozen=True)
class EnginesResult:
    """The section's result.

    Attributes:
        baseline: id of eager PyTorch among ``engines``.
        batched_texts: texts in a pass.
        engines: by id.
    """

    baseline: str
    batched_texts: int
    engines: Mapping[str, EngineResult]


def measure_engines(subject: Subject, *, seconds: float, seed: int) -> EnginesResult:
    """Time each engine alone and in batches, ``seconds`` for each of the two, and print the table.

    Raises:
        InvalidInput: the checkpoint is not there, or not the bundle's.
        NlpdeployError: an engine can't be loaded.
    """
    if not subject.checkpoint.is_dir():
        raise InvalidInput("checkpoint", found=f"no folder {subject.checkpoint}", wanted="--checkpoint CKPT")
    rng = np.random.default_rng(seed)
    reference = reference_predictor(subject.bundle, subject.checkpoint)
    baseline = reference.engine.id
    engines: dict[str, Engine] = {baseline: reference.engine}
    engines |= {name: load(subject.bundle, engine=name).engine for name in subject.ready}
    try:
        rows = reference.encode(subject.texts)
        rows = [rows[i] for i in rng.permutation(len(rows))]
        _warm_up(engines, rows, reference.model, seconds)
        alone = interleave(_alone(engines, rows, reference.model), seconds=seconds, least=_ROUNDS, rng=rng)
        sample = rows[: _affordable(alone)]
        batched = interleave(_batched(engines, sample, reference.model), seconds=seconds, least=_PASSES, rng=rng)
    finally:
        for engine in engines.values():
            engine.close()
    result = EnginesResult(baseline, len(sample), _summed_up(baseline, alone, batched))
    _print(result)
    return result


def _warm_up(engines: Mapping[str, Engine], rows: Sequence[Row], model: ModelSpec, seconds: float) -> None:
    """Run each length once, the first come first, in a quarter of the time: the first call of a shape costs more."""
    stop = time.perf_counter() + seconds / 4
    warm: set[int] = set()
    for row in rows:
        if len(row) in warm or (warm and time.perf_counter() > stop):
            continue
        for engine in engines.values():
            engine.run(lay_out([row], engine.layout, engine.inputs, model.pad_id))
        warm.add(len(row))


def _alone(engines: Mapping[str, Engine], rows: Sequence[Row], model: ModelSpec) -> dict[str, Arm]:
    def arm(engine: Engine) -> Arm:
        def call(index: int) -> float:
            return call_seconds(engine, lay_out([rows[index % len(rows)]], engine.layout, engine.inputs, model.pad_id))

        return call

    return {name: arm(engine) for name, engine in engines.items()}


def _batched(engines: Mapping[str, Engine], rows: Sequence[Row], model: ModelSpec) -> dict[str, Arm]:
    """Arms that give texts a second of one pass over all batches; each has had a pass before."""

    def arm(engine: Engine) -> Arm:
        feeds = planned_feeds(engine, rows, model, MAX_ROWS)
        run_feeds(engine, feeds)
        return lambda index: len(rows) / run_feeds(engine, feeds)

    return {name: arm(engine) for name, engine in engines.items()}


def planned_feeds(engine: Engine, rows: Sequence[Row], model: ModelSpec, max_rows: int) -> list[Feed]:
    """The feeds of the planner's batches of like length."""
    budget = token_budget(engine.layout)
    batches = plan([len(row) for row in rows], max_tokens=budget, max_rows=max_rows, layout=engine.layout)
    return [lay_out([rows[i] for i in batch], engine.layout, engine.inputs, model.pad_id) for batch in batches]


def run_feeds(engine: Engine, feeds: Sequence[Feed]) -> float:
    """Seconds that the engine's calls take one after the other."""
    return math.fsum(call_seconds(engine, feed) for feed in feeds)


def _affordable(alone: Mapping[str, Sequence[float]]) -> int:
    """How many texts the slowest engine runs in about a second, if a batch gained nothing."""
    slowest = max(spread(taken).median for taken in alone.values())
    return max(_LEAST_BATCHED, min(_MOST_BATCHED, int(_PASS_SECONDS / slowest)))


def _summed_up(
    baseline: str, alone: Mapping[str, Sequence[float]], batched: Mapping[str, Sequence[float]]
) -> dict[str, EngineResult]:
    return {
        name: EngineResult(
            batch_1_ms=spread(alone[name], 1e3),
            speedup=ratios(alone[baseline], alone[name]),
            texts_per_second=spread(batched[name]),
            throughput_ratio=ratios(batched[name], batched[baseline]),
        )
        for name in alone
    }


def _print(result: EnginesResult) -> None:
    rounds = next(iter(result.engines.values())).batch_1_ms.count
    passes = next(iter(result.engines.values())).texts_per_second.count
    print_table(
        f"engines, in process: {rounds} rounds of one text, {passes} passes over {result.batched_texts} texts in "
        "batches; median [quartiles]",
        ("engine", "p50 ms", "p95 ms", "times faster", "texts/s", f"times {result.baseline}"),
        [
            (
                name,
                f"{engine.batch_1_ms.median:.2f}",
                f"{engine.batch_1_ms.p95:.2f}",
                f"{engine.speedup:.2f}",
                f"{engine.texts_per_second:.0f}",
                f"{engine.throughput_ratio:.2f}",
            )
            for name, engine in result.engines.items()
        ],
    )
