"""The latency curve: how long a call of so many rows and tokens takes, for the scheduler to plan with.

Model and meaning of the four coefficients stand with ``bundle.evidence.LatencyCurve``. They are fitted to relative
errors, so that a forecast of a short call is as good as one of a long call, and none of them may be negative, so that
more work is never forecast to take less time. Pure: the points are measured elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import InvalidInput
from .evidence import LatencyCurve

Floats = npt.NDArray[np.float64]


def curve_of(points: Sequence[tuple[int, int, float]]) -> LatencyCurve:
    """The curve nearest to measured points (rows, length, seconds), by relative error.

    Raises:
        InvalidInput: no points, or a time that is not positive.
    """
    if not points or any(seconds <= 0 for _, _, seconds in points):
        raise InvalidInput(
            "points of a latency curve", found=list(points)[:3], wanted="at least one, with times over 0"
        )
    count, length, seconds = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    tokens = count * length
    terms = np.stack([np.ones_like(tokens), tokens, count, tokens**2 / count], axis=1)
    base, per_token, per_row, per_square = (
        float(value) for value in nnls(terms / seconds[:, None], np.ones_like(seconds))
    )
    return LatencyCurve(base, per_token, per_row, per_square, tuple(points))


def nnls(matrix: Floats, target: Floats) -> Floats:
    """The non-negative x that minimises the length of ``matrix @ x - target``.

    Every set of columns is solved without the bound and the best solution that keeps it is taken: exact, and for the
    four columns of a curve sixteen small problems. The optimum is among them, since it is the unbounded optimum of the
    columns where it is positive (Lawson & Hanson 1974, chapter 23).
    """
    columns = matrix.shape[1]
    # Columns of like size, or the small ones drown in the solver's rank decision.
    scale = np.linalg.norm(matrix, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    best, least = np.zeros(columns), float(target @ target)
    for size in range(1, columns + 1):
        for chosen in itertools.combinations(range(columns), size):
            part = matrix[:, chosen] / scale[list(chosen)]
            solution = np.linalg.lstsq(part, target, rcond=None)[0]
            rest = part @ solution - target
            if (solution >= 0).all() and float(rest @ rest) < least:
                least = float(rest @ rest)
                best = np.zeros(columns)
                best[list(chosen)] = solution / scale[list(chosen)]
    return best
