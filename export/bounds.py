"""Exact confidence bounds on a share, from the binomial distribution alone."""

from __future__ import annotations

import math


def share_upper(hits: int, trials: int, confidence: float = 0.95) -> float:
    """The one-sided upper Clopper-Pearson bound: the share at which so few hits have probability 1 - confidence.

    Clopper & Pearson 1934. It covers the true share with at least the confidence stated, whatever the share is. No
    trials bound nothing: 1.0.
    """
    if trials == 0 or hits >= trials:
        return 1.0
    low, high = hits / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(hits, trials, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def share_lower(hits: int, trials: int, confidence: float = 0.95) -> float:
    """The one-sided lower Clopper-Pearson bound; 0.0 where there are no trials."""
    return 1.0 - share_upper(trials - hits, trials, confidence) if trials else 0.0


def _at_most(hits: int, trials: int, share: float) -> float:
    """P(X <= hits) for X ~ Binomial(trials, share)."""
    if share >= 1.0:
        return 0.0
    if share <= 0.0:
        return 1.0
    log_share, log_rest = math.log(share), math.log1p(-share)
    whole = math.lgamma(trials + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(whole - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_share + (trials - k) * log_rest)
            for k in range(hits + 1)
        ),
    )
