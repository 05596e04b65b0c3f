"""Drives a search for the capacity: one load test after the other, their results as data and as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.compare import quantile
from ..bundle.errors import StoreFailed, Unsupported
from .capacity import Capacity, Probe, Search, conclude, next_rate
from .driver import run
from .judgement import Judgement
from .plan import Plan
from .samples import read_samples
from .targets import Target
from .verdict import judge

CAPACITY_FILE = "capacity.json"
PICTURE_FILE = "capacity.svg"
SHOWN = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

Progress = Callable[[str], None]


def find_capacity(
    plan: Plan, search: Search, folder: Path, *, progress: Progress | None = None
) -> tuple[Capacity, tuple[Probe, ...]]:
    """Try rates until the search is over; each probe is a run in ``folder/probe-NN``, kept for ``loadtest judge``.

    Args:
        plan: of each probe but for its rate: until decided, at most ``plan.seconds`` long.
        search: the rates and how many of them.
        folder: a new or an empty one.
        progress: told what goes on.

    Raises:
        As :func:`~nlpdeploy.loadtest.driver.run`.
    """
    say = progress or (lambda text: None)
    probes: list[Probe] = []
    while (rate := next_rate(search, probes)) is not None:
        say(f"probe {len(probes) + 1}: {rate:g}/s")
        made = replace(plan, rate=rate, until_decided=True, confidence=search.confidence, seed=plan.seed + len(probes))
        run_dir = folder / f"probe-{len(probes):02d}"
        run(made, run_dir, progress=lambda text, rate=rate: say(f"{rate:g}/s: {text}"))  # type: ignore[misc]
        probes.append(_probe(rate, judge(run_dir)))
        found = conclude(search, probes)
        _write(folder, plan.targets, search, found, probes)
        say(f"{rate:g}/s: {probes[-1].verdict}{', saturated' if probes[-1].saturated else ''}")
    return found, tuple(probes)


def to_json(targets: tuple[Target, ...], search: Search, found: Capacity, probes: list[Probe]) -> dict[str, Any]:
    """What ``nlpdeploy loadtest capacity --json`` prints and ``capacity.json`` holds; times in milliseconds."""
    return {
        "verdict": found.verdict.value,
        "reasons": [found.reason],
        "targets": [target.text for target in targets],
        "capacity": {"low": found.low, "high": found.high, "confidence": 0.99},
        "probe_confidence": search.confidence,
        "probes": [
            {
                **{name: value for name, value in asdict(probe).items() if name != "quantiles_s"},
                "verdict": probe.verdict.value,
                **{f"{name}_ms": None if value is None else 1e3 * value for name, value in probe.quantiles_s.items()},
            }
            for probe in sorted(probes, key=lambda probe: probe.rate)
        ],
    }


def _probe(rate: float, found: Judgement) -> Probe:
    samples = read_samples(found.run_dir)
    start = found.steady.start_s if found.steady else 0.0
    part = samples.where((samples.scheduled >= start) & (samples.scheduled < found.judged_s))
    latency = part.latency
    reached = {name: quantile(latency, share) if len(latency) else np.inf for name, share in SHOWN.items()}
    # Little's law; a request without an end was in flight to the end.
    took = np.where(np.isnan(part.ended), found.judged_s, part.ended) - part.scheduled
    seconds = max(found.judged_s - start, 1e-9)
    return Probe(
        rate=rate,
        verdict=found.verdict,
        saturated=found.saturated,
        seconds=found.judged_s,
        quantiles_s={name: float(value) if np.isfinite(value) else None for name, value in reached.items()},
        in_flight=float(np.maximum(took, 0.0).sum() / seconds),
        failed=float(np.isinf(latency).mean()) if len(latency) else 0.0,
        reason=found.reasons[0] if found.reasons else "",
        run_dir=str(found.run_dir),
    )


def _write(folder: Path, targets: tuple[Target, ...], search: Search, found: Capacity, probes: list[Probe]) -> None:
    try:
        from . import figures
    except ImportError as error:
        raise Unsupported("the curve", found=error, mend="pip install 'nlpdeploy[loadtest]'") from error
    try:
        value = json.dumps(to_json(targets, search, found, probes), indent=2, allow_nan=False)
        (folder / CAPACITY_FILE).write_text(value + "\n", encoding="utf-8")
        (folder / PICTURE_FILE).write_text(figures.rate_latency(probes, found, targets) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreFailed("capacity", found=error, mend="give a --run-dir that can be written") from error
