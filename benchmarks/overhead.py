"""Section ``front``, part one: what a request of one text costs beyond the engine, one request at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nlpdeploy.runtime.batching import lay_out
from nlpdeploy.runtime.predictor import Predictor
from nlpdeploy.wire import oip
from nlpdeploy.wire.timing import SERVER_TIMING

from .http_clients import BlockingHttp
from .messages import Question, http_request
from .results import print_table
from .samples import Arm, Spread, differences, interleave, ratios, spread
from .server import ServerProcess

ENGINE, PREDICTOR = "engine.run", "in process"
TRANSPORTS = ("http predict", "http infer", "grpc infer")
EMPTY = ("http live", "grpc live")
STAGES = ("encode", "queue", "infer", "decode")
_ROUNDS, _WARM = 50, 30


@dataclass(frozen=True)
class ArmResult:
    """One way to ask.

    Attributes:
        ms: of a question.
        over_predictor_ms: what it takes more than encoding, running and decoding in process, of the same text.
        over_engine_ms: what it takes more than the engine's bare call, of the same text.
        ratio: to the in-process answer, of the same text.
        stages_ms: of the server's own stage times, and ``rest``: the round trip less their sum.
    """

    ms: Spread
    over_predictor_ms: Spread
    over_engine_ms: Spread
    ratio: Spread
    stages_ms: Mapping[str, Spread]


@dataclass
class _Asked:
    """What a transport's arm saw, beside the times that it returns."""

    stages: list[dict[str, float]] = field(default_factory=list)
    wrong: int = 0

    def clear(self) -> None:
        """Forget what was seen."""
        self.stages.clear()
        self.wrong = 0


@dataclass(frozen=True)
class OverheadResult:
    """The part's result.

    Attributes:
        arms: by way to ask.
        empty_ms: round trips that ask whether the server is live, and no model: what transport and client cost.
        wrong: answers over a transport with another label than the engine's own.
    """

    arms: Mapping[str, ArmResult]
    empty_ms: Mapping[str, Spread]
    wrong: int


def measure_overhead(
    predictor: Predictor,
    server: ServerProcess,
    texts: Sequence[str],
    asked: Sequence[Question],
    *,
    seconds: float,
    rng: np.random.Generator,
) -> OverheadResult:
    """Ask the same texts in process and over each transport, interleaved, and print the tables.

    Args:
        predictor: the engine that is served, loaded here too.
        server: the server.
        texts: texts.
        asked: the same texts as requests.
        seconds: time to spend.
        rng: draws the orders.

    Raises:
        ConnectionError, grpc.RpcError: a request failed.
    """
    notes = {name: _Asked() for name in TRANSPORTS}
    with _arms(predictor, server, texts, asked, notes) as arms:
        for index in range(_WARM):
            for arm in arms.values():
                arm(index)
        for note in notes.values():
            note.clear()
        samples = interleave(arms, seconds=seconds, least=_ROUNDS, rng=rng)
    result = OverheadResult(
        arms={name: _summed_up(name, samples, notes.get(name)) for name in samples if name not in EMPTY},
        empty_ms={name: spread(samples[name], 1e3) for name in EMPTY},
        wrong=sum(note.wrong for note in notes.values()),
    )
    _print(predictor.engine.id, result)
    return result


@contextlib.contextmanager
def _arms(
    predictor: Predictor,
    server: ServerProcess,
    texts: Sequence[str],
    asked: Sequence[Question],
    notes: Mapping[str, _Asked],
) -> Iterator[dict[str, Arm]]:
    import grpc

    engine, model = predictor.engine, predictor.model
    feeds = [lay_out([row], engine.layout, engine.inputs, model.pad_id) for row in predictor.encode(texts)]
    predict = BlockingHttp(server.host, server.http_port)
    infer = BlockingHttp(server.host, server.http_port)
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    channel = grpc.insecure_channel(f"{server.host}:{server.grpc_port}", options=options)
    call = channel.unary_unary(oip.METHODS["ModelInfer"].path)
    live = channel.unary_unary(oip.METHODS["ServerLive"].path)
    live_request = http_request("/v2/health/live", b"", method="GET")

    def over_http(connection: BlockingHttp, message: Callable[[Question], bytes], note: _Asked) -> Arm:
        def ask(index: int) -> float:
            question = asked[index % len(asked)]
            request = message(question)
            started = time.perf_counter()
            answer = connection.ask(request)
            taken = time.perf_counter() - started
            if answer.status != 200:
                raise ConnectionError(f"status {answer.status} over HTTP")
            note.stages.append(_stages(answer.header(SERVER_TIMING)))
            note.wrong += not _holds(answer.body, question.json_marks)
            return taken

        return ask

    def over_grpc(index: int) -> float:
        question = asked[index % len(asked)]
        started = time.perf_counter()
        answer, context = call.with_call(question.infer_grpc, timeout=60)
        taken = time.perf_counter() - started
        note = notes["grpc infer"]
        note.stages.append(_stages(dict(context.trailing_metadata())[SERVER_TIMING]))
        note.wrong += not _holds(answer, question.raw_marks)
        return taken

    try:
        yield {
            ENGINE: lambda index: _seconds(lambda: engine.run(feeds[index % len(feeds)])),
            PREDICTOR: lambda index: _seconds(lambda: predictor([texts[index % len(texts)]])),
            "http predict": over_http(predict, lambda question: question.predict, notes["http predict"]),
            "http infer": over_http(infer, lambda question: question.infer_http, notes["http infer"]),
            "grpc infer": over_grpc,
            "http live": lambda index: _seconds(lambda: predict.ask(live_request)),
            "grpc live": lambda index: _seconds(lambda: live.with_call(b"", timeout=60)),
        }
    finally:
        predict.close()
        infer.close()
        channel.close()


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _holds(answer: bytes, marks: Sequence[bytes]) -> bool:
    return not marks or any(mark in answer for mark in marks)


def _stages(value: str) -> dict[str, float]:
    """Milliseconds by stage out of ``server-timing``."""
    parts = (part.partition(";dur=") for part in value.split(", "))
    return {name: float(milliseconds) for name, _, milliseconds in parts}


def _summed_up(name: str, samples: Mapping[str, Sequence[float]], note: _Asked | None) -> ArmResult:
    taken = samples[name]
    stages: dict[str, Spread] = {}
    if note is not None:
        stages = {stage: spread([times[stage] for times in note.stages]) for stage in STAGES}
        inside = [sum(times.values()) / 1e3 for times in note.stages]
        stages["rest"] = differences(taken, inside, 1e3)
    return ArmResult(
        ms=spread(taken, 1e3),
        over_predictor_ms=differences(taken, samples[PREDICTOR], 1e3),
        over_engine_ms=differences(taken, samples[ENGINE], 1e3),
        ratio=ratios(taken, samples[PREDICTOR]),
        stages_ms=stages,
    )


def _print(engine: str, result: OverheadResult) -> None:
    rounds = result.arms[ENGINE].ms.count
    print_table(
        f"front, one text at a time on {engine}: {rounds} rounds; differences and ratios of the same text, median "
        "[quartiles]",
        ("way", "p50 ms", "p95 ms", "over engine.run ms", "over in process ms", "ratio to in process"),
        [
            (
                name,
                f"{arm.ms.median:.3f}",
                f"{arm.ms.p95:.3f}",
                "" if name == ENGINE else f"{arm.over_engine_ms:.3f}",
                f"{arm.over_predictor_ms:.3f}" if name in TRANSPORTS else "",
                f"{arm.ratio:.2f}" if name in TRANSPORTS else "",
            )
            for name, arm in result.arms.items()
        ]
        + [(name, f"{ms.median:.3f}", f"{ms.p95:.3f}", "", "", "") for name, ms in result.empty_ms.items()],
    )
    print_table(
        "where the server says the time went, medians in ms; rest: transport, parsing, and the client",
        ("way", *STAGES, "rest"),
        [
            (name, *(f"{result.arms[name].stages_ms[stage].median:.3f}" for stage in (*STAGES, "rest")))
            for name in TRANSPORTS
        ],
    )
    if result.wrong:
        print(f"{result.wrong} answers had another label than the engine's own\n")
