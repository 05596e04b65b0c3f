"""Quantiles of Student's t distribution, without a statistics package."""

from __future__ import annotations

import math
from functools import lru_cache

from ..bundle.errors import InvalidInput


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) with ``freedom`` degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4: exact finite sums)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term, total = cosine, 0.0
        for k in range(1, freedom - 1, 2):
            total += term
            term *= (k + 1) / (k + 2) * cosine * cosine
        inside = 2.0 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 0.0
        for k in range(0, freedom - 1, 2):
            total += term
            term *= (k + 1) / (k + 2) * cosine * cosine
        inside = sine * total
    return 0.5 * (1.0 + inside)


@lru_cache(maxsize=256)
def student_quantile(p: float, freedom: int) -> float:
    """The ``t`` with P(T <= t) = p.

    Args:
        p: 0.5 <= p < 1.
        freedom: degrees of freedom, at least 1.

    Raises:
        InvalidInput: ``p`` or ``freedom`` out of range.
    """
    if not 0.5 <= p < 1.0 or freedom < 1:
        raise InvalidInput("Student quantile", found=f"p={p}, freedom={freedom}", wanted="0.5 <= p < 1, freedom >= 1")
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < p:
        low, high = high, 2.0 * high
    for _ in range(80):
        middle = (low + high) / 2.0
        low, high = (middle, high) if student_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2.0
