"""Who takes part: names of their rows, what installs them, what starts them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import plans
from .bench import Bench
from .environments import LITSERVE, PYTRITON, TORCHSERVE, NotInstalled, Package, install
from .plans import NotRun, Served
from .servers import Plan, Server, StartFailed, started

Start = Callable[[Sequence[Served]], Plan]

PYTRITON_BF16, PYTRITON_INT8 = "PyTriton, openvino-bf16", "PyTriton, onnx-int8"
PEER_ENGINES = ("openvino-bf16", "onnx-int8")
"""The best files for peers: of the runtimes that they serve with, the fastest engines that read padded rows."""

LITSERVE_BF16, TORCHSERVE_EAGER = "LitServe, openvino-bf16", "TorchServe, eager"


@dataclass(frozen=True)
class Contender:
    """A server that can be asked to take part.

    Attributes:
        key: its name on the command line.
        ways: names of its rows.
        start: what to start for some models.
        package: what has to be installed; None for ours.
        usual: takes part unless others are named.
    """

    key: str
    ways: tuple[str, ...]
    start: Start
    package: Package | None = None
    usual: bool = True


STARTS = 3
"""How often a server is started until it is given up."""

OURS = Contender("ours", (plans.OURS_PREDICT, plans.OURS_OIP, plans.OURS_GRPC), plans.ours)
NULL = Contender("null", (plans.NULL_PREDICT, plans.NULL_GRPC), lambda models: plans.null(models[0]))
PEERS = (
    Contender(
        "pytriton-openvino",
        (f"{PYTRITON_BF16}, gRPC", f"{PYTRITON_BF16}, HTTP"),
        partial(plans.pytriton, engine_id="openvino-bf16"),
        PYTRITON,
    ),
    Contender(
        "pytriton-onnx",
        (f"{PYTRITON_INT8}, gRPC", f"{PYTRITON_INT8}, HTTP"),
        partial(plans.pytriton, engine_id="onnx-int8"),
        PYTRITON,
    ),
    Contender("litserve", (LITSERVE_BF16,), partial(plans.litserve, engine_id="openvino-bf16"), LITSERVE),
    Contender("torchserve", (TORCHSERVE_EAGER,), plans.torchserve, TORCHSERVE),
    # The same with as many instances as cores and one thread each: to see which settings are the better ones here.
    *(
        Contender(
            f"{key}-split",
            (f"PyTriton, {engine}, split, gRPC", f"PyTriton, {engine}, split, HTTP"),
            partial(plans.pytriton, engine_id=engine, split=True),
            PYTRITON,
            usual=False,
        )
        for key, engine in (("pytriton-openvino", "openvino-bf16"), ("pytriton-onnx", "onnx-int8"))
    ),
    Contender(
        "litserve-split",
        ("LitServe, openvino-bf16, split",),
        partial(plans.litserve, engine_id="openvino-bf16", split=True),
        LITSERVE,
        usual=False,
    ),
)
PEER_WAYS = tuple(way for peer in PEERS for way in peer.ways)


def set_up(bench: Bench, peers: Sequence[Contender], *, make: bool) -> list[Contender]:
    """Install what the peers need; those that are ready, the others noted with the reason.

    Args:
        bench: where reasons are noted.
        peers: who is wanted.
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
            _not_run(bench, peer.ways, str(error))
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
    for contender in contenders:
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
