"""Whether an engine answers like the checkpoint: every row of every batch, against the limits of its precision.

What is asked stands in ``grid`` and ``answers``, what is allowed in ``limits``. An engine that raises, leaves the
output out, answers in another shape, with NaN or infinity, with zeros or the same for everything has failed; that is a
result with a reason, never an exception.
"""

from __future__ import annotations

import math

import numpy as np

from ..bundle.compare import Deviation, deviation
from ..bundle.evidence import ParityCase, ParityResult
from ..bundle.specs import ModelSpec
from ..runtime.tasks import Floats
from .answers import (
    REAL,
    CaseAnswers,
    EngineAnswers,
    ReferenceAnswers,
    engine_answers,
    reference_answers,
)
from .bounds import share_lower, share_upper
from .flips import find_flips, list_flips
from .grid import Case, parity_grid
from .limits import Limits, limits, logit_spread

__all__ = [
    "Case",
    "EngineAnswers",
    "ReferenceAnswers",
    "engine_answers",
    "judge_parity",
    "parity_grid",
    "reference_answers",
]

_NOTHING = Deviation(0, math.inf, math.inf, -1.0, 0, 0, 0)


def judge_parity(
    given: EngineAnswers,
    precision: str,
    answers: ReferenceAnswers,
    model: ModelSpec,
    *,
    tolerance: float | None = None,
) -> ParityResult:
    """Hold an engine's answers against the limits of its precision.

    Args:
        given: what the engine answered.
        precision: decides the limits; see ``limits``.
        answers: the reference's.
        model: labels and task.
        tolerance: an own limit for the largest logit error.

    Returns:
        The verdict; an engine that fails makes a result that did not pass, with the reason.
    """
    allowed = limits(
        precision, spread=logit_spread(answers.logits), noise_floor=answers.noise_floor, tolerance=tolerance
    )
    cases = tuple(_judge_case(case, allowed, model) for case in given.cases)
    failed = [case for case in cases if not case.passed]
    real = next(case for case in cases if case.name == REAL)
    rows = len(answers.rows)
    return ParityResult(
        passed=not failed,
        reason=f"{failed[0].name}: {failed[0].reason}" if failed else None,
        tolerance=allowed.tolerance,
        tolerance_source=allowed.source,
        flip_margin=allowed.flip_margin,
        noise_floor=answers.noise_floor,
        rows=rows,
        flips=real.flips,
        flips_outside_margin=sum(case.flips_outside_margin for case in cases),
        flip_bound=share_upper(real.flips, rows),
        agreement=1.0 - real.flips / rows,
        company=given.company,
        max_abs_error=max(case.deviation.max_abs for case in cases),
        mean_abs_error=real.deviation.mean_abs,
        cosine=real.deviation.cosine,
        cases=cases,
        flipped=list_flips(given.logits, answers.logits, model) if given.logits is not None else (),
        error_counts=_error_counts(given.logits, answers.logits) if given.logits is not None else (),
        dropped=answers.dropped,
    )


def _judge_case(case: CaseAnswers, allowed: Limits, model: ModelSpec) -> ParityCase:
    rows = len(case.want)
    if case.got is None:
        return ParityCase(case.name, "logits", _NOTHING, rows, rows, passed=False, reason=case.problem)
    found = deviation(case.got, case.want)
    flipped, margins = find_flips(case.got, case.want, model)
    flips, outside = int(flipped.sum()), int((margins > allowed.flip_margin).sum())
    reason = _not_finite(case.got) or found.reason(allowed.tolerance)
    if reason is None and outside:
        reason = (
            f"{outside} of {rows} labels differ where the checkpoint was sure: it led by up to {margins.max():.3g}, "
            f"allowed {allowed.flip_margin:.3g}"
        )
    if reason is None and case.name == REAL:
        if found.mean_abs > allowed.mean:
            reason = f"mean error {found.mean_abs:.3g} exceeds {allowed.mean:.3g}"
        elif share_lower(flips, rows) > allowed.flip_rate:
            reason = f"{flips} of {rows} labels differ, above {allowed.flip_rate:.2%} beyond doubt"
    return ParityCase(case.name, "logits", found, flips, outside, passed=reason is None, reason=reason)


def _not_finite(got: Floats) -> str | None:
    nan, infinite = np.isnan(got).any(axis=1), np.isinf(got).any(axis=1)
    rows = int((nan | infinite).sum())
    if not rows:
        return None
    return f"{'NaN' if nan.any() else 'infinity'} in {rows} of {len(got)} rows"


def _error_counts(got: Floats, want: Floats) -> tuple[tuple[float, int], ...]:
    """Rows by their largest error, in bins of 1, 2, 5 to the decade, from the first that holds a row to the last."""
    errors = np.abs(got.astype(np.float64) - want).max(axis=1)
    edges = [round(step * 10.0**power, -power + 1) for power in range(-9, 7) for step in (1, 2, 5)]
    edges = [float(edge) for edge in edges] + [math.inf]
    places = np.searchsorted(edges, np.where(np.isnan(errors), math.inf, errors))
    counts = np.bincount(places, minlength=len(edges))
    held = np.flatnonzero(counts)
    return tuple((edges[i], int(counts[i])) for i in range(held[0], held[-1] + 1))
