"""What is known while a run goes on: one line, from what the workers report each second. Pure.

For watching alone: latencies are counted in steps of some 5 %, and no verdict is made of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_STEP = 0.05
_LEAST = 1e-4  # seconds; what is faster counts as this


def step(latency_s: float) -> int:
    """The step of a logarithmic scale that a latency falls into; 0 for 0.1 ms and below."""
    return max(0, math.ceil(math.log(max(latency_s, _LEAST) / _LEAST) / _STEP))


def quantile_ms(steps: Mapping[int, int], share: float, total: int) -> float:
    """The latency that ``share`` of ``total`` requests kept, in milliseconds, at most 5 % too high.

    Args:
        steps: good answers by :func:`step`.
        share: 0 to 1.
        total: requests settled; those that are not among the answers count as slower than all.

    Returns:
        Infinite where the quantile falls on a request without a good answer.
    """
    wanted, seen = max(1, math.ceil(share * total - 1e-9)), 0
    for number in sorted(steps):
        seen += steps[number]
        if seen >= wanted:
            return 1e3 * _LEAST * math.exp(_STEP * number)
    return math.inf


def live_line(heard: Iterable[Mapping[str, Any]], elapsed_s: float, left_s: float) -> str:
    """Rate, requests in flight, p50 and p95 so far, failures and the time left.

    Args:
        heard: each worker's latest report: ``due``, ``outcomes`` by name, ``steps`` by number as text.
        elapsed_s: since the block's start.
        left_s: of the whole run's schedule.
    """
    due, outcomes, steps = 0, Counter[str](), Counter[int]()
    for report in heard:
        due += report["due"]
        outcomes.update(report["outcomes"])
        steps.update({int(number): count for number, count in report["steps"].items()})
    settled = outcomes.total()
    rate = due / elapsed_s if elapsed_s > 0 else 0.0
    p50, p95 = (_shown(quantile_ms(steps, share, settled)) if settled else "-" for share in (0.5, 0.95))
    return (
        f"{due:,} due at {rate:,.0f}/s, {due - settled:,} in flight, p50 {p50}, p95 {p95}, "
        f"{outcomes['OK']:,} ok, {settled - outcomes['OK']:,} not ok, {max(0.0, left_s):.0f} s left"
    )


def _shown(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if math.isfinite(milliseconds) else "none"
