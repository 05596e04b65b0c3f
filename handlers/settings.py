"""What an archive is packed with: TorchServe's own settings of a model, and the worker's. Pure.

The file is ``model-config.yaml`` at the top of the archive, which TorchServe's frontend and workers both read. Only
plain scalars are written, so no YAML library is needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..bundle.errors import InvalidInput

CONFIG_NAME = "model-config.yaml"
SECTION = "nlpdeploy"
SHORTEST_STARTUP = 120


@dataclass(frozen=True)
class ModelSettings:
    """TorchServe's settings of one model.

    Attributes:
        workers: processes that hold the engine; they share the cores. None: as the engine was measured.
        batch_size: most requests of one call.
        max_batch_delay: milliseconds that a first request waits for others; TorchServe reads 0 as 100.
        response_timeout: seconds after which a worker that doesn't answer is killed.
        startup_timeout: seconds that a worker may take to load; a clock of its own, at least ``SHORTEST_STARTUP``.
        queue_size: requests that may wait; above it 503.
        threads: threads of an engine; None: the cores over the workers.
    """

    workers: int | None = None
    batch_size: int = 8
    max_batch_delay: int = 1
    response_timeout: int = 60
    startup_timeout: int = 300
    queue_size: int = 100
    threads: int | None = None

    def checked(self) -> ModelSettings:
        """The same, if TorchServe takes it as it stands.

        Raises:
            InvalidInput: a value that TorchServe would replace by another.
        """
        limits = {
            "--workers": (1 if self.workers is None else self.workers, 1, 1024),
            "--batch-size": (self.batch_size, 1, 4096),
            "--max-batch-delay": (self.max_batch_delay, 1, 60_000),
            "--response-timeout": (self.response_timeout, 1, 86_400),
            "--startup-timeout": (self.startup_timeout, SHORTEST_STARTUP, 86_400),
            "--queue-size": (self.queue_size, 1, 1_000_000),
            "--threads": (1 if self.threads is None else self.threads, 1, 1024),
        }
        for option, (value, least, most) in limits.items():
            if not least <= value <= most:
                raise InvalidInput(option, found=value, wanted=f"{least} to {most}")
        return self

    def for_torchserve(self) -> dict[str, int]:
        """By TorchServe's own names."""
        return {
            "minWorkers": self.workers or 1,
            "maxWorkers": self.workers or 1,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.max_batch_delay,
            "responseTimeout": self.response_timeout,
            "startupTimeout": self.startup_timeout,
            "jobQueueSize": self.queue_size,
        }


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker reads of them.

    Attributes:
        engine: id of the engine; None: the bundle's.
        threads: threads of the engine; None: the cores over the workers.
        workers: workers of this model.
    """

    engine: str | None
    threads: int | None
    workers: int


def config_yaml(settings: ModelSettings, own: Mapping[str, str | int | None]) -> str:
    """The text of ``model-config.yaml``; ``own`` are the worker's settings, those that are None left out."""
    lines = [f"{key}: {value}" for key, value in settings.for_torchserve().items()]
    chosen = {**own, "threads": settings.threads}
    lines += [f"{SECTION}:", *(f"  {key}: {value}" for key, value in sorted(chosen.items()) if value is not None)]
    if lines[-1] == f"{SECTION}:":
        lines[-1] += " {}"
    return "\n".join(lines) + "\n"


def read_worker_settings(config: Mapping[str, Any]) -> WorkerSettings:
    """A worker's settings from the parsed ``model-config.yaml``.

    Raises:
        InvalidInput: not of the form that :func:`config_yaml` writes.
    """
    own = config.get(SECTION) or {}
    if not isinstance(own, Mapping):
        raise InvalidInput(f"{SECTION} of {CONFIG_NAME}", found=type(own).__name__, wanted="settings by name")
    workers = _count("maxWorkers", config.get("maxWorkers"))
    engine = own.get("engine")
    return WorkerSettings(
        engine=None if engine is None else str(engine),
        threads=None if own.get("threads") is None else _count("threads", own["threads"]),
        workers=1 if config.get("maxWorkers") is None else workers,
    )


def _count(name: str, value: Any) -> int:
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{name} of {CONFIG_NAME}", found=value, wanted="a whole number from 1")
    return value
