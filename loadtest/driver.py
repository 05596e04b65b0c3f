"""A run from its plan to its record: checks first, then block after block through Locust's processes.

Knows the order of things; processes are :mod:`.crew`'s, sending is :mod:`.generator`'s, judging comes later.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..bundle.errors import EngineUnavailable, InvalidInput, StoreFailed, Unavailable
from .answers import OutputForm, read_expected
from .calibration import tightest
from .crew import Crew
from .golden import keep_golden
from .live import live_line
from .looks import draw_looks
from .orders import STOP, WARM_UP, prepare_order, start_order
from .partial import BY_HAND, books_of_lost
from .payloads import Payloads, read_payloads
from .plan import Block, Plan, Side, draw_blocks
from .preflight import count_tokens, meet_server
from .samples import RunRecord, WorkerBooks, write_record
from .server_metrics import ServerMetrics
from .usage import ServerUsage
from .verdict import decided_at

_START_SECONDS = 60.0  # for Locust's imports on a busy machine
_SLACK_SECONDS = 30.0  # past a step's own length before a silent worker counts as lost
_LEAD_SECONDS = 0.2  # from the order to the first arrival: every worker has read it by then
_STOP_SECONDS = 3.0
_SETTLED_SECONDS = 0.6  # past the last timeout, until the last sample of it is on the disk

Progress = Callable[[str], None]


def run(plan: Plan, run_dir: Path, *, progress: Progress | None = None) -> None:
    """Drive the traffic of a plan and leave ``run.json`` and the raw samples in ``run_dir``.

    Args:
        plan: what to do.
        run_dir: a new or an empty folder.
        progress: told about once a second how far it is.

    Raises:
        InvalidInput, NotFound: before any traffic: the folder is in use, the data are not those of the plan or not what
            the model takes, the server has no such model.
        Unavailable: before any traffic: no server there, or Locust's processes don't start.
        EngineUnavailable: Locust is not installed.
        EngineFailed, DeadlineExceeded: a server doesn't answer a first request.
        StoreFailed: the folder can't be written.
        KeyboardInterrupt, SystemExit: passed on when all processes have ended; ``run.json`` says that it was cut short.
    """
    say = progress or (lambda text: None)
    if importlib.util.find_spec("locust") is None:
        raise EngineUnavailable("load tests need Locust", mend="pip install 'nlpdeploy[loadtest]'")
    run_dir = _unused(run_dir)
    payloads = _planned_payloads(plan)
    expected = Path(plan.data.golden) if plan.data.golden else None
    if expected:
        read_expected(expected, plan.data.rows)
    say("asking the servers for the model")
    urls: dict[Side, str] = {"candidate": plan.url}
    if plan.baseline_url is not None:
        urls["baseline"] = plan.baseline_url
    met = {side: meet_server(plan, url, payloads) for side, url in urls.items()}
    plan = _with_own_trace(plan, run_dir)
    servers = {side: facts for side, (facts, _) in met.items()}
    golden = None
    if plan.store is not None and expected is None:
        golden = keep_golden(Path(plan.store), plan.model, servers, payloads, run_dir)
    record = RunRecord(
        plan=plan,
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        machine=_machine(plan)
        | {"tokens_by_side": {side: count_tokens(plan, url, payloads) for side, url in urls.items()}}
        | {"golden": golden and golden.to_json()},
        servers=servers,
        blocks=draw_blocks(plan),
    )
    write_record(run_dir, record)
    say("starting Locust")
    with Crew(run_dir, Path(plan.data.path), golden.path if golden else expected, plan.workers) as crew:
        forms = {side: form for side, (_, form) in met.items()}
        _Traffic(crew, run_dir, record, forms, (ServerUsage(urls), ServerMetrics(urls, plan.model)), say).drive()


@dataclass
class _Traffic:
    """The blocks of one run, and its record as it grows."""

    crew: Crew
    run_dir: Path
    record: RunRecord
    forms: Mapping[Side, Sequence[OutputForm]]
    watchers: tuple[ServerUsage, ServerMetrics]
    say: Progress
    current: Block | None = None
    _first_start: float | None = None
    _started: float = 0.0  # the current block's schedule, on the monotonic clock
    _owing: set[int] = field(default_factory=set)  # workers with a block under way
    _heard: dict[int, dict[str, Any]] = field(default_factory=dict)

    def drive(self) -> None:
        """Run every block; a lost worker ends the run, which its record then says."""
        try:
            lost = self._await("ready", _START_SECONDS)
            for block in self.record.blocks:
                if not lost:
                    lost = self._run_block(block)
                    self._stop_watching(block)
                    self._keep_watched()
        except BaseException as reason:
            if self.current is not None:
                words = BY_HAND.get(type(reason), repr(reason))
                self._stop(interrupted=words, measured_s=self._settled_seconds())
                if len(self.record.blocks) == 1:  # of several, that block is not judged
                    self._stop_watching(self.current)
                self._keep_watched()
            raise
        if lost:
            self._stop(interrupted="; ".join(f"worker {index} was lost: {why}" for index, why in lost.items()))

    def _stop_watching(self, block: Block) -> None:
        for watcher in self.watchers:
            watcher.stop(block.side)

    def _keep_watched(self) -> None:
        usage, metrics = (watcher.to_json() for watcher in self.watchers)
        seen = {"server_usage": usage, "server_metrics": metrics}
        self._save(replace(self.record, machine={**self.record.machine, **seen}))

    def _run_block(self, block: Block) -> dict[int, str]:
        """One block; returns the workers lost in it and how."""
        plan = self.record.plan
        self.crew.tell(prepare_order(block, self.forms[block.side]))
        lost = self._await("prepared", WARM_UP * plan.timeout_s + _SLACK_SECONDS)
        if lost:
            return lost
        for watcher in self.watchers:
            watcher.start(block.side)
        at = time.monotonic() + _LEAD_SECONDS
        self._first_start = self._first_start or at
        self.current = block
        starts = (*self.record.block_starts, at - self._first_start)
        self._save(replace(self.record, block_starts=starts))
        self._owing = set(range(plan.workers))
        self.crew.tell(start_order(at))
        self._started = at
        waiting = set(self._owing)
        for look in draw_looks(plan.seconds, plan.confidence)[:-1] if plan.until_decided else ():
            settled = at + look.at_s + plan.timeout_s + _SETTLED_SECONDS
            lost = self._listen("done", waiting, settled - time.monotonic())
            if lost or not waiting:
                break
            if decided_at(self.run_dir, self.record, look):
                self.say(f"decided after {look.at_s:g} s")
                self._stop(measured_s=look.at_s)
                return {}
        left = at + plan.block_seconds - time.monotonic()
        return self._await("done", left + plan.timeout_s + _SLACK_SECONDS, waiting, lost)

    def _await(
        self, wanted: str, seconds: float, waiting: set[int] | None = None, lost: dict[int, str] | None = None
    ) -> dict[int, str]:
        """Listen until every worker has reported ``wanted``; the workers that were lost instead, and how.

        Raises:
            Unavailable: a worker was lost before any traffic.
        """
        waiting = set(range(len(self.crew.workers))) if waiting is None else waiting
        lost = lost or self._listen(wanted, waiting, seconds)
        lost.update((index, f"no answer for {seconds:.0f} s") for index in waiting if not lost)
        if not lost:
            return lost
        if self.current is None:
            index, problem = next(iter(lost.items()))
            raise Unavailable(
                f"Locust's worker {index} ended before any traffic",
                found=problem,
                mend=f"its whole output: {self.crew.workers[index].log}",
            )
        for index, problem in lost.items():
            self._owing.discard(index)
            elapsed = time.monotonic() - self._started
            self._enter(books_of_lost(self.record.plan, self.run_dir, self.current, index, elapsed, problem))
        return lost

    def _listen(self, wanted: str, waiting: set[int], seconds: float) -> dict[int, str]:
        """Take events for so long, or until nobody is ``waiting`` any more, or one is lost: then who and how."""
        if not waiting:
            return {}
        self._heard.clear()
        for index, event in self.crew.events(seconds):
            if event["event"] == "progress":
                self._heard[index] = event
                self._say_progress(index)
            elif event["event"] == wanted:
                waiting.discard(index)
                if wanted == "ready":
                    machine = {**self.record.machine, "scheduling": event["scheduling"]}
                    self._save(replace(self.record, machine=machine))
                self._take_books(index, event)
            elif event["event"] == "lost":
                waiting.discard(index)
                return {index: self.crew.workers[index].obituary()}
            if not waiting:
                break
        return {}

    def _settled_seconds(self) -> float | None:
        """What was due before this second of the schedule has been answered or given up; None if that is nothing."""
        if len(self.record.blocks) > 1:
            return None
        seconds = time.monotonic() - self._started - self.record.plan.timeout_s - _SETTLED_SECONDS
        return min(seconds, self.record.plan.seconds) if seconds > 0 else None

    def _stop(self, *, interrupted: str | None = None, measured_s: float | None = None) -> None:
        """Let the workers settle what is under way, and keep what they counted."""
        self._save(replace(self.record, interrupted=interrupted, measured_s=measured_s))
        self.crew.tell(STOP)
        for index, event in self.crew.events(_STOP_SECONDS) if self._owing else ():
            self._take_books(index, event)
            if not self._owing:
                break

    def _take_books(self, index: int, event: Mapping[str, Any]) -> None:
        if event["event"] == "done":
            self._enter(WorkerBooks(**event["books"]))
        if event["event"] in ("done", "lost"):
            self._owing.discard(index)

    def _enter(self, books: WorkerBooks) -> None:
        self._save(replace(self.record, books=(*self.record.books, books)))

    def _save(self, record: RunRecord) -> None:
        self.record = record
        write_record(self.run_dir, record)

    def _say_progress(self, index: int) -> None:
        if self.current is None or index != min(self._heard):
            return
        plan, blocks = self.record.plan, self.record.blocks
        elapsed = max(0.0, time.monotonic() - self._started)
        left = plan.block_seconds * (len(blocks) - self.current.index) - elapsed
        place = f"block {self.current.index + 1} of {len(blocks)}, {self.current.side}: " if len(blocks) > 1 else ""
        self.say(place + live_line(self._heard.values(), min(elapsed, plan.block_seconds), left))


def _planned_payloads(plan: Plan) -> Payloads:
    payloads = read_payloads(Path(plan.data.path), plan.data.text_column, plan.data.pair_column)
    if payloads.source.digest != plan.data.digest:
        raise InvalidInput(
            f"data file {plan.data.path}", found=f"SHA-256 {payloads.source.digest}", wanted=plan.data.digest
        )
    return payloads


def _with_own_trace(plan: Plan, run_dir: Path) -> Plan:
    """The plan with a copy of its trace in the run folder: without it the run could not be judged again."""
    if plan.trace is None:
        return plan
    copy = run_dir / f"trace{Path(plan.trace.path).suffix}"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(plan.trace.path, copy)
    except OSError as error:
        raise StoreFailed("run folder", found=error, mend="give a --run-dir that can be written") from error
    return replace(plan, trace=replace(plan.trace, path=str(copy)))


def _unused(run_dir: Path) -> Path:
    try:
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            found, wanted = "something there", "a new or an empty folder"
            raise InvalidInput(f"run folder {run_dir}", found=found, wanted=wanted, mend="give another with --run-dir")
    except OSError as error:
        raise StoreFailed(f"run folder {run_dir}", found=error, mend="give a --run-dir that can be written") from error
    return run_dir.resolve()


def _machine(plan: Plan) -> dict[str, Any]:
    urls = [url for url in (plan.url, plan.baseline_url) if url is not None]
    calibrated = tightest(urls, plan.workers)
    return {
        "system": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("nlpdeploy", "locust", "gevent")},
        "warm_up": f"{WARM_UP} requests a worker before each block",
        "client": None if calibrated is None else asdict(calibrated),
    }
