"""The server as a process: fronts first, then the models, then requests; on a signal drained, and gone."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ..runtime.heap import keep_freed_memory
from ..runtime.predictor import Predictor
from .log import LogFormat, format_for, logging_to, say_without_texts
from .metrics import Metrics
from .models import load_models
from .plane import DataPlane
from .request_log import RequestLog
from .settings import Settings, check, fitted
from .upstreams import connect_upstreams

log = logging.getLogger(__name__)

SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that holds the interpreter is asked to give way. At Python's 5 ms, an engine call of
1.5 ms that comes back while another thread computes takes 7 ms; at 0.5 ms it takes 2.2 ms."""

LAST_BYTES = 1.0
LAST_CALL = 2.0
"""Seconds for answers to leave, and for an engine call to come back, once everything is settled."""


class Front(Protocol):
    """A transport over the data plane."""

    async def start(self) -> int:
        """Listen; returns the port."""
        ...

    async def drain(self) -> None:
        """Tell clients to go elsewhere."""
        ...

    async def stop(self, grace: float) -> None:
        """Close, cutting what takes longer than ``grace`` seconds."""
        ...


def run(settings: Settings, predictors: Sequence[Predictor] = ()) -> int:
    """Serve until SIGTERM or SIGINT; the exit status, 0, with which the process is expected to end.

    From then on both signals are ignored; after a start that failed they are the caller's again.

    Args:
        settings: addresses and limits.
        predictors: served as they are, as version 1, instead of models from the store.

    Raises:
        NotFound, CorruptBundle, EngineUnavailable, EngineFailed: a model can't be loaded; nothing was ever ready.
        InvalidInput: a setting is out of range, a port is in use, or an upstream can't be asked as the settings say.
        Unavailable: no instance of an upstream has answered in time.
    """
    check(settings)
    form = settings.log_format or format_for(sys.stderr)
    with logging_to(sys.stderr, form), _request_log(settings, form) as requests:
        return _run(dataclasses.replace(settings, wire=fitted(settings.wire)), predictors, requests)


@contextmanager
def _request_log(settings: Settings, form: LogFormat) -> Iterator[RequestLog | None]:
    requests = RequestLog(sys.stderr, form) if settings.log_requests else None
    try:
        yield requests
    finally:
        if requests:
            requests.close()


def _run(settings: Settings, predictors: Sequence[Predictor], requests: RequestLog | None) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the encoder threads are the parallelism
    sys.setswitchinterval(SWITCH_INTERVAL)
    keep_freed_memory()
    if not asyncio.run(serve(settings, predictors, requests)):
        if requests:
            requests.close()
        # A runtime at work can't be interrupted, and an interpreter that ends under it would crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


async def serve(settings: Settings, predictors: Sequence[Predictor] = (), requests: RequestLog | None = None) -> bool:
    """As :func:`run`, in a running event loop, whose log is the caller's.

    Returns:
        Whether every thread that calls a runtime has ended.
    """
    signals = _Signals()
    asyncio.get_running_loop().set_exception_handler(say_without_texts)
    names = tuple(spec.replace("/", ":").partition(":")[0] for spec in settings.models)
    names += tuple(upstream.name for upstream in settings.upstreams)
    metrics = Metrics(counting=settings.metrics)
    plane = DataPlane(settings.capacity, default_timeout=settings.default_timeout, expected=names, metrics=metrics)
    for name, value in settings.limits().items():
        metrics.limit(name, value)
    if requests is not None:
        metrics.log_left_out.set_function(lambda: requests.left_out)
    fronts: dict[str, Front] = {}
    drained = False
    try:
        ports = await _start_fronts(settings, plane, fronts, requests)
        loaded = await _load(settings, predictors, plane, signals)
        if loaded:
            await plane.warm()
            loaded = await _adopt_upstreams(settings, plane, signals)
        if loaded:
            # What was loaded stays: the collector needn't walk through it while requests wait.
            gc.collect()
            gc.freeze()
            plane.open()
            _say_ready(settings, plane, ports)
            await signals.first.wait()
            log.info("draining: up to %g s for accepted work, a second signal ends at once", settings.grace)
            await _drain(plane, fronts, settings.grace, signals)
        drained = True
    finally:
        # The answers are made by now; this is the time for their last bytes, and for an engine call under way.
        await asyncio.gather(*(front.stop(LAST_BYTES) for front in fronts.values()))
        ended = plane.close(0.0 if signals.second.is_set() else LAST_CALL)
        if drained:
            signals.ignore()
        else:
            signals.restore()
    return ended and loaded


class _Signals:
    """The first and the second SIGTERM or SIGINT, as events."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        # Not the loop's own handlers: when it closes it would put back those that kill.
        self._before = {
            number: signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(self._came))
            for number in (signal.SIGTERM, signal.SIGINT)
        }

    def _came(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def ignore(self) -> None:
        """Once drained: one signal too many must not turn the status 0 into a kill."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """After a start that failed: the caller's handlers again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


async def _start_fronts(
    settings: Settings, plane: DataPlane, fronts: dict[str, Front], requests: RequestLog | None
) -> dict[str, int]:
    """Listen; ``fronts`` gets each one that has started, so that it can be stopped whatever happens to the next."""
    from .grpc_front import GrpcFront
    from .http_front import HttpFront

    host, wire = settings.host, settings.wire
    limit = wire.message_bytes
    made: dict[str, Front] = {
        "grpc": GrpcFront(
            plane, host, settings.grpc_port, max_message_bytes=limit, limits=wire.grpc(), requests=requests
        ),
        "http": HttpFront(
            plane, host, settings.http_port, max_message_bytes=limit, limits=wire.http(), requests=requests
        ),
    }
    ports = {}
    for name, front in made.items():
        ports[name] = await front.start()
        fronts[name] = front
        log.info("%s on %s:%d, messages up to %d bytes", name, host, ports[name], limit)
    return ports


async def _load(settings: Settings, predictors: Sequence[Predictor], plane: DataPlane, signals: _Signals) -> bool:
    """Put the models into the plane; False where a signal came first."""
    for predictor in predictors:
        plane.add(predictor)
    if predictors or (settings.upstreams and not settings.models):
        return True
    loading = asyncio.ensure_future(
        load_models(settings.store, settings.models, engine=settings.engine, threads=settings.threads)
    )
    if not await _unless(signals.first, loading):
        return False
    for loaded in await loading:
        plane.add(loaded.predictor, version=str(loaded.reference.version), chosen=loaded.chosen)
    return True


async def _adopt_upstreams(settings: Settings, plane: DataPlane, signals: _Signals) -> bool:
    """Put the models that others answer for into the plane; False where a signal came first."""
    connecting = asyncio.ensure_future(connect_upstreams(settings, plane.metrics))
    if not await _unless(signals.first, connecting):
        return False
    for model in await connecting:
        plane.adopt(model)
    return True


async def _drain(plane: DataPlane, fronts: dict[str, Front], grace: float, signals: _Signals) -> None:
    draining = asyncio.ensure_future(plane.drain(grace))
    await asyncio.sleep(0)  # the plane refuses from here on; only then are clients sent away
    await asyncio.gather(*(front.drain() for front in fronts.values()))
    if not await _unless(signals.second, draining):
        await plane.drain(0.0)
        log.info("ended at once by a second signal")
    elif not await draining:
        log.warning("work that took longer than %g s was answered as unavailable", grace)


async def _unless(event: asyncio.Event, work: asyncio.Future[Any]) -> bool:
    """Wait for ``work``, and cancel it if ``event`` comes first; whether it ended by itself."""
    watch = asyncio.ensure_future(event.wait())
    await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
    watch.cancel()
    return work.done() or not work.cancel()


def _say_ready(settings: Settings, plane: DataPlane, ports: dict[str, int]) -> None:
    models = [
        {"name": served.name, "version": served.version, "engine": served.engine_id, "bundle_digest": served.digest}
        for served in plane.served()
    ]
    for model in models:
        log.info("ready: %(name)s version %(version)s on %(engine)s, bundle %(bundle_digest)s", model)
    if settings.json_line:
        addresses = {f"{name}_port": port for name, port in ports.items()}
        line = {"event": "ready", "pid": os.getpid(), "host": settings.host, **addresses, "models": models}
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()
