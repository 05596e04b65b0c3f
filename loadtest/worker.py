"""A Locust process that the driver started: obeys its orders, block by block. In Locust's child processes only."""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gevent
from gevent.fileobject import FileObjectPosix
from gevent.queue import Queue

from .answers import AnswerCheck, read_expected
from .arrivals import block_offsets, block_rows
from .client import Client, open_client
from .generator import Generator, Load, Settled
from .orders import WARM_UP, Assignment, line, read_block
from .payloads import read_payloads
from .plan import Block
from .samples import SampleLog, read_record
from .stages import write_stages

_PROGRESS_SECONDS = 1.0


class Link:
    """The process's end of the pipes to the driver.

    Attributes:
        assignment: what the process was told at its start.
        orders: the driver's, except the one to stop.
        scheduling: see :func:`take_precedence`.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.orders: Queue[dict[str, Any]] = Queue()
        self._block: gevent.Greenlet | None = None
        self.scheduling = take_precedence() if assignment.worker >= 0 else "normal"
        gevent.spawn(self._listen)

    def report(self, **event: Any) -> None:
        """Tell the driver."""
        os.write(self.assignment.events, line(event))

    def run(self, send: Callable[[], None]) -> None:
        """Run a block so that the order to stop can end it; returns when it is over, raises what it raised."""
        self._block = gevent.spawn(send)
        self._block.get()

    def _listen(self) -> None:
        with FileObjectPosix(self.assignment.orders, "rb") as pipe:
            for text in pipe:
                order = json.loads(text)
                if order["order"] != "stop":
                    self.orders.put(order)
                elif self._block is not None:
                    self._block.kill(block=False)
        os.kill(os.getpid(), signal.SIGTERM)  # the driver is gone: Locust ends in its own orderly way


def take_precedence() -> str:
    """Let this process wake on time beside a busy server on the same machine; returns the scheduling that it got.

    A client elsewhere would have a processor of its own. Real-time scheduling, where the system grants it, is closest:
    the little that a send costs is done when it is due.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))
    except OSError:
        return "normal"
    return "real-time"


class Worker:
    """Sends this process's share of every block."""

    def __init__(self, link: Link, sink: Callable[[Settled], None]) -> None:
        assignment = link.assignment
        self._link, self._sink, self._index = link, sink, assignment.worker
        self._run_dir = Path(assignment.run_dir)
        record = read_record(self._run_dir)
        self._plan = record.plan
        data = self._plan.data
        # Plain text has no columns to choose from, and takes no pairs.
        self._payloads = read_payloads(Path(assignment.data), data.text_column, data.pair_column)
        self._expected = read_expected(Path(assignment.golden), data.rows) if assignment.golden else ()
        # Labels of a bundle's own are no promise of another bundle's.
        self._held = (record.machine.get("golden") or {}).get("sides", ["candidate", "baseline"])
        self._clients: dict[str, Client] = {}
        self._requests: dict[tuple[str, int], bytes] = {}

    def obey(self) -> None:
        """Take orders for ever; Locust's end ends it."""
        self._link.report(event="ready", scheduling=self._link.scheduling)
        while True:
            order = self._link.orders.get()
            block, form = read_block(order)
            client, load = self._prepare(block)
            with SampleLog(self._run_dir, block, self._index) as log:

                def settle(request: Settled, log: SampleLog = log) -> None:
                    log.append(*request[:6])
                    self._sink(request)

                expected = self._expected if block.side in self._held else ()
                generator = Generator(client, AnswerCheck(form, expected), settle)
                generator.warm_up(load, WARM_UP)
                # What stands by now stays; later collections look at the few new objects and are short.
                gc.collect()
                gc.freeze()
                self._link.report(event="prepared", block=block.index)
                at = self._link.orders.get()["at"]
                progress = gevent.spawn(self._report_progress, generator)
                try:
                    self._link.run(functools.partial(generator.run, load, at))
                finally:
                    progress.kill(block=False)
            write_stages(self._run_dir, block, self._index, generator.timings)
            self._link.report(event="done", books=asdict(generator.books(block.index, self._index)))

    def _prepare(self, block: Block) -> tuple[Client, Load]:
        plan = self._plan
        url = plan.baseline_url if block.side == "baseline" and plan.baseline_url else plan.url
        if url not in self._clients:
            self._clients[url] = open_client(url, plan.model, plan.version, plan.key_file_of(url))
        client = self._clients[url]
        offsets = block_offsets(plan, block, self._index)
        rows = block_rows(plan, block, self._index, len(offsets))
        for row in set(rows.tolist()):
            if (url, row) not in self._requests:
                pair = self._payloads.pairs[row] if self._payloads.pairs else None
                self._requests[url, row] = client.encode(self._payloads.texts[row], pair)
        requests = {row: self._requests[url, row] for row in set(rows.tolist())}
        share, extra = divmod(plan.max_in_flight, plan.workers)
        return client, Load(offsets, rows, requests, plan.timeout_s, share + (self._index < extra))

    def _report_progress(self, generator: Generator) -> None:
        while True:
            gevent.sleep(_PROGRESS_SECONDS)
            self._link.report(
                event="progress", due=generator.due, outcomes=dict(generator.outcomes), steps=dict(generator.steps)
            )
