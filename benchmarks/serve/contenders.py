"""Who takes part: names of their rows, what installs them, what starts them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from . import plans
from .bench import Bench
from .environments import LITSERVE, PYTRITON, TORCHSERVE, NotInstalled, Package, install
from .plans import NotRun, Served
from .servers import Plan, Server, StartFailed, started

Start = Callable[..., Plan]
"""From models, and the engine's id where one is chosen, to what to start."""

OPENVINO, ONNX = ("openvino-bf16", "openvino-f32"), ("onnx-int8",)
"""The best files for peers, by runtime: engines that read padded rows, the fastest first. Not every CPU has bf16."""


TORCHSERVE_EAGER = "TorchServe, eager"


def best_engine(engines: Sequence[str], models: Sequence[Served]) -> str:
    """The first that is ready in all of the models; where none is, the last: starting it then says what is missing."""
    ready = (engine for engine in engines if all(model.has_ready(engine) for model in models))
    return next(ready, engines[-1])


@dataclass(frozen=True)
class Contender:
    """A server that can be asked to take part.

    Attributes:
        key: its name on the command line.
        ways: names of its rows; ``{engine}`` in them is what :meth:`on` chooses.
        start: what to start for some models.
        package: what has to be installed; None for ours.
        usual: takes part unless others are named.
        engines: ids that it can serve, the best first; empty where there is no choice, or no more.
    """

    key: str
    ways: tuple[str, ...]
    start: Start
    package: Package | None = None
    usual: bool = True
    engines: tuple[str, ...] = ()

    def on(self, models: Sequence[Served]) -> Contender:
        """The same on the :func:`best_engine` for these models, its rows named after it."""
        if not self.engines:
            return self
        engine = best_engine(self.engines, models)
        return replace(self, ways=self.ways_on(engine), start=partial(self.start, engine_id=engine), engines=())

    def ways_on(self, engine: str) -> tuple[str, ...]:
        """Names of its rows on this engine."""
        return tuple(way.format(engine=engine) for way in self.ways)


STARTS = 3
"""How often a server is started until it is given up."""

OURS = Contender("ours", (plans.OURS_PREDICT, plans.OURS_OIP, plans.OURS_GRPC), plans.ours)
NULL = Contender("null", (plans.NULL_PREDICT, plans.NULL_GRPC), lambda models: plans.null(models[0]))
_PYTRITON = ("PyTriton, {engine}, gRPC", "PyTriton, {engine}, HTTP")
_ONE = (
    Contender("pytriton-openvino", _PYTRITON, plans.pytriton, PYTRITON, engines=OPENVINO),
    Contender("pytriton-onnx", _PYTRITON, plans.pytriton, PYTRITON, engines=ONNX),
    Contender("litserve", ("LitServe, {engine}",), plans.litserve, LITSERVE, engines=OPENVINO),
)
# The same with as many instances as cores and one thread each: to see which settings are the better ones here.
_SPLIT = tuple(
    replace(
        peer,
        key=f"{peer.key}-split",
        ways=tuple(way.replace("{engine}", "{engine}, split") for way in peer.ways),
        start=partial(peer.start, split=True),
        usual=False,
    )
    for peer in _ONE
)
PEERS = (*_ONE, Contender("torchserve", (TORCHSERVE_EAGER,), plans.torchserve, TORCHSERVE), *_SPLIT)
PEER_WAYS = tuple(way for peer in PEERS for engine in peer.engines or ("",) for way in peer.ways_on(engine))
"""All names that rows of peers can have."""


def set_up(bench: Bench, peers: Sequence[Contender], model: Served, *, make: bool) -> list[Contender]:
    """Install what the peers need; those that are ready, the others noted with the reason.

    Args:
        bench: where reasons are noted.
        peers: who is wanted.
        model: the first that they serve, which names their rows.
        make: install what isn't there; otherwise that is a reason.
    """
    ready = []
    for peer in peers:
        try:
            if peer.package is not None and not peer.package.installed():
                if not make:
                    raise NotInstalled("its environment isn't set up; --prepare sets it up")
                install(peer.package)
            ready.append(peer)
        except NotInstalled as error:
            _not_run(bench, peer.on([model]).ways, str(error))
    return ready


def bring_up(
    bench: Bench,
    stack: contextlib.ExitStack,
    contenders: Sequence[Contender],
    models: Sequence[Served],
    logs: Path,
) -> list[Server]:
    """Start them one after the other; those that don't come up are noted with the reason."""
    servers = []
    for contender in (each.on(models) for each in contenders):
        try:
            server = _start(bench, stack, contender, models, logs)
        except (NotRun, NotInstalled, StartFailed) as error:
            _not_run(bench, contender.ways, str(error))
            continue
        server.rest()
        bench.say(
            f"  {server.name} is up after {server.start_seconds:.1f} s" + (" (paused)" if server.restless else "")
        )
        servers.append(server)
    return servers


def _start(
    bench: Bench, stack: contextlib.ExitStack, contender: Contender, models: Sequence[Served], logs: Path
) -> Server:
    # PyTriton's parts give each other one second to meet: on a busy machine a start can fail and the next one not.
    for left in reversed(range(STARTS)):
        try:
            return stack.enter_context(started(contender.start(models), logs, bench.texts[0]))
        except StartFailed as error:
            if not left:
                raise
            bench.say(f"  {contender.key} did not start, once more: {error}")
    raise AssertionError("the last start returned or raised")


def _not_run(bench: Bench, ways: Sequence[str], why: str) -> None:
    for way in ways:
        bench.out[way] = f"not run: {why}"
        bench.say(f"  {way}: not run: {why}")
