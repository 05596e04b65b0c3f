"""The Locust side: one generator user a worker process. Importing this imports Locust, which patches its process.

Under the driver the user obeys orders (:mod:`.worker`) and raw samples are written. Started by hand, as in
``locust -f loadtest/locustfile.py``, it sends one schedule that its flags describe and Locust's statistics show.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
import traceback
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import WorkerRunner

from ..bundle.errors import NlpdeployError
from .answers import AnswerCheck
from .arrivals import arrival_offsets, payload_rows
from .client import open_client
from .generator import Generator, Load, Settled
from .orders import WARM_UP, Assignment
from .payloads import read_payloads
from .plan import ARRIVALS, as_arrivals
from .preflight import first_answer
from .samples import Outcome
from .targets import parse_duration
from .worker import Link, Worker

logger = logging.getLogger(__name__)


class OpenLoopUser(User):
    """Sends on schedule, whatever the server does; see :mod:`.generator`."""

    sending = False  # in this process: a second user would send the same schedule once more

    @task
    def drive(self) -> None:
        """Everything there is to send."""
        if OpenLoopUser.sending:
            logger.warning("one user a worker process sends the whole schedule; this further one does nothing")
            raise StopUser
        OpenLoopUser.sending = True
        try:
            if link is None:
                send_one_schedule(self.environment)
                _end_by_hand(self.environment)
            else:
                Worker(link, functools.partial(feed, self.environment, "text")).obey()
        except NlpdeployError as error:
            _give_up(self.environment, error.line())
        except Exception:  # noqa: BLE001  (Locust would log it and call the task again)
            _give_up(self.environment, traceback.format_exc())
        finally:
            OpenLoopUser.sending = False
        raise StopUser


link: Link | None = None
"""To the driver; None in a Locust that somebody started by hand."""


def connect(**_: Any) -> None:
    """Listen to the driver, if there is one; in the master too, so that it ends with the driver."""
    global link
    assignment = Assignment.from_environment()
    if assignment is not None:
        link = Link(assignment)


def feed(environment: Environment, name: str, request: Settled) -> None:
    """Give a settled request to Locust's own statistics: they are for watching, verdicts come from the samples."""
    never = math.isnan(request.ended)
    environment.events.request.fire(  # type: ignore[no-untyped-call]
        request_type="open loop",
        name=name,
        response_time=0.0 if never else (request.ended - request.scheduled) * 1000.0,
        response_length=0,
        exception=None if request.outcome is Outcome.OK else RuntimeError(f"{request.outcome.name}: {request.problem}"),
        context={},
    )


def add_flags(parser: ArgumentParser) -> None:
    """Flags of a run by hand; the address is Locust's own ``--host``."""
    group = parser.add_argument_group("nlpdeploy", "one open-loop schedule against --host grpc://H:P or http://H:P")
    group.add_argument("--model", default="", help="name of the model")
    group.add_argument("--model-version", default="", help="empty for the server's choice")
    group.add_argument("--data", default="", help="texts: CSV, TSV, JSONL or a text a line")
    group.add_argument("--text-column", default="", help="of the texts in --data")
    group.add_argument("--rate", type=float, default=10.0, help="arrivals a second over all workers")
    group.add_argument("--seconds", type=float, default=60.0, help="length of the schedule")
    group.add_argument("--arrivals", choices=ARRIVALS, default="poisson")
    group.add_argument("--timeout", default="1s", help="from a request's schedule")
    group.add_argument("--seed", type=int, default=1)
    group.add_argument("--max-in-flight", type=int, default=1000, help="of each worker")


def send_one_schedule(environment: Environment) -> None:
    """What Locust does when somebody starts it by hand: this worker's share of one schedule.

    Raises:
        NlpdeployError: the flags or the data are unusable, or no server answers.
    """
    options: Any = environment.parsed_options
    runner: Any = environment.runner
    # A worker knows its index from the master, and how many there are from the flag that both were given.
    worker, workers = runner.worker_index, options.expect_workers if isinstance(runner, WorkerRunner) else 1
    payloads = read_payloads(Path(options.data), options.text_column or None)
    offsets = arrival_offsets(
        as_arrivals(options.arrivals), options.rate, options.seconds, options.seed, worker, workers
    )
    rows = payload_rows(len(payloads.texts), len(offsets), options.seed, worker)
    client = open_client(environment.host or "", options.model, options.model_version)
    requests = {row: client.encode(payloads.texts[row]) for row in set(rows.tolist())}
    load = Load(offsets, rows, requests, parse_duration(options.timeout), options.max_in_flight)
    _, form = first_answer(client, client.encode(payloads.texts[0]))
    generator = Generator(client, AnswerCheck(form), functools.partial(feed, environment, options.model))
    generator.warm_up(load, WARM_UP)
    generator.run(load, time.monotonic() + 0.1)


events.init.add_listener(connect)  # type: ignore[no-untyped-call]
events.init_command_line_parser.add_listener(add_flags)  # type: ignore[no-untyped-call]


def _give_up(environment: Environment, reason: str) -> None:
    logger.critical("the generator failed: %s", reason)
    if link is not None:
        os._exit(1)  # the driver sees it at once and says why
    environment.process_exit_code = 1
    _end_by_hand(environment)


def _end_by_hand(environment: Environment) -> None:
    """Nothing is left to send: a headless Locust ends; a web page stays, and a worker ends with its master."""
    options: Any = environment.parsed_options
    if options.headless and environment.runner is not None and not isinstance(environment.runner, WorkerRunner):
        environment.runner.quit()
