"""The parts of a run, in their order. Each leaves its samples in the book."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from . import plans
from .bare_process import BareProcess, bare_process
from .bench import Bench, Row, bare_row
from .contenders import NULL, OURS, Contender, bring_up
from .lengths import mixed_lengths, text_of
from .loader import LoadFailed
from .plans import BARE, Served
from .processes import ProcessTree
from .servers import Server, StartFailed, started

ONCE_CLIENTS = 16
SEVERAL = 8
"""Texts a request where a request has several."""

LENGTHS = (4, 512)
LENGTH_TEXTS = 200
UNMETERED = "ours without metrics"

CLOSED, RATES, ONCE = "{} clients", "highest rate", "all texts once"
MIXED, MANY, METRICS, WIDE = "mixed lengths", "several texts", "metrics", "BERT-base"
TWO = "two models"


def closed_name(clients: int) -> str:
    """The part's name for so many clients."""
    return CLOSED.format(clients)


def main_part(bench: Bench, model: Served, peers: Sequence[Contender], parts: Sequence[str], logs: Path) -> None:
    """All servers on the first model: labels, closed loops, lengths, several texts, rates, metrics."""
    bench.new_servers()
    with contextlib.ExitStack() as stack:
        bench.say(f"starting servers of {model.name}/{model.version}")
        servers = bring_up(bench, stack, [OURS, NULL, *peers], [model], logs)
        rows = bench.rows(servers, bench.texts, bench.labels)
        bare = _bare(bench, stack, model, logs)
        if bare is not None:
            rows.append(bare_row(bare))
        _once(bench, rows)
        _closed_loops(bench, rows)
        _facts(bench, servers, bare)
        real = [server for server in servers if server.name != "front without engine"]
        if "mixed" in parts:
            _mixed(bench, model, real)
        if "several" in parts:
            _several(bench, real)
        if "rates" in parts:
            _rates(bench, real, [row for row in rows if row.server in real])
        _starts(bench, model, logs)
        if "metrics" in parts:
            _metrics(bench, model, [row for row in rows if row.way == plans.OURS_PREDICT], logs)


def wide_part(bench: Bench, wide: Served, texts: Sequence[str], peers: Sequence[Contender], logs: Path) -> None:
    """BERT-base at 128 tokens, one client."""
    bench.new_servers()
    with contextlib.ExitStack() as stack:
        bench.say(f"starting servers of {wide.name}/{wide.version} on {wide.engine}")
        servers = bring_up(bench, stack, [OURS, *peers], [wide], logs)
        rows = bench.rows(servers, texts)
        try:
            rows.append(bare_row(stack.enter_context(bare_process(wide, texts, [], logs))))
        except StartFailed as error:
            bench.out[f"{BARE}, {WIDE}"] = f"not run: {error}"
        bench.say(f"{WIDE}, 128 tokens, 1 client")
        for _ in range(bench.options.rounds):
            bench.closed(WIDE, rows, 1)


def two_part(
    bench: Bench, model: Served, wide: Served, texts: Sequence[str], peers: Sequence[Contender], logs: Path
) -> None:
    """Two models in one server, both asked at once: 8 clients on the first, 2 on BERT-base."""
    bench.new_servers()
    with contextlib.ExitStack() as stack:
        bench.say(f"starting servers of both {model.name} and {wide.name}")
        wanted = [OURS, *(peer for peer in peers if peer.key == "pytriton-openvino")]
        servers = bring_up(bench, stack, wanted, [model, wide], logs)
        pairs = []
        for server in servers:
            for way in server.ways:
                both = bench.target(way, model.name, bench.texts), bench.target(way, wide.name, texts)
                pairs.append((Row(way.name, server), both))
        bench.say(f"{TWO}: 8 and 2 clients")
        for _ in range(bench.options.rounds):
            for i in bench.rng.permutation(len(pairs)):
                row, (first, second) = pairs[i]
                if row.way not in bench.broken:
                    _two_slice(bench, row, [(first, 8), (second, 2)], (model.name, wide.name))


def _two_slice(bench: Bench, row: Row, loads: Sequence[tuple[Any, int]], names: Sequence[str]) -> None:
    assert row.server is not None
    seconds = 1.5 * bench.options.seconds
    try:
        with row.server.awake():
            results = bench.loader.closed(loads, seconds)
            if not all(result["latencies"] or result["errors"] for result in results):
                seconds *= 5  # nobody answered on one of them: more time, not a sample of nothing
                results = bench.loader.closed(loads, seconds)
        for name, result in zip(names, results, strict=True):
            if result["errors"] or not result["latencies"]:
                raise LoadFailed(f"{name}: {result['errors']} errors, the last one {result['error']}")
        for name, result in zip(names, results, strict=True):
            latencies = sorted(result["latencies"])
            bench.book.add(
                f"{TWO}, {name}",
                row.way,
                rate=len(latencies) / seconds,
                p50_ms=1e3 * latencies[len(latencies) // 2],
            )
    except LoadFailed as error:
        bench.failed(row, str(error))


def _bare(bench: Bench, stack: contextlib.ExitStack, model: Served, logs: Path) -> BareProcess | None:
    try:
        return stack.enter_context(bare_process(model, bench.texts, bench.labels, logs))
    except StartFailed as error:
        bench.out[BARE] = f"not run: {error}"
        return None


def _once(bench: Bench, rows: Sequence[Row]) -> None:
    """Each text once, 16 at a time: what share gets the checkpoint's own label. It warms the servers up, too."""
    bench.say(f"{len(bench.texts)} texts once through each way")
    for row in rows:
        try:
            if row.bare is not None:
                if bench.labels:
                    bench.book.add(ONCE, row.way, right=row.bare.right() / len(bench.texts))
                continue
            assert row.server is not None
            assert row.target is not None
            with row.server.awake():
                result = bench.loader.once(row.target, ONCE_CLIENTS)
            if result["errors"]:
                raise LoadFailed(f"{result['errors']} errors, the last one {result['error']}")
            right = result["right"] / len(bench.texts) if bench.labels else None
            bench.book.add(ONCE, row.way, right=right, answers=result["answers"])
        except LoadFailed as error:
            bench.failed(row, str(error))


def _closed_loops(bench: Bench, rows: Sequence[Row]) -> None:
    for number in range(bench.options.rounds):
        bench.say(f"closed loops, round {number + 1} of {bench.options.rounds}")
        for clients in bench.options.clients:
            bench.closed(closed_name(clients), rows, clients)


def _facts(bench: Bench, servers: Sequence[Server], bare: BareProcess | None) -> None:
    """Memory after the load, start-up, and whether PyTorch is in the process."""
    for server in servers:
        facts = _facts_of(server.tree, server.start_seconds)
        facts["idle_share"] = server.idle_share
        for way in server.ways:
            bench.facts[way.name] = facts
            bench.book.add("process", way.name, pss_mb=facts["pss_mb"], ready_s=server.start_seconds)
    if bare is not None:
        bench.facts[BARE] = {**_facts_of(bare.tree, bare.start_seconds), "setups": bare.setups}
        bench.book.add("process", BARE, pss_mb=bench.facts[BARE]["pss_mb"], ready_s=bare.start_seconds)


def _facts_of(tree: ProcessTree, start_seconds: float) -> dict[str, Any]:
    pss = tree.pss_bytes()
    return {
        "pss_mb": None if pss is None else pss / 1e6,
        "ready_s": start_seconds,
        "torch_mapped": tree.has_mapped("libtorch"),
        "processes": len(tree.members()),
    }


def _starts(bench: Bench, model: Served, logs: Path) -> None:
    """Our server started again and again: the first time may have waited for the disk."""
    for _ in range(bench.options.rounds - 1):
        try:
            with started(plans.ours([model], "ours again"), logs, bench.texts[0]) as server:
                bench.book.add("process", plans.OURS_PREDICT, ready_s=server.start_seconds)
        except StartFailed as error:
            bench.out["ours, started again"] = f"not run: {error}"


def _mixed(bench: Bench, model: Served, servers: Sequence[Server]) -> None:
    tokenizer = Tokenizer.from_file(str(model.bundle / plans.TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    most = min(LENGTHS[1], model.manifest.model.max_length)
    lengths = mixed_lengths(LENGTH_TEXTS, LENGTHS[0], most, bench.rng)
    texts = [text_of(length, bench.texts, count, skip=97 * i) for i, length in enumerate(lengths)]
    bench.say(f"{MIXED}: {LENGTHS[0]} to {most} tokens, 16 clients")
    rows = bench.rows(servers, texts)
    for _ in range(bench.options.rounds):
        bench.closed(MIXED, rows, 16, seconds=1.5 * bench.options.seconds)


def _several(bench: Bench, servers: Sequence[Server]) -> None:
    bench.say(f"{MANY}: {SEVERAL} a request, 4 clients")
    rows = bench.rows(servers, bench.texts, each=SEVERAL)
    for _ in range(bench.options.rounds):
        bench.closed(MANY, rows, 4, each=SEVERAL)


def _rates(bench: Bench, servers: Sequence[Server], rows: Sequence[Row]) -> None:
    """Each server that has several transports of one kind is searched on the faster one; ours on all."""
    most = closed_name(max(bench.options.clients, key=lambda clients: min(clients, 16)))
    ways = {row.way for row in bench.well(rows)}
    chosen = [way for way in OURS.ways if way in ways]
    for server in servers:
        if server.name != plans.OURS:
            best = bench.book.best(most, "rate", [way.name for way in server.ways if way.name in ways], most=True)
            chosen += [best] if best else []
    starts = {way: 0.6 * (bench.book.median(most, "rate", way) or 100.0) for way in chosen}
    bench.say(f"{RATES}: Poisson arrivals, p99 within 45 ms, trials of {bench.options.trial_seconds:g} s")
    bench.highest_rates(RATES, rows, starts)


def _metrics(bench: Bench, model: Served, rows: Sequence[Row], logs: Path) -> None:
    """The same server without metrics, in turn with the real one."""
    plan = plans.ours([model], UNMETERED, ("--metrics", "off"), ways=False)
    try:
        with started(plan, logs, bench.texts[0]) as server:
            server.rest()
            both = [*rows, *bench.rows([server], bench.texts, bench.labels)]
            bench.say("metrics on and off, 16 clients")
            for _ in range(3 * bench.options.rounds):
                bench.closed(METRICS, both, 16)
    except StartFailed as error:
        bench.out[UNMETERED] = f"not run: {error}"
        bench.say(f"  {UNMETERED}: {bench.out[UNMETERED]}")
