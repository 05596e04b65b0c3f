"""``evidence/report.html``: the whole export on one page for people, in one file that asks for nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.errors import StoreFailed
from ..bundle.evidence import Accuracy, ParityResult
from ..bundle.manifest import REPORT_NAME, EngineEntry, Manifest, from_plain
from ..bundle.specs import EngineState
from .figures import colours, curve_figure, error_figure, latency_figure

TEMPLATE = "report.html"
REFERENCE = "torch-fp32"
_LISTED_FLIPS = 12


@dataclass(frozen=True)
class CaseLine:
    """One case of the grid over all engines: by engine the largest error in words and whether it passed."""

    name: str
    cells: tuple[tuple[str, bool] | None, ...]


def write_report(manifest: Manifest, folder: Path) -> None:
    """Write ``evidence/report.html`` into a bundle's folder.

    The parity cases in full are read from ``evidence/parity.json`` where it stands; a manifest may leave them out.

    Args:
        manifest: the bundle's, sealed or not, with or without an engine that serves.
        folder: the bundle's folder.

    Raises:
        StoreFailed: the page can't be written.
    """
    path = folder / REPORT_NAME
    try:
        parity = _parity(manifest, folder)
        path.parent.mkdir(exist_ok=True)
        path.write_text(render_report(manifest, parity), encoding="utf-8")
    except OSError as error:
        raise StoreFailed(f"report {path}: {error.strerror or error}") from error


def render_report(manifest: Manifest, parity: Mapping[str, ParityResult]) -> str:
    """The page.

    Args:
        manifest: the bundle's.
        parity: by engine id the verdict with its cases.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, error=_error, size=_size, share=_share, count=lambda value: f"{value:,}", short=_short
    )
    return environment.get_template(TEMPLATE).render(_view(manifest, parity))


def _parity(manifest: Manifest, folder: Path) -> dict[str, ParityResult]:
    path = folder / "evidence" / "parity.json"
    if path.is_file():
        plain = json.loads(path.read_text(encoding="utf-8"))
        return {name: from_plain(ParityResult, result) for name, result in plain.items()}
    return {entry.id: entry.parity for entry in manifest.engines if entry.parity}


def _view(manifest: Manifest, parity: Mapping[str, ParityResult]) -> dict[str, Any]:
    proven = [entry for entry in manifest.engines if entry.id in parity]
    default = manifest.engine() if manifest.default_engine else None
    colour = colours([entry.id for entry in manifest.engines])
    latency = {REFERENCE: manifest.reference_latency} if manifest.reference_latency else {}
    latency |= {entry.id: entry.latency for entry in manifest.engines if entry.latency}
    counts = {entry.id: parity[entry.id].error_counts for entry in proven if parity[entry.id].error_counts}
    curves = {entry.id: entry.curve for entry in manifest.engines if entry.curve and entry.curve.points}
    return {
        "manifest": manifest,
        "default": default,
        "verdict": _verdict(manifest, default, parity),
        "parity": parity,
        "proven": proven,
        "aside": [entry for entry in manifest.engines if entry.state is not EngineState.READY],
        "halves": half_notes(manifest.engines),
        "reference": REFERENCE,
        "measure": _measure(manifest.reference_accuracy),
        "colour": colour,
        "cases": _case_lines(proven, parity),
        "flips": {entry.id: parity[entry.id].flipped[:_LISTED_FLIPS] for entry in proven if parity[entry.id].flipped},
        "latency_figure": latency_figure(latency, colour) if latency else "",
        "error_figure": error_figure(counts, colour) if counts else "",
        "curve_figure": curve_figure(curves, colour) if curves else "",
    }


def half_notes(engines: Sequence[EngineEntry]) -> list[str]:
    """What was made of the fp32 graph for engines in half: nodes that stay fp32, headroom, witness; each text once."""
    return list(
        dict.fromkeys(str(e.options["graph"]) for e in engines if e.precision == "fp16" and "graph" in e.options)
    )


def _verdict(manifest: Manifest, default: EngineEntry | None, parity: Mapping[str, ParityResult]) -> str:
    if default is None:
        return "No engine may serve"
    parts = []
    if default.latency:
        parts.append(f"{default.latency.speedup:.1f} x as fast as the checkpoint")
    if default.accuracy and manifest.reference_accuracy:
        parts.append(
            f"{default.accuracy.measure} {default.accuracy.accuracy:.4f}, "
            f"the checkpoint's {manifest.reference_accuracy.accuracy:.4f}"
        )
    if default.id in parity:
        result = parity[default.id]
        parts.append(f"{result.flips:,} of {result.rows:,} labels differ")
    return "; ".join(parts) or "ready"


def _case_lines(proven: list[EngineEntry], parity: Mapping[str, ParityResult]) -> list[CaseLine]:
    by_engine = [{case.name: case for case in parity[entry.id].cases} for entry in proven]
    names = list(dict.fromkeys(name for cases in by_engine for name in cases))
    return [
        CaseLine(
            name,
            tuple(
                (_error(cases[name].deviation.max_abs), cases[name].passed) if name in cases else None
                for cases in by_engine
            ),
        )
        for name in names
    ]


def _measure(accuracy: Accuracy | None) -> str:
    return accuracy.measure if accuracy else "accuracy"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _error(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "no answer"


def _share(value: float, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f} %"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size else "–"


def _short(digest: str) -> str:
    return digest[:16]
