"""The report's figures as inline SVG. Imports matplotlib, without its global state."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from .assess import Timeline
from .capacity import Capacity, Probe
from .contrast import Contrast
from .steady import Steady
from .targets import Target

_CANDIDATE, _BASELINE, _LIMIT, _BAD = "#1f6feb", "#8c959f", "#b3261e", "#b3261e"
_MOST_POINTS = 6000


def latency_over_time(line: Timeline, steady: Steady | None, targets: tuple[Target, ...]) -> str:
    """Every answer's latency in milliseconds against its schedule; failures as crosses above."""
    figure, axes = _figure(3.0)
    latency = 1e3 * line.samples.latency
    good = np.isfinite(latency)
    shown = _thinned(np.flatnonzero(good))
    axes.plot(line.at[shown], latency[shown], ".", color=_CANDIDATE, markersize=2.5, alpha=0.6)
    top = 1.6 * max(
        [1e3 * target.limit for target in targets if target.is_latency] + [float(latency[good].max(initial=0.0))]
    )
    bad = _thinned(np.flatnonzero(~good))
    axes.plot(line.at[bad], np.full(len(bad), top), "x", color=_BAD, markersize=4)
    if steady is not None and steady.start_s > 0:
        axes.axvspan(0.0, steady.start_s, color="#eef1f4", zorder=0)
    for target in (target for target in targets if target.is_latency):
        axes.axhline(1e3 * target.limit, color=_LIMIT, linewidth=1, linestyle="--")
        axes.annotate(target.text, (1.0, 1e3 * target.limit), xycoords=("axes fraction", "data"), fontsize=8)
    axes.set(xlabel="seconds of the schedule", ylabel="latency, ms", yscale="log", xlim=(0.0, line.seconds))
    axes.set_ylim(0.8 * min([0.01 * top, *latency[good]]), 1.2 * top)
    return _svg(figure)


def distribution(
    lines: list[tuple[str, Timeline]], targets: tuple[Target, ...], inflation: float, confidence: float
) -> str:
    """The share of requests answered within a time, each side; limits as crosshairs at the share they ask for.

    The band holds the whole true curve at the confidence (Dvoretzky, Kiefer and Wolfowitz, with Massart's constant),
    with as many independent requests as are left after clustering: n / ``inflation``.
    """
    figure, axes = _figure(3.0)
    for side, line in lines:
        latency = np.sort(1e3 * line.samples.latency)
        share = np.arange(1, len(latency) + 1) / max(1, len(latency))
        keep = _thinned(np.flatnonzero(np.isfinite(latency)))
        colour = _CANDIDATE if side == "candidate" else _BASELINE
        axes.step(latency[keep], share[keep], where="post", label=side, color=colour)
        half = half_width(len(latency) / max(1.0, inflation), confidence)
        low, high = np.maximum(0.0, share[keep] - half), np.minimum(1.0, share[keep] + half)
        axes.fill_between(latency[keep], low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    for target in (target for target in targets if target.is_latency):
        axes.axvline(1e3 * target.limit, color=_LIMIT, linewidth=1, linestyle="--")
        if target.share is not None:
            axes.plot(1e3 * target.limit, target.share, "o", color=_LIMIT, markersize=5)
            axes.annotate(f" {target.text}", (1e3 * target.limit, target.share), fontsize=8, va="top")
    axes.set(xlabel="latency, ms", ylabel="share answered", xscale="log", ylim=(0.0, 1.02))
    if len(lines) > 1:
        axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


def half_width(independent: float, confidence: float) -> float:
    """Of the band around a distribution of so many independent samples: sqrt(ln(2 / (1 - c)) / 2n), at most 1."""
    return min(1.0, math.sqrt(math.log(2.0 / (1.0 - confidence)) / (2.0 * max(independent, 1e-9))))


def rate_and_in_flight(line: Timeline) -> str:
    """Requests due and good answers a second, and below it how many were under way."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eef1f4")
        axes.set_axisbelow(True)
    width = max(1.0, line.seconds / 120.0)
    edges = np.arange(0.0, line.seconds + width, width)
    edges[-1] = max(line.seconds, edges[-2] + 1e-9)  # the last one is as short as what is left
    middle = (edges[:-1] + edges[1:]) / 2.0
    good = np.isfinite(line.samples.latency)
    for name, times, colour in (("due", line.at, _BASELINE), ("good answers", line.ended[good], _CANDIDATE)):
        counts = np.histogram(times, bins=edges)[0] / np.diff(edges)
        above.plot(middle, counts, drawstyle="steps-mid", label=name, color=colour)
    above.set(ylabel="requests / s", ylim=(0.0, 1.15 * above.get_ylim()[1]))
    above.legend(frameon=False, loc="lower right")
    at, count = in_flight(line)
    keep = _thinned(np.arange(len(at)))
    below.step(at[keep], count[keep], where="post", color=_CANDIDATE, linewidth=1)
    below.set(xlabel="seconds of the schedule", ylabel="in flight", xlim=(0.0, line.seconds), ylim=(0.0, None))
    return _svg(figure)


def in_flight(line: Timeline) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """When the number of requests under way changes, and what it is from then on; one without an end stays."""
    sent = (line.at - line.samples.scheduled) + line.samples.sent
    sent, ended = sent[~np.isnan(sent)], line.ended[~np.isnan(line.ended) & ~np.isnan(line.samples.sent)]
    at = np.concatenate([sent, ended])
    step = np.concatenate([np.ones(len(sent), dtype=np.int64), -np.ones(len(ended), dtype=np.int64)])
    order = np.argsort(at, kind="stable")
    return at[order], np.cumsum(step[order])


def lateness(lines: list[tuple[str, Timeline]], allowance_s: float) -> str:
    """The share of sends at least so late, on logarithmic axes; the allowance as a line."""
    figure, axes = _figure(2.4)
    for side, line in lines:
        late = np.sort(np.maximum(1e3 * line.samples.lateness, 1e-3))
        share = 1.0 - np.arange(len(late)) / max(1, len(late))
        keep = _thinned(np.arange(len(late)))
        colour = _CANDIDATE if side == "candidate" else _BASELINE
        axes.step(late[keep], share[keep], where="post", label=side, color=colour)
    axes.axvline(1e3 * allowance_s, color=_LIMIT, linewidth=1, linestyle="--")
    axes.set(xlabel="lateness of the send, ms", ylabel="share at least so late", xscale="log", yscale="log")
    axes.set(xlim=(1e-3, 2e3 * max([allowance_s, *(line.samples.lateness.max(initial=0.0) for _, line in lines)])))
    axes.set_ylim(0.5 / max([1, *(len(line.samples) for _, line in lines)]), 1.5)
    if len(lines) > 1:
        axes.legend(frameon=False)
    return _svg(figure)


def contrast_by_pair(found: Contrast) -> str:
    """Baseline / candidate of each pair, and the interval of the ratio."""
    figure, axes = _figure(2.4)
    ratios = [baseline / candidate for candidate, baseline in found.pairs]
    axes.plot(range(len(ratios)), ratios, "o", color=_CANDIDATE, markersize=4)
    axes.axhline(1.0, color="#8c959f", linewidth=1)
    if found.low is not None and found.high is not None and found.ratio is not None:
        axes.axhspan(found.low, found.high, color=_CANDIDATE, alpha=0.12)
        axes.axhline(found.ratio, color=_CANDIDATE, linewidth=1)
    axes.set(xlabel="pair, in the order of the run", ylabel=f"baseline / candidate, {found.metric}")
    return _svg(figure)


def rate_latency(probes: Sequence[Probe], found: Capacity, targets: tuple[Target, ...]) -> str:
    """p50, p95 and p99 of each rate that was tried; limits dashed, the capacity's interval shaded."""
    figure, axes = _figure(3.6)
    for name, colour in (("p50", _BASELINE), ("p95", _CANDIDATE), ("p99", "#8250df")):
        known = [(each.rate, value) for each in probes if (value := each.quantiles_s.get(name)) is not None]
        points = sorted((rate, 1e3 * value) for rate, value in known)
        axes.plot([rate for rate, _ in points], [value for _, value in points], "o-", label=name, color=colour)
    for target in (target for target in targets if target.is_latency):
        axes.axhline(1e3 * target.limit, color=_LIMIT, linewidth=1, linestyle="--")
        axes.annotate(target.text, (1.0, 1e3 * target.limit), xycoords=("axes fraction", "data"), fontsize=8)
    for probe in (probe for probe in probes if probe.missed):
        axes.axvline(probe.rate, color=_BAD, linewidth=1, linestyle="-" if probe.saturated else ":")
    if found.low is not None and found.high is not None:
        axes.axvspan(found.low, found.high, color=_CANDIDATE, alpha=0.12)
    axes.set(xlabel="requests a second", ylabel="latency, ms", xscale="log", yscale="log")
    axes.legend(frameon=False, loc="upper left")
    return _svg(figure)


def _figure(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9.0, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eef1f4")
    axes.set_axisbelow(True)
    return figure, axes


def _thinned(indices: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """At most some thousand of them, the first and the last kept, so that a page stays light."""
    if len(indices) <= _MOST_POINTS:
        return indices
    places = np.linspace(0, len(indices) - 1, _MOST_POINTS).astype(np.intp)
    return np.asarray(indices[places], dtype=np.intp)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # A fixed salt and no date: the same run gives the same page.
    with mpl.rc_context({"svg.hashsalt": "nlpdeploy"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    # No names that the page's other figures have too.
    return re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])
