"""``make bench-verdict BENCH_VERDICT_ARGS='--real 20'``: a real server compared with itself, by whole load tests.

Without ``--url`` it is a server that does nothing, so that what differs between the two sides is the machine's noise.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlpdeploy.loadtest.null_server import MODEL, null_server

from .results import print_table

RATE, SECONDS, TARGET = 200, 10.0, "p95=500ms"
"""Of each comparison: requests a second, seconds on each side, and a limit that decides nothing."""
_TEXTS = "Where is my card?\nI lost my card\nWhy was I charged twice for the same payment?\n"


@dataclass(frozen=True)
class Server:
    """Whom to compare with itself: its address, the model's name, a file of texts."""

    url: str
    model: str
    data: Path


@contextmanager
def server(url: str | None, model: str, data: Path | None) -> Iterator[Server]:
    """The one that was named, or one that does nothing."""
    with tempfile.TemporaryDirectory(prefix="nlpdeploy-verdict-") as name:
        texts = data or Path(name) / "texts.txt"
        if data is None:
            texts.write_text(_TEXTS, encoding="utf-8")
        if url is not None:
            yield Server(url, model, texts)
            return
        with null_server() as addresses:
            yield Server(addresses["grpc"], MODEL, texts)


def compare_with_itself(named: Server, runs: int, first: int) -> int:
    """Run comparisons of seeds ``first``, ``first`` + 1, …; the status is 1 if more than one in twenty finds a
    difference, or one says "faster"."""
    rows, holds, faster = [], 0, 0
    for seed in range(first, first + runs):
        found = _compare(named, seed)
        holds += found["ratio_low"] is not None and found["ratio_low"] <= 1.0 <= found["ratio_high"]
        faster += found["finding"] == "faster"
        order = "".join(side[0].upper() for side in found["order"])
        interval = ["", ""] if found["ratio"] is None else [f"{found['ratio_low']:.3f}", f"{found['ratio_high']:.3f}"]
        rows.append([str(seed), order, *interval, found["reason"] or found["finding"]])
        print(*rows[-1], flush=True)
    print_table(f"{named.url} against itself, p95", ["seed", "order", "low", "high", "finding"], rows)
    print(f"\nintervals with 1: {holds} of {runs}; faster: {faster}")
    return 1 if faster or holds < 0.95 * runs else 0


def _compare(named: Server, seed: int) -> dict[str, Any]:
    """What the comparison of one whole load test says."""
    with tempfile.TemporaryDirectory(prefix="nlpdeploy-verdict-") as name:
        command = [
            sys.executable,
            "-m",
            "nlpdeploy.cli",
            "loadtest",
            "run",
            "--url",
            named.url,
            "--baseline",
            named.url,
        ]
        command += ["--model", named.model, "--data", str(named.data), "--rate", str(RATE), "--seconds", str(SECONDS)]
        command += ["--target", TARGET, "--seed", str(seed), "--run-dir", f"{name}/run", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.stdout:
            raise RuntimeError(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)["baseline"]
        return found
