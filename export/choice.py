"""Which engine serves: the one that is quick alone and under load on the user's own texts, and keeps the accuracy.

An endpoint is idle at night, where a text waits for its own call alone, and crowded at noon, where it waits for its
share of a core. The two are weighed as ratios by their geometric mean, p50 of a lone text x time of a core that a text
takes in batches: an engine that is 10 % slower alone and takes half the time under load is the better one, and the
order doesn't depend on how fast the machine is. By p50 alone engines would serve that break down at half the load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..bundle.errors import ParityFailed
from ..bundle.evidence import Latency
from ..bundle.manifest import EngineEntry
from ..bundle.specs import EngineState


def choose(entries: Sequence[EngineEntry], *, max_accuracy_drop: float) -> tuple[str, str]:
    """The id of the engine that serves, and why it does.

    Among the ready engines those stay whose measured drop is at most ``max_accuracy_drop``; where nothing was labelled
    all of them stay. Of these the one with the least geometric mean of the two times is taken, the first of equals.

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
    best = min(fit, key=_weight)
    return best.id, _sentence(best, ready, max_accuracy_drop)


def _drop(entry: EngineEntry) -> float:
    return entry.accuracy.drop if entry.accuracy else -math.inf


def _weight(entry: EngineEntry) -> float:
    """Geometric mean of the time alone and the time under load, in milliseconds."""
    return math.sqrt(entry.latency.p50_ms * entry.latency.busy_ms) if entry.latency else math.inf


def _failing(entry: EngineEntry) -> str:
    if entry.state is EngineState.READY:
        return f"loses {_drop(entry):.4f}"
    return f"{entry.state}, {entry.reason}" if entry.reason else str(entry.state)


def _sentence(best: EngineEntry, ready: Sequence[EngineEntry], max_accuracy_drop: float) -> str:
    parts = [f"{best.id} serves: "]
    fit = [entry for entry in ready if _drop(entry) <= max_accuracy_drop]
    parts.append(
        "the only engine that may" if len(fit) == 1 else f"the best of {len(fit)} that may, alone and under load"
    )
    if best.latency:
        parts.append(
            f", p50 {best.latency.p50_ms:.2f} ms at batch 1, {best.latency.speedup:.1f} x the checkpoint, and "
            f"{best.latency.busy_ms:.2f} ms of a core a text in batches"
        )
    if best.accuracy:
        gain = 0.0 - round(best.accuracy.drop, 4)  # from 0.0, so that no drop isn't "-0.0000"
        parts.append(f"; {best.accuracy.measure} {best.accuracy.accuracy:.4f}, {gain:+.4f} against it")
        parts.append(f" (at most -{max_accuracy_drop:g} is allowed)")
    else:
        parts.append("; accuracy was not measured, as no labels were given")
    parts += [_rival(entry.id, entry.latency, best.latency) for entry in fit if entry.latency and best.latency]
    parts += [
        f"; {entry.id} is faster but loses {_drop(entry):.4f}"
        for entry in ready
        if entry not in fit and _weight(entry) < _weight(best)
    ]
    return "".join(parts)


def _rival(name: str, other: Latency, best: Latency) -> str:
    """What another engine is ahead in, and what that costs; empty where in nothing."""
    if other.p50_ms < best.p50_ms:
        times = other.busy_ms / best.busy_ms
        return f"; {name} is faster alone ({other.p50_ms:.2f} ms) but takes {times:.1f} x the time in batches"
    if other.busy_ms < best.busy_ms:
        times = other.p50_ms / best.p50_ms
        return f"; {name} is faster in batches ({other.busy_ms:.2f} ms) but takes {times:.1f} x the time alone"
    return ""
