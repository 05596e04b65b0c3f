"""Starts a real TorchServe on archives, waits until its models are ready, and leaves no process behind.

Java is started as TorchServe's own command does, but without the file in the temporary folder by which that command
allows one server a machine. Everything that it writes lies in one work folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..bundle.errors import EngineUnavailable, InvalidInput, Unavailable
from .archived import ArchivedModel
from .java import Java
from .management import Management
from .server_files import LOOPBACK, Addresses, config_properties, log_xml, metrics_yaml
from .server_log import ServerLog

GRACE_SECONDS = 10.0
"""For the JVM to end by itself."""
KILLED_SECONDS = 2.0
"""For killed processes to be gone; those that nobody reaps stay in the group for ever."""
POLL_SECONDS = 0.1
SLACK_SECONDS = 60.0
"""For the JVM to start and unpack, beside the models' own time to load."""
STARTUP_SECONDS = 120
"""TorchServe's own limit for a model's time to load."""
LONGEST_SOCKET_PATH = 100
"""Of a Unix socket under the work folder, by which workers are reached; Linux takes 107 bytes."""
OWN_VARIABLES = ("LOG_LOCATION", "METRICS_LOCATION", "PYTHONPATH", "TEMP")


@dataclass(frozen=True)
class Launch:
    """What to start.

    Attributes:
        models: unpacked descriptions of the archives; the first of a name is its default version.
        addresses: where to listen; no port is 0.
        java: what to start it with.
        work: an empty, writable folder, for everything that TorchServe writes.
        auth: ask for tokens.
    """

    models: tuple[ArchivedModel, ...]
    addresses: Addresses
    java: Java
    work: Path
    auth: bool = True

    @property
    def key_file(self) -> Path | None:
        """Where the tokens stand."""
        return self.work / "key_file.json" if self.auth else None


@contextlib.contextmanager
def torchserve(launch: Launch, say: Callable[[str], None]) -> Iterator[RunningServer]:
    """A TorchServe whose models are all ready, with the settings that they were packed with.

    Args:
        launch: what to start.
        say: takes each line of its log.

    Raises:
        EngineUnavailable: TorchServe or torch is not installed.
        InvalidInput: the work folder's path is too long, or a port is taken.
        Unavailable: it ended or a model can't start, with the line that says why; or a setting came out otherwise.
    """
    home = _torchserve_home()
    _check_ports(launch.addresses)
    _write_files(launch, home)
    # A session of its own: Ctrl-C reaches this process alone, which then ends all of it in order.
    process = subprocess.Popen(
        _command(launch, home), cwd=launch.work, env=_environment(os.environ), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    log = ServerLog(process, say)
    server = RunningServer(launch, process, log)
    try:
        log.start()
        server.wait_ready()
        server.check_settings()
        yield server
    finally:
        server.stop()


class RunningServer:
    """A started TorchServe.

    Args:
        launch: what it was started with.
        process: its JVM, the leader of a process group that its workers are in.
        log: what it says.
    """

    def __init__(self, launch: Launch, process: subprocess.Popen[bytes], log: ServerLog) -> None:
        self.launch, self.process = launch, process
        self._log = log
        self._management = Management(launch.addresses.management, launch.key_file)

    def wait_ready(self) -> None:
        """Wait until every model has all its workers.

        Raises:
            Unavailable: the server ended, a model can't start, or it takes longer than the models may take.
        """
        patience = SLACK_SECONDS + max(m.settings.get("startupTimeout", STARTUP_SECONDS) for m in self.launch.models)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            self._check_alive()
            if self._log.failure is not None:
                raise Unavailable("a model can't start in TorchServe", found=self._log.failure)
            if self._management.listening() and all(self._ready(model) for model in self.launch.models):
                return
            time.sleep(POLL_SECONDS)
        raise Unavailable("TorchServe's models are not ready", found=f"after {patience:.0f} s: {self._log.last}")

    def check_settings(self) -> None:
        """Read the settings back, since TorchServe replaces in silence what it doesn't like.

        Raises:
            Unavailable: one differs, with both numbers.
        """
        for model in self.launch.models:
            found = self._management.model(model.name, model.version).settings
            for name, wanted in model.settings.items():
                if found.get(name) != wanted:
                    what = f"{name} of {model.name} version {model.version} in TorchServe"
                    raise Unavailable(what, found=found.get(name), wanted=f"{wanted}, as in {model.path.name}")

    def worker_pids(self, model: ArchivedModel) -> tuple[int, ...]:
        """Process ids of a model's workers that are ready."""
        return self._management.model(model.name, model.version).ready

    def wait(self) -> None:
        """Wait for its end, which nobody asked for.

        Raises:
            Unavailable: it ended.
        """
        self.process.wait()
        self._check_alive()

    def stop(self) -> None:
        """End the JVM in order and whatever is left of its workers at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)
        # Workers, still loading ones among them, are in the JVM's process group. What is killed takes a moment to go.
        self.process.poll()
        deadline = time.monotonic() + KILLED_SECONDS
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.poll()
                time.sleep(0.01)
        self.process.wait()
        self._log.finish()

    def _ready(self, model: ArchivedModel) -> bool:
        return len(self._management.model(model.name, model.version).ready) >= model.settings.get("minWorkers", 1)

    def _check_alive(self) -> None:
        if self.process.poll() is not None:
            self._log.finish()
            raise Unavailable(f"TorchServe ended with status {self.process.returncode}", found=self._log.last)


def choose_addresses(host: str, wanted: Mapping[str, int]) -> Addresses:
    """Addresses with a free port wherever 0 was wanted, which TorchServe itself can't choose.

    Args:
        host: of the inference ports.
        wanted: by the names of ``Addresses``.
    """
    with contextlib.ExitStack() as held:
        ports = {}
        for name, port in wanted.items():
            if port == 0:
                # All at once, so that no two get the same.
                listener = held.enter_context(socket.socket())
                listener.bind((LOOPBACK, 0))
                port = listener.getsockname()[1]
            ports[name] = port
    return Addresses(host, **ports)


def _check_ports(addresses: Addresses) -> None:
    for port in addresses.ports():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((addresses.host, port))
            except OSError as error:
                where = f"{addresses.host}:{port}"
                raise InvalidInput(f"port for TorchServe on {where} ({error.strerror})", mend="choose 0") from None
    if len(set(addresses.ports())) < len(addresses.ports()):
        raise InvalidInput("ports for TorchServe", found=addresses.ports(), wanted="five different ones")


def _torchserve_home() -> Path:
    """The folder that holds the package ``ts``; nothing of it is imported."""
    for package in ("ts", "torch", "yaml"):
        if importlib.util.find_spec(package) is None:
            mend = "pip install 'nlpdeploy[torchserve]'"
            raise EngineUnavailable(f"TorchServe here: package {package} is missing", mend=mend)
    origin = importlib.util.find_spec("ts")
    home = Path(str(origin.origin if origin else "")).parent.parent
    if not (home / "ts/frontend/model-server.jar").is_file():
        raise EngineUnavailable(f"TorchServe in {home}", found="no frontend", wanted="ts/frontend/model-server.jar")
    return home


def _write_files(launch: Launch, home: Path) -> None:
    work = launch.work
    if len(str(work / "tmp/.ts.sock.99999").encode()) > LONGEST_SOCKET_PATH:
        raise InvalidInput("work folder", found=work, wanted="a shorter path: workers are reached by sockets under it")
    for folder in ("tmp", "store"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for model in launch.models:
        link = work / "store" / model.path.name
        if link.resolve() != model.path.resolve():
            link.symlink_to(model.path.resolve())
    metrics = work / "metrics.yaml"
    metrics.write_text(metrics_yaml((home / "ts/configs/metrics.yaml").read_text(encoding="utf-8")), encoding="utf-8")
    (work / "log4j2.xml").write_text(log_xml(), encoding="utf-8")
    config = config_properties(launch.addresses, metrics, auth=launch.auth)
    (work / "config.properties").write_text(config, encoding="ascii")


def _command(launch: Launch, home: Path) -> list[str]:
    return [
        str(launch.java.path), *launch.java.flags(), f"-Dmodel_server_home={home}",
        f"-Djava.io.tmpdir={launch.work / 'tmp'}", f"-Dlog4j.configurationFile={launch.work / 'log4j2.xml'}",
        "-cp", str(home / "ts/frontend/*"), "org.pytorch.serve.ModelServer",
        "--python", sys.executable, "-f", str(launch.work / "config.properties"), "-s", str(launch.work / "store"),
        "-ncs", "-m", *(model.path.name for model in launch.models),
    ]  # fmt: skip


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would override the files written here."""
    return {key: value for key, value in given.items() if not key.startswith("TS_") and key not in OWN_VARIABLES}
