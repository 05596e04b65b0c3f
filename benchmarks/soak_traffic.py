"""The soak's traffic: good, cancelled, late and wrong requests over both transports, and the books on their answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from nlpdeploy.wire import oip

from .http_clients import AsyncHttp, HttpAnswer
from .messages import http_request, infer_body, infer_message, predict_body
from .soak_texts import SoakText, wrong_in_infer, wrong_in_message, wrong_in_predict

KINDS = {"answer": 0.8, "cancel": 0.07, "deadline": 0.07, "wrong input": 0.06}
MOST_ROWS = 32
_LONGEST_WAIT = 60.0
_CANCEL_WITHIN = (0.0005, 0.02)
_DEADLINES = (0.0005, 0.5)
# Other ends than an answer, by kind: late, or refused since it would be late; refused since the server goes down.
_MAY_HTTP = {"deadline": {429, 504}, "drain": {503}}
_MAY_GRPC = {
    "deadline": {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED},
    "drain": {grpc.StatusCode.UNAVAILABLE},
}


@dataclass
class Books:
    """What became of the requests; each is entered once when it is sent and once when it ends.

    Attributes:
        sent: by (transport, kind).
        ended: by (transport, kind, outcome).
        wrong: texts with another answer than in process.
        faults: outcomes that must not be, by (transport, kind, what).
        texts: texts answered right.
    """

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    ended: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    wrong: int = 0
    faults: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    texts: int = 0

    def end(self, transport: str, kind: str, outcome: str, *, fault: bool = False) -> None:
        """Enter how a request ended."""
        self.ended[transport, kind, outcome] += 1
        if fault:
            self.faults[transport, kind, outcome] += 1

    def check(self, transport: str, kind: str, wrong: int, asked: Sequence[SoakText]) -> None:
        """Enter a whole answer of status OK."""
        self.wrong += wrong
        self.texts += len(asked) - wrong
        self.end(transport, kind, "ok" if not wrong else "other answer", fault=wrong > 0)


class HttpUser:
    """One user on one HTTP connection, which is made anew whenever it was cut."""

    transport = "http"

    def __init__(self, model: str, host: str, port: int, books: Books, rng: np.random.Generator) -> None:
        self._model, self._host, self._port = model, host, port
        self.books, self._rng = books, rng
        self._connection: AsyncHttp | None = None

    async def answer(self, kind: str, asked: Sequence[SoakText], headers: Sequence[str] = ()) -> None:
        """Ask, plainly or with tensors, and check the answer."""
        request, wrong = self._request(asked, headers)
        reply = await self._ask(kind, request)
        if reply is None:
            return
        if reply.status == 200:
            self.books.check(self.transport, kind, wrong(reply.body, asked), asked)
        else:
            fault = reply.status not in _MAY_HTTP.get(kind, ())
            self.books.end(self.transport, kind, str(reply.status), fault=fault)

    async def deadline(self, asked: Sequence[SoakText]) -> None:
        """Ask with so little time that it often doesn't do."""
        milliseconds = 1e3 * _deadline(self._rng)
        await self.answer("deadline", asked, [f"x-request-timeout-ms: {milliseconds:.3f}"])

    async def cancel(self, asked: Sequence[SoakText]) -> None:
        """Ask, and cut the connection a little later unless the answer was faster."""
        task = asyncio.ensure_future(self.answer("cancel", asked))
        await asyncio.wait([task], timeout=self._rng.uniform(*_CANCEL_WITHIN))
        if await _cancelled(task):
            self._cut()
            self.books.end(self.transport, "cancel", "cancelled")

    async def wrong_input(self) -> None:
        """Send what is no good request; each form has its one right status."""
        predict, infer = f"/v2/models/{self._model}/predict", f"/v2/models/{self._model}/infer"
        forms = (
            (http_request(predict, b'{"text": '), 400),
            (http_request(predict, b'{"text": 7}'), 400),
            (http_request(predict, b"{}"), 400),
            (
                http_request(infer, b'{"inputs": [{"name": "text", "datatype": "FP32", "shape": [1], "data": [1]}]}'),
                400,
            ),
            (http_request("/v2/models/nobody/predict", b'{"text": "x"}'), 404),
            (http_request(predict, b"", method="GET"), 405),
        )
        request, status = forms[self._rng.integers(len(forms))]
        reply = await self._ask("wrong input", request)
        if reply is not None:
            self.books.end(self.transport, "wrong input", str(reply.status), fault=reply.status != status)

    async def end(self) -> None:
        """Wait a moment for bytes that nobody asked for, and close."""
        await asyncio.sleep(0.2)
        self.close()

    def close(self) -> None:
        """Cut the connection, and enter it as a fault if it said more than it was asked."""
        if self._connection is not None and self._connection.surplus:
            self.books.faults[self.transport, "any", "more than one answer"] += 1
        self._cut()

    def _cut(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _request(
        self, asked: Sequence[SoakText], headers: Sequence[str]
    ) -> tuple[bytes, Callable[[bytes, Sequence[SoakText]], int]]:
        texts = [one.text for one in asked]
        if self._rng.random() < 0.5:
            path = f"/v2/models/{self._model}/predict"
            return http_request(path, predict_body(texts), headers), wrong_in_predict
        path = f"/v2/models/{self._model}/infer"
        return http_request(path, infer_body(self._model, texts), headers), wrong_in_infer

    async def _ask(self, kind: str, request: bytes) -> HttpAnswer | None:
        """The answer; None where the connection failed, which is in the books then."""
        self.books.sent[self.transport, kind] += 1
        try:
            if self._connection is None or self._connection.closed:
                self.close()
                self._connection = await AsyncHttp.connect(self._host, self._port)
            return await asyncio.wait_for(self._connection.ask(request), _LONGEST_WAIT)
        except (OSError, TimeoutError) as error:
            self.close()
            self.books.end(self.transport, kind, type(error).__name__, fault=True)
            return None


class GrpcUser:
    """One user on one channel."""

    transport = "grpc"

    def __init__(self, model: str, host: str, port: int, books: Books, rng: np.random.Generator) -> None:
        self._model, self.books, self._rng = model, books, rng
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
        self._channel = grpc.aio.insecure_channel(f"{host}:{port}", options=options)
        self._infer: Any = self._channel.unary_unary(oip.METHODS["ModelInfer"].path)

    async def answer(self, kind: str, asked: Sequence[SoakText], timeout: float = _LONGEST_WAIT) -> None:
        """Ask with raw tensors and check the answer."""
        self.books.sent[self.transport, kind] += 1
        try:
            message = await self._infer(infer_message(self._model, [one.text for one in asked]), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            fault = error.code() not in _MAY_GRPC.get(kind, ())
            self.books.end(self.transport, kind, error.code().name, fault=fault)
        else:
            self.books.check(self.transport, kind, wrong_in_message(message, asked), asked)

    async def deadline(self, asked: Sequence[SoakText]) -> None:
        """Ask with so little time that it often doesn't do."""
        await self.answer("deadline", asked, _deadline(self._rng))

    async def cancel(self, asked: Sequence[SoakText]) -> None:
        """Ask, and cancel the call a little later unless the answer was faster."""
        task = asyncio.ensure_future(self.answer("cancel", asked))
        await asyncio.wait([task], timeout=self._rng.uniform(*_CANCEL_WITHIN))
        if await _cancelled(task):
            self.books.end(self.transport, "cancel", "cancelled")

    async def wrong_input(self) -> None:
        """Send what is no good request; each form has its one right status."""
        kind, status = "wrong input", grpc.StatusCode
        bare = oip.ModelInferRequest(model_name=self._model)
        typed = oip.ModelInferRequest(model_name=self._model)
        number = typed.inputs.add(name="text", datatype="FP32", shape=[1])
        number.contents.fp32_contents.append(1.0)
        forms = (
            (b"\xff\xff\xff", status.INVALID_ARGUMENT),
            (bare.SerializeToString(), status.INVALID_ARGUMENT),
            (typed.SerializeToString(), status.INVALID_ARGUMENT),
            (infer_message("nobody", ["x"]), status.NOT_FOUND),
        )
        message, wanted = forms[self._rng.integers(len(forms))]
        self.books.sent[self.transport, kind] += 1
        try:
            await self._infer(message, timeout=_LONGEST_WAIT)
        except grpc.aio.AioRpcError as error:
            self.books.end(self.transport, kind, error.code().name, fault=error.code() is not wanted)
        else:
            self.books.end(self.transport, kind, "ok", fault=True)

    async def end(self) -> None:
        """Close the channel."""
        await self._channel.close()


async def use_once(user: HttpUser | GrpcUser, texts: Sequence[SoakText], rng: np.random.Generator) -> str:
    """One request of the mix; its kind, once it has ended."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    rows = int(MOST_ROWS ** rng.random())
    asked = [texts[i] for i in rng.integers(len(texts), size=rows)]
    if kind == "answer":
        await user.answer(kind, asked)
    elif kind == "deadline":
        await user.deadline(asked)
    elif kind == "cancel":
        await user.cancel(asked)
    else:
        await user.wrong_input()
    return kind


def _deadline(rng: np.random.Generator) -> float:
    """Seconds, log-uniform."""
    shortest, longest = _DEADLINES
    return float(shortest * (longest / shortest) ** rng.random())


async def _cancelled(task: asyncio.Future[None]) -> bool:
    """Cancel; False where it had ended before, and its end is in the books."""
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        return True
    task.result()
    return False
