"""The one ``quantile`` and the one ``deviation``: parity, golden replay, load tests and reports use no other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import InvalidInput

FloatArray = npt.NDArray[np.floating]


def quantile(samples: Sequence[float] | npt.NDArray[np.float64], p: float) -> float:
    """The nearest-rank quantile: the smallest sample with at least a share ``p`` of the samples at or below it.

    It is always one of the samples, never an interpolation, so a p99 can't exceed the maximum and a share over a limit
    reads the same from samples and from quantiles (Hyndman & Fan 1996, definition 1).

    Args:
        samples: any order, any unit, at least one, no NaN.
        p: 0 < p <= 1.

    Raises:
        InvalidInput: no samples, a NaN among them, or ``p`` out of range.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0:
        raise InvalidInput("quantile of no samples", wanted="at least one sample")
    if not 0.0 < p <= 1.0:
        raise InvalidInput("quantile", found=p, wanted="0 < p <= 1")
    if np.isnan(values).any():
        raise InvalidInput("quantile of samples", found="NaN among them")
    # p * n can land a rounding error above an integer (0.95 * 20 = 19.000000000000004 would ask for rank 20).
    rank = max(1, math.ceil(p * values.size - 1e-9))
    return float(np.partition(values.ravel(), rank - 1)[rank - 1])


@dataclass(frozen=True)
class Deviation:
    """How far an output is from the reference's, over rows.

    A non-finite value anywhere makes ``max_abs`` and ``mean_abs`` infinite and ``cosine`` -1, so that every comparison
    with a tolerance fails: a NaN never passes by being incomparable.

    Attributes:
        rows: rows compared.
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        cosine: smallest cosine of a row with its reference row; 1.0 where both rows are zero, -1 where one is.
        nonfinite_rows: rows with a NaN or an infinity in the candidate.
        zero_rows: candidate rows that are all zero while the reference row is not.
        identical_rows: candidate rows equal bit for bit to the row before while the reference's two rows differ by
            more than a hundredth of the largest reference value (nearer ones may round to the same answer).
    """

    rows: int
    max_abs: float
    mean_abs: float
    cosine: float
    nonfinite_rows: int
    zero_rows: int
    identical_rows: int

    def within(self, tolerance: float) -> bool:
        """Whether the answers can pass: finite, near enough, and not constant where the reference is not."""
        return (
            self.rows > 0
            and self.max_abs <= tolerance
            and self.nonfinite_rows == 0
            and self.zero_rows == 0
            and self.identical_rows == 0
        )

    def reason(self, tolerance: float) -> str | None:
        """Why :meth:`within` is false, with the number; None where it is true."""
        if self.rows == 0:
            return "no rows compared"
        if self.nonfinite_rows:
            return f"NaN or infinity in {self.nonfinite_rows} of {self.rows} rows"
        if self.zero_rows:
            return f"{self.zero_rows} of {self.rows} rows are all zero"
        if self.identical_rows:
            return f"{self.identical_rows} of {self.rows} rows repeat the row before"
        if not self.max_abs <= tolerance:
            return f"max error {self.max_abs:.3g} exceeds {tolerance:.3g}"
        return None


def deviation(candidate: FloatArray, reference: FloatArray) -> Deviation:
    """Compare a candidate's output with the reference's, row by row (axis 0), in float64.

    Args:
        candidate: [rows, …] floating.
        reference: the same shape.

    Raises:
        InvalidInput: the shapes differ.
    """
    if candidate.shape != reference.shape:
        raise InvalidInput("output shape", found=list(candidate.shape), wanted=list(reference.shape))
    rows = candidate.shape[0] if candidate.ndim else 1
    if candidate.size == 0:
        return Deviation(rows, 0.0, 0.0, 1.0, 0, 0, 0)
    got = np.asarray(candidate, dtype=np.float64).reshape(rows, -1)
    want = np.asarray(reference, dtype=np.float64).reshape(rows, -1)
    nonfinite = int((~np.isfinite(got)).any(axis=1).sum())
    zero = int((~got.any(axis=1) & want.any(axis=1)).sum())
    apart = np.abs(want[1:] - want[:-1]).max(axis=1, initial=0.0) > 0.01 * np.abs(want).max(initial=0.0)
    repeats = (got[1:] == got[:-1]).all(axis=1) & apart
    if nonfinite or not np.isfinite(want).all():
        return Deviation(rows, math.inf, math.inf, -1.0, nonfinite, zero, int(repeats.sum()))
    difference = np.abs(got - want)
    return Deviation(
        rows=rows,
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        cosine=_smallest_cosine(got, want),
        nonfinite_rows=0,
        zero_rows=zero,
        identical_rows=int(repeats.sum()),
    )


def _smallest_cosine(got: npt.NDArray[np.float64], want: npt.NDArray[np.float64]) -> float:
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    both_zero = ~got.any(axis=1) & ~want.any(axis=1)
    dots = (got * want).sum(axis=1)
    cosines = np.divide(dots, lengths, out=np.full(len(dots), -1.0), where=lengths > 0)
    return float(np.clip(np.where(both_zero, 1.0, cosines), -1.0, 1.0).min())
