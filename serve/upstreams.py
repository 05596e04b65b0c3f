"""Finds what the upstreams serve when the server starts: one instance of each must answer, others may come later."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from ..bundle.errors import InvalidInput, Unavailable
from .metrics import Metrics
from .served_model import Capacity
from .settings import Settings
from .upstream_description import Description
from .upstream_instance import Instance, Limits, State
from .upstream_metrics import UpstreamMetrics
from .upstream_model import UpstreamModel
from .upstream_spec import Upstream


async def connect_upstreams(settings: Settings, metrics: Metrics) -> list[UpstreamModel]:
    """Models whose answers the upstreams of the settings make.

    Raises:
        As :func:`connect`.
    """
    limits = Limits(settings.wire.message_bytes, settings.upstream_requests)
    return await connect(settings.upstreams, settings.capacity, metrics, limits, settings.upstream_wait)


async def connect(
    upstreams: Sequence[Upstream], capacity: Capacity, metrics: Metrics, limits: Limits, wait: float
) -> list[UpstreamModel]:
    """Models whose answers the upstreams make.

    Args:
        upstreams: each with its own name.
        capacity: limits and policy of each.
        metrics: of the server.
        limits: of what an instance is asked.
        wait: seconds that the first instance of each may take to answer.

    Raises:
        InvalidInput: no instance of an upstream can be asked as the options say: wrong address, model or token, or an
            archive whose answers can't be read.
        Unavailable: none has answered in time.
    """
    if not upstreams:
        return []
    upstream_metrics = UpstreamMetrics(metrics.registry)
    links = [_Link(upstream, capacity, metrics, upstream_metrics, limits) for upstream in upstreams]
    try:
        return list(await asyncio.gather(*(link.made(wait) for link in links)))
    except BaseException:
        for link in links:
            link.close()
        raise


class _Link:
    """An upstream's instances, before and after there is a model over them."""

    def __init__(
        self,
        upstream: Upstream,
        capacity: Capacity,
        metrics: Metrics,
        upstream_metrics: UpstreamMetrics,
        limits: Limits,
    ) -> None:
        self._upstream, self._capacity = upstream, capacity
        self._metrics, self._upstream_metrics = metrics, upstream_metrics
        self._described: Description | None = None
        self._model: UpstreamModel | None = None
        self._changed = asyncio.Event()
        self._instances = [
            Instance(upstream, address, limits, accepts=self._misfit, changed=self._note)
            for address in upstream.instances
        ]
        for instance in self._instances:
            upstream_metrics.watch(instance)

    async def made(self, wait: float) -> UpstreamModel:
        """The model, once an instance has said what it serves."""
        for instance in self._instances:
            instance.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while self._described is None and not all(one.state is State.WRONG for one in self._instances):
                    await self._changed.wait()
                    self._changed.clear()
        if self._described is None:
            raise self._failure(wait)
        self._model = UpstreamModel(
            self._upstream, self._described, self._instances, self._capacity, self._metrics, self._upstream_metrics
        )
        return self._model

    def close(self) -> None:
        for instance in self._instances:
            instance.close()

    def _failure(self, wait: float) -> InvalidInput | Unavailable:
        reasons = "; ".join(f"{instance}: {instance.reason}" for instance in self._instances)
        what = f"--upstream {self._upstream.name}"
        if all(instance.state is State.WRONG for instance in self._instances):
            return InvalidInput(what, found=reasons)
        mend = "start it, or wait longer with --upstream-wait"
        return Unavailable(what, found=reasons, wanted=f"an instance that answers within {wait:g} s", mend=mend)

    def _misfit(self, described: Description) -> str | None:
        if self._described is None:
            self._described = described
        known = self._described
        if described == known:
            return None
        found, wanted = (f"bundle {one.digest[:16]} on {one.engine}" for one in (described, known))
        return f"it serves {found}, not {wanted}; restart this server once all instances serve the same"

    def _note(self, instance: Instance) -> None:
        self._changed.set()
        if self._model is not None:
            self._model.changed()
