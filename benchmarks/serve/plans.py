"""What is started: our server, its peers with their best settings, and the front alone. Commands, files, ways."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlpdeploy.bundle.manifest import Manifest
from nlpdeploy.bundle.specs import EngineState, Layout
from nlpdeploy.runtime.cores import usable_cores

from ..subject import HERE, WORK
from .environments import LITSERVE, PYTRITON, SCRIPTS, TORCHSERVE, NotInstalled, Package, environment
from .loader import HOST
from .requests import Form
from .servers import Plan, Way, free_port

RUNS = WORK / "serve"
OURS = "ours"
OURS_PREDICT, OURS_OIP, OURS_GRPC = "ours, HTTP /predict", "ours, HTTP OIP", "ours, gRPC"
NULL_PREDICT, NULL_GRPC = "front without engine, HTTP", "front without engine, gRPC"
BARE = "bare engine, in process"
TOKENIZER = "tokenizer/tokenizer.json"
MAX_ROWS = 32


@dataclass(frozen=True)
class Served:
    """A model to serve.

    Attributes:
        store: the store's folder.
        name: the model's name there.
        version: its version.
        bundle: that version's folder.
        manifest: its manifest.
        checkpoint: where it came from.
        engine: what we serve.
    """

    store: Path
    name: str
    version: int
    bundle: Path
    manifest: Manifest
    checkpoint: Path
    engine: str

    def settings(self, engine: dict[str, Any]) -> dict[str, Any]:
        """The model as ``benchmarks/peers/text_model.py`` reads it."""
        model = self.manifest.model
        return {
            "name": self.name,
            "tokenizer": str((self.bundle / TOKENIZER).resolve()),
            "max_length": model.max_length,
            "pad_id": model.pad_id,
            "labels": list(model.labels),
            "engine": engine,
        }

    def has_ready(self, engine_id: str) -> bool:
        """Whether the bundle has the engine, and it passed where it was exported."""
        return any(entry.id == engine_id and entry.state is EngineState.READY for entry in self.manifest.engines)

    def engine_settings(self, engine_id: str) -> dict[str, Any]:
        """An engine of the bundle for a peer.

        Raises:
            NotRun: it isn't ready.
        """
        entry = next((entry for entry in self.manifest.engines if entry.id == engine_id), None)
        if entry is None or entry.state is not EngineState.READY or entry.file is None:
            raise NotRun(f"bundle {self.name} has no ready {engine_id}")
        return {
            "runtime": entry.runtime,
            "file": str((self.bundle / entry.file).resolve()),
            "inputs": [spec.name for spec in entry.inputs],
            "precision": entry.options.get("INFERENCE_PRECISION_HINT"),
        }

    def eager_settings(self) -> dict[str, Any]:
        """The untouched checkpoint for a peer.

        Raises:
            NotRun: it isn't there.
        """
        if not self.checkpoint.is_dir():
            raise NotRun(f"no checkpoint at {self.checkpoint}; name it with --checkpoint")
        inputs = {
            spec.name for entry in self.manifest.engines if entry.layout is Layout.PADDED for spec in entry.inputs
        }
        return {"runtime": "pytorch", "file": str(self.checkpoint.resolve()), "inputs": sorted(inputs)}


class NotRun(Exception):
    """A server can't be started here; the message says why."""


def ours(models: Sequence[Served], name: str = OURS, flags: Sequence[str] = (), *, ways: bool = True) -> Plan:
    """Our server, started as a user would; one store for all models; all ways to ask it, or one named like it."""
    http, grpc = free_port(), free_port()
    command = [sys.executable, "-m", "nlpdeploy.cli", "serve", *flags, "--store", str(models[0].store.resolve())]
    command += ["--http-port", str(http), "--grpc-port", str(grpc)]
    for model in models:
        command += ["--model", f"{model.name}:{model.version}"]
    if len(models) == 1:
        command += ["--engine", models[0].engine]
    rows = (
        Way(OURS_PREDICT, Form.PREDICT, http),
        Way(OURS_OIP, Form.OIP_HTTP, http),
        Way(OURS_GRPC, Form.OIP_GRPC, grpc),
    )
    return Plan(
        name=name,
        command=command,
        ways=rows if ways else (Way(name, Form.PREDICT, http),),
        models=tuple(model.name for model in models),
        folder=HERE.parent,
    )


def null(model: Served) -> Plan:
    """Our front on an engine that answers at once."""
    http, grpc = free_port(), free_port()
    command = [sys.executable, "-m", "benchmarks.serve.null", str(model.bundle), model.engine, str(http), str(grpc)]
    ways = (Way(NULL_PREDICT, Form.PREDICT, http), Way(NULL_GRPC, Form.OIP_GRPC, grpc))
    return Plan("front without engine", command, ways, (model.name,), folder=HERE.parent)


def pytriton(models: Sequence[Served], engine_id: str, *, split: bool = False) -> Plan:
    """PyTriton, asked over HTTP and over gRPC.

    Batches form while the engine is busy (no delay), and one instance has all the cores, or, ``split``, each of as many
    instances one.

    Raises:
        NotRun: the bundle lacks the engine, or the environment can't be made.
    """
    name = f"PyTriton, {engine_id}" + (", split" if split else "")
    http, grpc = free_port(), free_port()
    settings = {"http_port": http, "grpc_port": grpc, **_instances(split), "delay_us": 0}
    folder = _folder(name, models, {**settings, "models": [m.settings(m.engine_settings(engine_id)) for m in models]})
    ways = (Way(f"{name}, gRPC", Form.BATCHED_GRPC, grpc), Way(f"{name}, HTTP", Form.BATCHED_HTTP, http))
    return _peer(name, PYTRITON, "pytriton_server.py", folder, ways, models)


def litserve(models: Sequence[Served], engine_id: str, *, split: bool = False) -> Plan:
    """LitServe, with one worker on all the cores, or, ``split``, as many on one each.

    Raises:
        NotRun: the bundle lacks the engine, or the environment can't be made.
    """
    name = f"LitServe, {engine_id}" + (", split" if split else "")
    http = free_port()
    settings = {"http_port": http, **_instances(split), "delay_us": 1000, "fast_queue": True}
    folder = _folder(name, models, {**settings, "models": [m.settings(m.engine_settings(engine_id)) for m in models]})
    return _peer(name, LITSERVE, "litserve_server.py", folder, (Way(name, Form.LITSERVE, http),), models)


def torchserve(models: Sequence[Served]) -> Plan:
    """TorchServe on the untouched checkpoint in eager PyTorch, one worker with all the cores.

    Raises:
        NotRun: no checkpoint, no Java, the environment or an archive can't be made.
    """
    name = "TorchServe, eager"
    http = free_port()
    folder = _folder(name, models, {})
    (folder / "store").mkdir()
    try:
        variables = environment(TORCHSERVE)
    except NotInstalled as error:
        raise NotRun(str(error)) from None
    (folder / "model-config.yaml").write_text(
        f"minWorkers: 1\nmaxWorkers: 1\nbatchSize: {MAX_ROWS}\nmaxBatchDelay: 2\n"
        "responseTimeout: 120\nstartupTimeout: 120\njobQueueSize: 1000\n",
        encoding="utf-8",
    )
    (folder / "config.properties").write_text(
        f"inference_address=http://{HOST}:{http}\nmanagement_address=http://{HOST}:{free_port()}\n"
        f"metrics_address=http://{HOST}:{free_port()}\ngrpc_inference_port={free_port()}\n"
        f"grpc_management_port={free_port()}\nmodel_store=store\nmetrics_mode=prometheus\n"
        f"load_models={','.join(f'{model.name}.mar' for model in models)}\n",
        encoding="utf-8",
    )
    for model in models:
        settings = {"model": model.settings(model.eager_settings()), "threads": usable_cores()}
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        _archive(model.name, folder, {k: v for k, v in variables.items() if v is not None})
    command = [str(TORCHSERVE.python.parent / "torchserve"), "--start", "--foreground", "--ncs"]
    command += ["--disable-token-auth", "--ts-config", "config.properties", "--model-store", "store"]
    ways = (Way(name, Form.TORCHSERVE, http),)
    return Plan(name, command, ways, tuple(m.name for m in models), variables, folder)


def _instances(split: bool) -> dict[str, int]:
    cores = usable_cores()
    return {"instances": cores, "threads": 1} if split else {"instances": 1, "threads": cores}


def _archive(name: str, folder: Path, variables: dict[str, str]) -> None:
    command = [str(TORCHSERVE.python.parent / "torch-model-archiver"), "--model-name", name, "--version", "1.0"]
    command += ["--handler", str(SCRIPTS / "torchserve_handler.py"), "--config-file", "model-config.yaml"]
    command += ["--extra-files", f"settings.json,{SCRIPTS / 'text_model.py'}", "--export-path", "store", "--force"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise NotRun(f"torch-model-archiver: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")


def _folder(name: str, models: Sequence[Served], settings: dict[str, Any]) -> Path:
    """A fresh folder for one run of a peer, its settings in it."""
    import shutil

    folder = RUNS / "+".join([name.replace(", ", "-").replace(" ", "-"), *(model.name for model in models)])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({**settings, "max_rows": MAX_ROWS}), encoding="utf-8")
    return folder


def _peer(
    name: str, package: Package, script: str, folder: Path, ways: tuple[Way, ...], models: Sequence[Served]
) -> Plan:
    command = [str(package.python), str(SCRIPTS / script), "settings.json"]
    return Plan(name, command, ways, tuple(model.name for model in models), environment(package), folder)
