"""Handlers in one real TorchServe: ours, one written by hand over the same ONNX file, and eager PyTorch.

Each round asks each of them once for a slice of time, in an order drawn anew, while the others' workers are idle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nlpdeploy.bundle.compare import quantile
from nlpdeploy.bundle.errors import InvalidInput, NlpdeployError, Unavailable
from nlpdeploy.bundle.names import Reference
from nlpdeploy.handlers.archive import ArchiveRequest, pack
from nlpdeploy.handlers.archived import MAR_MANIFEST
from nlpdeploy.handlers.management import read_key
from nlpdeploy.handlers.settings import CONFIG_NAME, ModelSettings, config_yaml
from nlpdeploy.handlers.zipped import write_zip
from nlpdeploy.runtime.predictor import load

from .closed_loop import ClientProcess, LoopResult, client_process
from .messages import Question, http_request, predict_body, right_labels
from .results import machine, print_table, write_result
from .samples import Arm, Spread, interleave, ratios, spread
from .subject import WORK, Subject, add_subject_options, open_subject

OURS, PLAIN, EAGER = "nlpdeploy", "by hand", "eager PyTorch"
CLIENTS = (1, 16)
MOST_TEXTS = 500
LEAST_ROUNDS = 5
SLICE_SECONDS = 4.0
PLAIN_HANDLER = Path(__file__).with_name("torchserve_plain.py")


@dataclass(frozen=True)
class HandlerResult:
    """One handler under so many clients.

    Attributes:
        rate: answers a second, a sample a slice.
        p50_ms: of all requests that were answered in time.
        p99_ms: the same.
        cpu_per_thousand: seconds of processor time that the JVM and the workers took for 1,000 requests.
        errors: requests without an answer of status 200.
        wrong: answers with another label than the engine's own.
        over_plain: our or its rate over that of the handler by hand, of the same round.
    """

    rate: Spread
    p50_ms: float
    p99_ms: float
    cpu_per_thousand: float
    errors: int
    wrong: int
    over_plain: Spread


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if an answer was wrong or missing, 2 for wrong input."""
    options = _parser().parse_args(argv)
    try:
        subject = open_subject(options)
        engine = options.engine or "onnx-fp32"
        entry = subject.manifest.engine(engine)
        if entry.runtime != "onnxruntime" or entry.file is None:
            raise InvalidInput("--engine", found=engine, wanted="a ready one of ONNX Runtime, which both handlers run")
        before = machine()
        measured = measure(subject, engine, seconds=options.seconds, seed=options.seed, batch=options.batch_size)
    except NlpdeployError as error:
        print(error.line(), file=sys.stderr)
        return 2
    write_result("torchserve", subject, before, {"engine": engine, "clients": measured})
    bad = sum(result.errors + result.wrong for by_name in measured.values() for result in by_name.values())
    return 1 if bad else 0


def measure(
    subject: Subject, engine: str, *, seconds: float, seed: int, batch: int
) -> dict[str, dict[str, HandlerResult]]:
    """Results by number of clients and by handler."""
    rng = np.random.default_rng(seed)
    texts = [subject.texts[i] for i in rng.permutation(len(subject.texts))[:MOST_TEXTS]]
    predictor = load(subject.bundle, engine=engine)
    right = right_labels(predictor, texts)
    predictor.close()
    with tempfile.TemporaryDirectory(prefix="bench-ts-") as work:
        names = _write_archives(subject, engine, Path(work), batch)
        archives = sorted(Path(work).glob("*.mar"))
        with _torchserve(archives, subject.store, Path(work) / "log") as ready, contextlib.ExitStack() as stack:
            asked = {name: _questions(ready, model, texts, right) for name, model in names.items()}
            WORK.mkdir(parents=True, exist_ok=True)
            clients = {}
            for name in names:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=WORK)))
                clients[name] = stack.enter_context(client_process(asked[name], folder))
            results = {}
            for count in CLIENTS:
                results[str(count)] = _compare(clients, ready, count, seconds / len(CLIENTS), rng)
                _print(engine, count, batch, results[str(count)])
    return results


def _compare(
    clients: Mapping[str, ClientProcess], ready: Mapping[str, Any], count: int, seconds: float, rng: np.random.Generator
) -> dict[str, HandlerResult]:
    server = psutil.Process(ready["pid"])
    loops: dict[str, list[LoopResult]] = {name: [] for name in clients}
    cpu = dict.fromkeys(clients, 0.0)

    def arm(name: str) -> Arm:
        def run(_: int) -> float:
            before = _cpu_seconds(server)
            result = clients[name].load("http", "127.0.0.1", ready["http_port"], clients=count, seconds=SLICE_SECONDS)
            cpu[name] += _cpu_seconds(server) - before
            loops[name].append(result)
            return result.rate

        return run

    rates = interleave({name: arm(name) for name in clients}, seconds=seconds, least=LEAST_ROUNDS, rng=rng)
    results = {}
    for name, done in loops.items():
        latencies = np.array([latency for loop in done for latency in loop.latencies])
        results[name] = HandlerResult(
            rate=spread(rates[name]),
            p50_ms=quantile(latencies, 0.5) * 1e3,
            p99_ms=quantile(latencies, 0.99) * 1e3,
            cpu_per_thousand=cpu[name] / len(latencies) * 1e3,
            errors=sum(loop.errors for loop in done),
            wrong=sum(loop.wrong for loop in done),
            over_plain=ratios(rates[name], rates[PLAIN]),
        )
    return results


def _cpu_seconds(server: psutil.Process) -> float:
    total = 0.0
    for process in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _write_archives(subject: Subject, engine: str, folder: Path, batch: int) -> dict[str, str]:
    """One archive a handler, all with the same settings of TorchServe; the model's name in TorchServe by handler."""
    settings = ModelSettings(batch_size=batch)
    reference = Reference(subject.name, subject.version, subject.bundle)
    ours = pack(ArchiveRequest(reference, settings, engine=engine))
    eager = pack(ArchiveRequest(reference, settings, checkpoint=subject.checkpoint))
    for packed in (ours, eager):
        write_zip(folder / packed.file_name, packed.contents)
    plain = f"{subject.name}-plain"
    entry = subject.manifest.engine(engine)
    model = subject.manifest.model
    described = {"modelName": plain, "handler": PLAIN_HANDLER.name, "modelVersion": "1", "configFile": CONFIG_NAME}
    values = {"labels": list(model.labels), "max_length": model.max_length, "pad_id": model.pad_id}
    write_zip(
        folder / f"{plain}-1.mar",
        {
            MAR_MANIFEST: json.dumps({"createdOn": "", "runtime": "python", "model": described}).encode(),
            CONFIG_NAME: config_yaml(settings, {}).encode(),
            PLAIN_HANDLER.name: PLAIN_HANDLER,
            "model.onnx": subject.bundle / str(entry.file),
            "tokenizer.json": subject.bundle / "tokenizer/tokenizer.json",
            "settings.json": json.dumps(values).encode(),
        },
    )
    return {OURS: ours.name, PLAIN: plain, EAGER: eager.name}


@contextlib.contextmanager
def _torchserve(archives: Sequence[Path], store: Path, log: Path) -> Iterator[dict[str, Any]]:
    ports = [
        word
        for name in ("http", "management", "metrics", "grpc", "grpc-management")
        for word in (f"--{name}-port", "0")
    ]
    command = [
        sys.executable,
        "-m",
        "nlpdeploy.cli",
        "torchserve",
        *map(str, archives),
        *ports,
        "--store",
        str(store),
        "--json",
    ]
    with log.open("wb") as stream:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, start_new_session=True)
        try:
            line = child.stdout.readline() if child.stdout else b""
            if not line:
                last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
                raise Unavailable("TorchServe did not start", found=last[-1])
            yield json.loads(line)
        finally:
            child.terminate()
            child.communicate()


def _questions(
    ready: Mapping[str, Any], model: str, texts: Sequence[str], labels: Sequence[Sequence[str]]
) -> list[Question]:
    token = f"authorization: Bearer {read_key(Path(ready['key_file']), 'inference')}"
    return [
        Question(
            predict=http_request(f"/predictions/{model}", predict_body([text]), [token]),
            infer_http=b"",
            infer_grpc=b"",
            json_marks=tuple(
                json.dumps(label, ensure_ascii=ascii).encode() for label in right for ascii in (True, False)
            ),
            raw_marks=(),
        )
        for text, right in zip(texts, labels, strict=True)
    ]


def _print(engine: str, count: int, batch: int, results: Mapping[str, HandlerResult]) -> None:
    rows = []
    for name, r in results.items():
        numbers = [f"{r.rate:.0f}", f"{r.over_plain:.2f}", f"{r.p50_ms:.1f}", f"{r.p99_ms:.1f}"]
        rows.append([name, *numbers, f"{r.cpu_per_thousand:.2f}", str(r.errors), str(r.wrong)])
    print_table(
        f"TorchServe, {count} clients in a closed loop, batchSize {batch}, {engine}",
        ["handler", "requests a second", "over by hand", "p50 ms", "p99 ms", "CPU s a 1,000", "errors", "wrong"],
        rows,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torchserve", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="measuring time (default: 120)")
    parser.add_argument("--engine", metavar="ID", help="of ONNX Runtime (default: onnx-fp32)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="of all handlers (default: 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws texts and orders (default: 0)")
    add_subject_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
