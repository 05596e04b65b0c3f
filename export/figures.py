"""The report's figures as inline SVG that follows the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..bundle.evidence import Latency, LatencyCurve

# Drawn in these and replaced in the SVG, so that the page's own colours apply.
_INK, _RULE = "#010203", "#040506"
_REFERENCE = "#8b93a1"
_PALETTE = ("#3b82f6", "#f08a3c", "#22a36b", "#a76df0", "#e0526e", "#1ba6b8")
CURVE_ROWS = (1, 8, 32)


def colours(engine_ids: Sequence[str]) -> dict[str, str]:
    """A colour for each engine, the same in all figures."""
    return {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(engine_ids)}


def latency_figure(latency: Mapping[str, Latency], colour: Mapping[str, str]) -> str:
    """Median as a bar, 95th percentile as a tick at the end of a line; milliseconds, batch 1."""
    figure, axes = _figure(0.62 + 0.42 * len(latency))
    for place, (name, value) in enumerate(latency.items()):
        shade = colour.get(name, _REFERENCE)
        axes.barh(place, value.p50_ms, height=0.56, color=shade)
        axes.plot([value.p50_ms, value.p95_ms], [place, place], color=shade, linewidth=1.6)
        axes.plot([value.p95_ms], [place], color=shade, marker="|", markersize=11, markeredgewidth=2)
        words = f"{value.p50_ms:.2f} / {value.p95_ms:.2f}"
        axes.annotate(words, (value.p95_ms, place), xytext=(10, 0), textcoords="offset points", va="center", color=_INK)
    axes.set_yticks(range(len(latency)), list(latency))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.28 * max(value.p95_ms for value in latency.values()))
    axes.set_xlabel("ms a text, batch 1: p50 (bar) and p95 (tick)")
    axes.grid(axis="y", visible=False)
    return _svg(figure, "latency")


def error_figure(counts: Mapping[str, Sequence[tuple[float, int]]], colour: Mapping[str, str]) -> str:
    """Real texts by their largest logit error, one line an engine; both axes logarithmic."""
    figure, axes = _figure(2.9)
    for name, bins in counts.items():
        finite = [(edge, rows) for edge, rows in bins if edge < float("inf")]
        axes.plot(
            [edge for edge, _ in finite],
            [rows or None for _, rows in finite],
            color=colour[name],
            marker="o",
            markersize=4,
            linewidth=1.6,
            label=name,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("largest logit error of a text")
    axes.set_ylabel("texts")
    _legend(axes)
    return _svg(figure, "errors")


def curve_figure(curves: Mapping[str, LatencyCurve], colour: Mapping[str, str]) -> str:
    """Measured points and the fitted curve of each engine, for batches of 1, 8 and 32 rows."""
    figure, axes = _figure(3.2)
    for name, curve in curves.items():
        for style, rows in zip(("-", "--", ":"), CURVE_ROWS, strict=True):
            points = sorted((length, 1e3 * seconds) for count, length, seconds in curve.points if count == rows)
            if not points:
                continue
            lengths = [length for length, _ in points]
            axes.plot(lengths, [ms for _, ms in points], "o", color=colour[name], markersize=3.5)
            fitted = [1e3 * curve.seconds(rows * length, rows) for length in lengths]
            axes.plot(lengths, fitted, style, color=colour[name], linewidth=1.5, label=f"{name}, {rows} x")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("tokens a row")
    axes.set_ylabel("ms a call")
    _legend(axes)
    return _svg(figure, "curves")


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, height), layout="constrained")
    axes = figure.subplots()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.set_axisbelow(True)
    axes.grid(color=_RULE, linewidth=0.8)
    axes.tick_params(colors=_INK, which="both", length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return figure, axes


def _legend(axes: Any) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=_INK, fontsize=8.5)


def _svg(figure: Any, name: str) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # inline in HTML they are implied
    svg = svg.replace(_INK, "currentColor").replace(_RULE, "var(--rule)")
    svg = re.sub(r'font-family: [^;"]*', "font-family: var(--sans)", svg)
    svg = re.sub(r'font: ([\d.]+px) [^;"]*', r"font: \1 var(--sans)", svg)
    # Several figures share one page: ids must not.
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
