"""What is promised: targets as people write them, parsed and checked before any traffic."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..bundle.errors import InvalidInput

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/s)?")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_TARGET = re.compile(r"(mean|errors|rate|p(\d{1,2}(?:\.\d+)?))=(.+)")
_MEND = "write p95=45ms, mean=20ms, errors=0.1% or rate=200/s"

RATE_TOLERANCE = 0.01
"""A rate target holds if this share of it, and no more, may be missing: offered rates are met no better."""


def parse_duration(text: str) -> float:
    """Seconds of ``45ms``, ``1s``, ``1.5s``, ``2m``; a bare number has no unit and is refused.

    Raises:
        InvalidInput: not a number with a unit, or not above zero.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise InvalidInput("duration", found=text, wanted="a positive number with a unit", mend="write 45ms, 1s or 2m")
    return float(match[1]) * _UNITS[match[2]]


def parse_rate(text: str) -> float:
    """Requests a second of ``200`` or ``200/s``.

    Raises:
        InvalidInput: anything else, or not above zero.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise InvalidInput("rate", found=text, wanted="requests a second above 0", mend="write 200 or 200/s")
    return float(match[1])


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        metric: ``mean``, or ``p50``, ``p95``, ``p99.9`` …: that share of requests is answered within the limit;
            ``errors``: the share of requests without a good answer; ``rate``: good answers a second.
        limit: in seconds; for ``errors`` a share, for ``rate`` requests a second.
        text: as the user wrote it.
        was_s: what the baseline is said to have, of ``p95=120ms->45ms``, in seconds.
    """

    metric: str
    limit: float
    text: str
    was_s: float | None = None

    @property
    def is_latency(self) -> bool:
        """Whether the limit is a time."""
        return self.metric not in ("errors", "rate")

    @property
    def share(self) -> float | None:
        """The share that must be within the limit (0.95 for ``p95``); None for what is no percentile."""
        return round(float(self.metric[1:]) / 100.0, 12) if self.metric.startswith("p") else None

    @property
    def unit(self) -> str:
        """``ms``, ``%`` or ``/s``, in which :meth:`shown` numbers are."""
        return {"errors": "%", "rate": "/s"}.get(self.metric, "ms")

    def shown(self, value: float) -> float:
        """A limit or an observed value in ``unit``."""
        return value * {"errors": 100.0, "rate": 1.0}.get(self.metric, 1e3)


def parse_target(text: str) -> Target:
    """``p95=45ms``, ``p95=120ms->45ms``, ``mean=10ms``, ``errors=0.1%`` or ``rate=200/s``.

    Raises:
        InvalidInput: another form, an unknown metric, a percentile out of (0, 100), or a limit without its unit.
    """
    match = _TARGET.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(
            "target", found=text, wanted="METRIC=LIMIT with metric mean, p50, p95, p99.9 …, errors or rate", mend=_MEND
        )
    metric, percentile, limit = match[1], match[2], match[3]
    if percentile is not None and float(percentile) <= 0:
        raise InvalidInput("target", found=text, wanted="a percentile above 0 and below 100", mend=_MEND)
    if metric == "errors":
        share = _PERCENT.fullmatch(limit)
        if share is None or not 0 < float(share[1]) < 100:
            raise InvalidInput("target", found=text, wanted="errors=PERCENT above 0 and below 100", mend=_MEND)
        return Target(metric, float(share[1]) / 100.0, text.strip())
    if metric == "rate":
        if not limit.endswith("/s"):
            raise InvalidInput("target", found=text, wanted="rate=NUMBER/s", mend=_MEND)
        return Target(metric, parse_rate(limit), text.strip())
    was, arrow, now = limit.rpartition("->")
    try:
        return Target(metric, parse_duration(now), text.strip(), parse_duration(was) if arrow else None)
    except InvalidInput as error:
        raise InvalidInput("target", found=text, wanted="a duration with a unit", mend=_MEND) from error


def latency_limits(targets: tuple[Target, ...]) -> tuple[float, ...]:
    """The limits in seconds of the targets that have one."""
    return tuple(target.limit for target in targets if target.is_latency)


def check_targets(targets: tuple[Target, ...], timeout_s: float, rate: float, *, baseline: bool) -> None:
    """Refuse targets that a run can't be judged by.

    Args:
        targets: what is promised.
        timeout_s: the run's.
        rate: arrivals a second that the run offers.
        baseline: whether the run has one.

    Raises:
        InvalidInput: none, two on one metric, a limit that the timeout doesn't exceed, a rate above the one offered, or
            a baseline's latency without a baseline.
    """
    if not targets:
        raise InvalidInput("targets", found="none", wanted="at least one", mend="give --target p95=45ms")
    metrics = [target.metric for target in targets]
    if len(set(metrics)) < len(metrics):
        raise InvalidInput("targets", found=", ".join(metrics), wanted="each metric once")
    for target in targets:
        if target.is_latency and timeout_s <= target.limit:
            raise InvalidInput(
                "timeout",
                found=f"{timeout_s:g} s",
                wanted=f"longer than the limit of {target.text}",
                mend="a request that is given up before the limit says nothing about it: raise --timeout",
            )
        if target.metric == "rate" and target.limit > rate:
            raise InvalidInput(
                "target", found=f"{target.text} of a run at {rate:g}/s", wanted="at most that", mend="raise --rate"
            )
        if target.was_s is not None and not baseline:
            raise InvalidInput("target", found=target.text, wanted="a baseline to compare with", mend="give --baseline")
