"""What the driver and its Locust processes tell each other: JSON lines over two pipes, inherited by number.

The driver asks for one block after the other; a worker reports. When either end dies the other reads an end of file,
so no process outlives the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .answers import OutputForm
from .plan import Block

ENVIRONMENT = "NLPDEPLOY_LOADTEST"
"""Names the variable with the :class:`Assignment` of a child process."""


WARM_UP = 10
"""Requests that each worker sends, one after the other, to a block's server before the block; they are not samples."""


@dataclass(frozen=True)
class Assignment:
    """What a Locust process is told at its start.

    Attributes:
        run_dir: absolute; its ``run.json`` has the plan.
        data: absolute path of the data file.
        golden: absolute path of the expected answers, if there are some.
        worker: index of the worker; the master, which sends nothing, has -1.
        orders: descriptor to read orders from.
        events: descriptor to write events to.
    """

    run_dir: str
    data: str
    golden: str | None
    worker: int
    orders: int
    events: int

    def to_environment(self) -> str:
        """As the value of the variable."""
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Assignment | None:
        """This process's, or None in a Locust that somebody started by hand."""
        text = os.environ.get(ENVIRONMENT)
        return cls(**json.loads(text)) if text else None


def prepare_order(block: Block, form: Sequence[OutputForm]) -> dict[str, Any]:
    """Get ready for a block, warm up, report ``prepared``."""
    return {"order": "prepare", "block": asdict(block), "form": [asdict(output) for output in form]}


def start_order(at: float) -> dict[str, Any]:
    """Send the block's load from ``at`` (seconds of the machine's monotonic clock), report ``done``."""
    return {"order": "start", "at": at}


STOP: dict[str, Any] = {"order": "stop"}
"""Cut the block short, settle what is under way, report ``done``."""


def read_block(order: Mapping[str, Any]) -> tuple[Block, tuple[OutputForm, ...]]:
    """The content of :func:`prepare_order`."""
    form = tuple(OutputForm(each["name"], each["dtype"], tuple(each["shape"])) for each in order["form"])
    return Block(**order["block"]), form


def line(message: Mapping[str, Any]) -> bytes:
    """A message as it goes through a pipe; each process has pipes of its own, so messages never mix."""
    return json.dumps(message).encode() + b"\n"
