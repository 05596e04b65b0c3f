"""Tails of the binomial distribution, for single counts and for arrays of them. Pure; numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_TINY = 1e-300
_PRECISE = 1e-14
_MOST_TERMS = 20_000


def binomial_cdf(t: npt.ArrayLike, n: npt.ArrayLike, q: float) -> Floats:
    """P(X <= t) for X ~ Binomial(n, q), by ``I_{1-q}(n - t, t + 1)`` (DLMF 8.17.5).

    Args:
        t, n: whole numbers of any shapes that go together.
        q: 0 < q < 1.

    Returns:
        float64 of their common shape; 0 where t < 0, 1 where t >= n.
    """
    count, size = np.broadcast_arrays(np.asarray(t, dtype=np.float64), np.asarray(n, dtype=np.float64))
    result = np.where(count < 0, 0.0, 1.0)
    inside = (count >= 0) & (count < size)
    if inside.any():
        result[inside] = _incomplete_beta(size[inside] - count[inside], count[inside] + 1.0, 1.0 - q)
    return result


def _incomplete_beta(a: Floats, b: Floats, x: float) -> Floats:
    """The regularised I_x(a, b); by its symmetry from the side where the continued fraction converges fast."""
    if a.size == 1:  # plain floats, with numpy's overhead for each of many short steps left out
        return np.full(a.shape, _incomplete_beta_of_one(a.item(), b.item(), x))
    swapped = x > (a + 1.0) / (a + b + 2.0)
    first, second = np.where(swapped, b, a), np.where(swapped, a, b)
    at = np.where(swapped, 1.0 - x, x)
    log_front = np.array([_log_front(*pair) for pair in zip(a.tolist(), b.tolist(), strict=True)])
    front = np.exp(log_front + first * np.log(at) + second * np.log1p(-at)) / first
    value = front * _lentz(first, second, at, lambda change: np.abs(change).max())
    return np.asarray(np.clip(np.where(swapped, 1.0 - value, value), 0.0, 1.0))


def _incomplete_beta_of_one(a: float, b: float, x: float) -> float:
    swapped = x > (a + 1.0) / (a + b + 2.0)
    first, second, at = (b, a, 1.0 - x) if swapped else (a, b, x)
    front = math.exp(_log_front(a, b) + first * math.log(at) + second * math.log1p(-at)) / first
    value = front * float(_lentz(first, second, at, abs))
    return min(1.0, max(0.0, 1.0 - value if swapped else value))


def _log_front(a: float, b: float) -> float:
    """The logarithm of 1 / B(a, b)."""
    return math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)


def _lentz(a: Any, b: Any, x: Any, worst: Callable[[Any], float]) -> Any:
    """The continued fraction DLMF 8.17.22 by Lentz's method; O(sqrt(max(a, b))) terms."""
    c = 1.0 + 0.0 * x
    d = 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        for term in (even, odd):
            d = 1.0 / _not_zero(1.0 + term * d)
            c = _not_zero(1.0 + term / c)
            value = value * c * d
        if worst(c * d - 1.0) < _PRECISE:
            break
    return value


def _not_zero(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) >= _TINY else _TINY
    return np.where(np.abs(value) < _TINY, _TINY, value)
