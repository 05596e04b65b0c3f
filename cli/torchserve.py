"""``nlpdeploy torchserve``: a real TorchServe on bundles or archives, with safe settings."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.errors import InvalidInput
from . import archive, console

if TYPE_CHECKING:
    from ..handlers.archived import ArchivedModel
    from ..handlers.launcher import RunningServer

PORTS = {"http": 8080, "management": 8081, "metrics": 8082, "grpc": 7070, "grpc_management": 7071}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("torchserve", help="run a real TorchServe on bundles or .mar files")
    parser.add_argument("models", nargs="+", metavar="NAME[:VERSION]|FILE.mar", help="several names, versions, files")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="of inference (default: 127.0.0.1)")
    for name, port in PORTS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}-port", type=console.host_port, default=port, metavar="P",
            help=f"default: {port}; 0: any free one",
        )  # fmt: skip
    parser.add_argument("--no-auth", action="store_true", help="ask for no tokens: something in front guards it")
    parser.add_argument(
        "--work-dir", type=Path, metavar="D", help="empty folder for what it writes (default: one that goes with it)"
    )
    archive.add_packing(parser)
    console.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    from ..handlers.java import find_java
    from ..handlers.launcher import Launch, choose_addresses, torchserve

    java = find_java()
    addresses = choose_addresses(arguments.host, {name: getattr(arguments, f"{name}_port") for name in PORTS})
    with _work_folder(arguments.work_dir) as work:
        models = _models(arguments, work)
        launch = Launch(models, addresses, java, work, auth=not arguments.no_auth)
        with torchserve(launch, _say) as server:
            _tell(server, as_json=arguments.json)
            server.wait()
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _work_folder(given: Path | None) -> Iterator[Path]:
    if given is None:
        # Short, because the paths of sockets under it are bounded.
        with tempfile.TemporaryDirectory(prefix="nlpdeploy-ts-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    given.mkdir(parents=True, exist_ok=True)
    if any(given.iterdir()):
        raise InvalidInput("--work-dir", found=f"{given}, which is not empty", wanted="an empty folder")
    yield given.resolve()


def _models(arguments: argparse.Namespace, work: Path) -> tuple[ArchivedModel, ...]:
    """Files as they are, names packed into the work folder; of one name the version that serves comes first."""
    from ..bundle.store import Store
    from ..handlers.archive import ArchiveRequest, pack, write_archive
    from ..handlers.archived import read_archived

    store = Store(console.store_root(arguments))
    settings = archive.model_settings(arguments)
    (work / "store").mkdir()
    models: list[ArchivedModel] = []
    for wanted in arguments.models:
        if wanted.endswith(".mar"):
            model = read_archived(Path(wanted))
            if not model.sealed:
                console.note(f"{wanted}: packed by another tool, so its files can't be checked")
            models.append(model)
            continue
        request = ArchiveRequest(
            store.resolve(wanted), settings, arguments.engine, vendor=not arguments.no_vendor,
            checkpoint=arguments.reference,
        )  # fmt: skip
        packed = pack(request)
        model = read_archived(write_archive(packed, store, work / "store" / packed.file_name))
        serving = store.resolve(request.bundle.name).version == request.bundle.version
        models.insert(0 if serving else len(models), model)
    _check_different(models)
    return tuple(models)


def _check_different(models: list[ArchivedModel]) -> None:
    seen: dict[tuple[str, str], ArchivedModel] = {}
    for model in models:
        other = seen.setdefault((model.name, model.version), model)
        if other is not model:
            found = f"{model.name} version {model.version} twice"
            raise InvalidInput("models for TorchServe", found=found, wanted="each once")


def _tell(server: RunningServer, *, as_json: bool) -> None:
    launch, addresses = server.launch, server.launch.addresses
    result: dict[str, Any] = {
        "pid": server.process.pid,
        "java": {"path": str(launch.java.path), "version": launch.java.version},
        "host": addresses.host,
        **{f"{name}_port": getattr(addresses, name) for name in PORTS},
        "key_file": str(launch.key_file) if launch.key_file else None,
        "work_dir": str(launch.work),
        "models": [
            {
                "name": model.name,
                "version": model.version,
                "archive": str(model.path),
                "settings": dict(model.settings),
                "workers": list(server.worker_pids(model)),
            }
            for model in launch.models
        ],
    }
    if as_json:
        print(json.dumps(result), flush=True)
        return
    told = [f"{model['name']}/{model['version']} (workers: {len(model['workers'])})" for model in result["models"]]
    console.note(f"ready: {', '.join(told)}")
    console.note(
        f"REST {addresses.host}:{addresses.http}, gRPC {addresses.host}:{addresses.grpc}, "
        f"management 127.0.0.1:{addresses.management}, metrics 127.0.0.1:{addresses.metrics}/metrics"
    )
    console.note(f"tokens in {launch.key_file}" if launch.key_file else "no tokens: whoever reaches the ports may ask")
