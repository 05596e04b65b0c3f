"""Which engine serves: the fastest on the user's own texts that keeps the accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..bundle.errors import ParityFailed
from ..bundle.manifest import EngineEntry
from ..bundle.specs import EngineState


def choose(entries: Sequence[EngineEntry], *, max_accuracy_drop: float) -> tuple[str, str]:
    """The id of the engine that serves, and why it does.

    Among the ready engines those stay whose measured drop is at most ``max_accuracy_drop``; where nothing was labelled
    all of them stay. Of these the one with the least median time at batch 1 is taken, the first of equals.

    Raises:
        ParityFailed: none is ready, or all of them lose too much; with each engine's reason.
    """
    ready = [entry for entry in entries if entry.state is EngineState.READY]
    fit = [entry for entry in ready if _drop(entry) <= max_accuracy_drop]
    if not fit:
        found = "; ".join(f"{entry.id}: {_failing(entry)}" for entry in entries)
        raise ParityFailed(
            "no engine may serve",
            found=found or "no engines",
            wanted=f"one that is ready and loses at most {max_accuracy_drop:g} of accuracy",
        )
    best = min(fit, key=_median)
    return best.id, _sentence(best, ready, max_accuracy_drop)


def _drop(entry: EngineEntry) -> float:
    return entry.accuracy.drop if entry.accuracy else -math.inf


def _median(entry: EngineEntry) -> float:
    return entry.latency.p50_ms if entry.latency else math.inf


def _failing(entry: EngineEntry) -> str:
    if entry.state is EngineState.READY:
        return f"loses {_drop(entry):.4f}"
    return f"{entry.state}, {entry.reason}" if entry.reason else str(entry.state)


def _sentence(best: EngineEntry, ready: Sequence[EngineEntry], max_accuracy_drop: float) -> str:
    parts = [f"{best.id} serves: "]
    fit = [entry for entry in ready if _drop(entry) <= max_accuracy_drop]
    parts.append("the only engine that may" if len(fit) == 1 else f"the fastest of {len(fit)} that may")
    if best.latency:
        parts.append(f", p50 {best.latency.p50_ms:.2f} ms at batch 1, {best.latency.speedup:.1f} x the checkpoint")
    if best.accuracy:
        gain = 0.0 - round(best.accuracy.drop, 4)  # from 0.0, so that no drop isn't "-0.0000"
        parts.append(f"; {best.accuracy.measure} {best.accuracy.accuracy:.4f}, {gain:+.4f} against it")
        parts.append(f" (at most -{max_accuracy_drop:g} is allowed)")
    else:
        parts.append("; accuracy was not measured, as no labels were given")
    parts += [
        f"; {entry.id} is faster but loses {_drop(entry):.4f}"
        for entry in ready
        if entry not in fit and _median(entry) < _median(best)
    ]
    return "".join(parts)
