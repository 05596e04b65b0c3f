"""Tables on the terminal, made of the samples; pure but for printing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..results import print_table
from . import parts, plans
from .bench import LIMIT, Bench
from .book import Book
from .contenders import NULL, OURS, PEER_WAYS, TORCHSERVE_EAGER, Contender
from .plans import BARE, Served
from .wanted import Outcome, Wanted, judge_all

ROWS = (*OURS.ways, *PEER_WAYS, BARE, *NULL.ways)
NOTHING = "-"


def all_wanted(clients: Sequence[int]) -> list[Wanted]:
    """What is wanted of our front, against the best peer in each column."""
    grpc, http = plans.OURS_GRPC, plans.OURS_PREDICT
    one, many = parts.closed_name(min(clients)), parts.closed_name(16)
    peers, bare = PEER_WAYS, (BARE,)
    rates, wide = parts.RATES, parts.WIDE
    return [
        Wanted("gRPC p50, 1 client", grpc, one, "p50_ms", 0.65, False, peers),
        Wanted("gRPC requests/s, 16 clients", grpc, many, "rate", 2.3, True, peers),
        Wanted("gRPC highest rate", grpc, rates, "highest_rate", 2.5, True, peers),
        Wanted("gRPC CPU a request, 16 clients", grpc, many, "cpu_s_per_1000", 0.5, False, peers),
        Wanted("HTTP requests/s, 16 clients", http, many, "rate", 2.8, True, peers),
        Wanted("HTTP highest rate", http, rates, "highest_rate", 3.5, True, peers),
        Wanted("BERT-base p50 over gRPC", grpc, wide, "p50_ms", 0.9, False, peers),
        Wanted("BERT-base p50 over HTTP", http, wide, "p50_ms", 0.9, False, peers),
        Wanted("BERT-base p50 over gRPC", grpc, wide, "p50_ms", 0.25, False, (TORCHSERVE_EAGER,)),
        *(Wanted(f"labels as fp32, {way}", way, parts.ONCE, "right", 0.995, True) for way in OURS.ways),
        Wanted("ready after, s", http, "process", "ready_s", 3.0, False),
        Wanted("metrics: requests/s with over without", http, parts.METRICS, "rate", 0.98, True, (parts.UNMETERED,)),
        Wanted("HTTP requests/s, 16 clients", http, many, "rate", 0.75, True, bare, must=False),
        Wanted("gRPC requests/s, 16 clients", grpc, many, "rate", 0.6, True, bare, must=False),
        Wanted("HTTP p50 ms, 1 client", http, one, "p50_ms", 0.35, False, bare, minus=True, must=False),
        Wanted("gRPC p50 ms, 1 client", grpc, one, "p50_ms", 0.6, False, bare, minus=True, must=False),
    ]


def outcomes(bench: Bench) -> list[Outcome]:
    """What came of it."""
    return judge_all(bench.book, all_wanted(bench.options.clients))


def print_all(bench: Bench, judged: Sequence[Outcome], cores: int) -> None:
    """All tables and lines."""
    clients = bench.options.clients
    _print_main(bench, clients, cores)
    _print_columns(
        bench,
        f"other work; {parts.MIXED}: 16 clients; {parts.MANY}: {parts.SEVERAL} a request, 4 clients, texts/s;\n"
        f"{parts.WIDE}: 128 tokens, 1 client",
        [
            ("mixed lengths/s", parts.MIXED, "rate", ".0f"),
            ("p99 ms", parts.MIXED, "p99_ms", ".1f"),
            ("several, texts/s", parts.MANY, "rate", ".0f"),
            ("BERT-base p50 ms", parts.WIDE, "p50_ms", ".1f"),
        ],
    )
    _print_two(bench)
    _print_metrics(bench.book)
    print("\nratios of the same round: median [quartiles] over the rounds")
    for outcome in judged:
        print(f"  {outcome.line()}")
    torch = [way for way in OURS.ways if bench.facts.get(way, {}).get("torch_mapped")]
    known = any(bench.facts.get(way, {}).get("torch_mapped") is not None for way in OURS.ways)
    said = "not measured" if not known else f"mapped by {', '.join(torch)}: NOT met" if torch else "none: met"
    print(f"  PyTorch in our process: {said}")


def complaints(bench: Bench, expected: Sequence[str]) -> list[str]:
    """What makes the exit status 1: rows that didn't run or broke, and samples that are missing altogether."""
    found = [f"{way}: {why}" for way, why in bench.out.items()]
    one = parts.closed_name(min(bench.options.clients))
    silent = [way for way in expected if way not in bench.out and not bench.book.samples(one, "p50_ms", way)]
    return found + [f"{way}: not measured" for way in silent]


def expected_ways(peers: Sequence[Contender], model: Served) -> list[str]:
    """All rows of the first table where these peers take part."""
    return [*OURS.ways, *(way for peer in peers for way in peer.on([model]).ways), BARE, *NULL.ways]


def _print_main(bench: Bench, clients: Sequence[int], cores: int) -> None:
    book = bench.book
    one = parts.closed_name(min(clients))
    columns: list[tuple[str, str, str, str]] = [(f"p50 ms, {min(clients)}", one, "p50_ms", ".2f")]
    columns += [(f"req/s, {n}", parts.closed_name(n), "rate", ".0f") for n in clients]
    columns += [
        (f"rate, p99<={LIMIT * 1e3:.0f}ms", parts.RATES, "highest_rate", ".0f"),
        ("CPU s/1000", parts.closed_name(_near(16, clients)), "cpu_s_per_1000", ".2f"),
        ("PSS MB", "process", "pss_mb", ".0f"),
        ("ready s", "process", "ready_s", ".1f"),
        ("as fp32", parts.ONCE, "right", ".4f"),
    ]
    ways = [way for way in ROWS if any(book.samples(part, measure, way) for _, part, measure, _ in columns)]
    rows = [[way, *(_cell(book, *column[1:], way) for column in columns)] for way in ways]
    print_table(
        f"{len(bench.texts)} texts, one a request; closed loops of {', '.join(map(str, clients))} clients, medians of "
        f"{bench.options.rounds} rounds of {bench.options.seconds:g} s; load client and servers\n"
        f"share {cores} cores; CPU: of the server's processes, 16 clients; bare engine: no tokenizer, no transport",
        ["", *(column[0] for column in columns)],
        rows,
    )
    for way, why in bench.out.items():
        print(f"{way}: {why}")
    for n, how in bench.facts.get(BARE, {}).get("setups", {}).items():
        print(f"{BARE}, {n} client{'s' if n > 1 else ''}: {how}")
    restless = {way: facts for way, facts in bench.facts.items() if facts.get("idle_share", 0.0) > 0.02}
    for way, facts in restless.items():
        print(f"{way}: takes {facts['idle_share']:.0%} of a core while idle; paused while others are measured")


def _near(wanted: int, clients: Sequence[int]) -> int:
    return min(clients, key=lambda n: abs(n - wanted))


def _print_columns(bench: Bench, title: str, columns: Sequence[tuple[str, str, str, str]]) -> None:
    kept = [column for column in columns if bench.book.ways(column[1], column[2], ROWS)]
    if not kept:
        return
    ways = [way for way in ROWS if any(bench.book.samples(part, measure, way) for _, part, measure, _ in kept)]
    rows = [[way, *(_cell(bench.book, part, measure, spec, way) for _, part, measure, spec in kept)] for way in ways]
    print_table(title, ["", *(column[0] for column in kept)], rows)


def _print_two(bench: Bench) -> None:
    found = sorted({part for part in bench.book.plain() if part.startswith(f"{parts.TWO}, ")})
    columns: list[tuple[str, str, str, str]] = []
    for part in found:
        name = part.removeprefix(f"{parts.TWO}, ")
        columns += [(f"{name} req/s", part, "rate", ".0f"), ("p50 ms", part, "p50_ms", ".1f")]
    _print_columns(bench, f"{parts.TWO} in one server, asked at once: 8 clients on the first, 2 on BERT-base", columns)


def _print_metrics(book: Book) -> None:
    ways = book.ways(parts.METRICS, "rate", [plans.OURS_PREDICT, parts.UNMETERED])
    rows: list[list[str]] = [
        [way, *(_cell(book, parts.METRICS, m, s, way) for m, s in (("rate", ".0f"), ("cpu_s_per_1000", ".3f")))]
        for way in ways
    ]
    if rows:
        print_table("metrics on and off, HTTP, 16 clients", ["", "req/s", "CPU s/1000"], rows)


def _cell(book: Book, part: str, measure: str, spec: str, way: str) -> str:
    value: Any = book.median(part, measure, way)
    return NOTHING if value is None else f"{value:{spec}}"
