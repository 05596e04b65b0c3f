"""The HTTP front: addresses of the protocol and of the plain ``predict``, adapted to the data plane."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote_to_bytes

from ..bundle.errors import InvalidInput, NotFound, TooLarge
from ..wire import codec_descriptions, codec_json, json_metadata
from ..wire.codec_json import HEADER_LENGTH, OutputForm
from ..wire.json_text import dump_json, parse_json
from ..wire.status import failure_of
from ..wire.tensors import InferRequest, Parameter
from ..wire.timing import SERVER_TIMING, TIMEOUT_HEADER, server_timing
from .http_limits import HttpLimits
from .http_messages import JSON, Request, Response, error_response
from .http_server import HttpServer
from .http_unread import may_be_judged
from .plane import DataPlane
from .request_log import RequestLog, note_model
from .served import Served as Model

_BINARY = "application/octet-stream"

_MOST_KEPT, _LONGEST_KEPT = 1024, 256  # addresses that are kept taken apart, and characters of one
_GET, _POST = ("GET", "HEAD"), ("POST",)

Route = Callable[[Request, str, str], Awaitable[Response]]
Served = tuple[tuple[str, ...], Route]
"""Methods of an address and what answers them; HEAD is GET without the body."""


class HttpFront:
    """Open Inference Protocol v2 over HTTP/1.1, with its binary tensors, and ``POST /v2/models/M/predict``.

    Stage times are in the header ``server-timing``; errors are ``{"error": "…"}`` with the header ``error-kind`` and,
    where trying again helps, ``retry-after``. Bodies may be gzip or deflate.

    Args:
        plane: what answers.
        host: address to listen on.
        port: 0 for a free one.
        max_message_bytes: largest body, before and after decompression; above it 413.
        limits: the other limits of the connections.
        requests: the log that each request gets a line in.
    """

    def __init__(
        self,
        plane: DataPlane,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        max_message_bytes: int = 32 * 1024 * 1024,
        limits: HttpLimits | None = None,
        requests: RequestLog | None = None,
    ) -> None:
        self._plane = plane
        self._max_bytes = max_message_bytes
        self._requests = requests
        handle = requests.http(self._handle) if requests else self._handle
        limits = limits or HttpLimits(body=max_message_bytes)
        self._server = HttpServer(handle, host, port, limits, refused=self._refused, at_once=self._turned_away)
        plane.metrics.http_connections.set_function(lambda: self._server.open_connections)
        self._found: dict[str, tuple[Served, str, str]] = {}
        self._whole: dict[tuple[str, ...], Served] = {
            ("v2",): (_GET, self._server_metadata),
            ("v2", "health", "live"): (_GET, self._live),
            ("v2", "health", "ready"): (_GET, self._ready),
            ("v2", "models", "stats"): (_GET, self._all_statistics),
            ("v2", "repository", "index"): (_GET + _POST, self._index),
            ("metrics",): (_GET, self._metrics),
        }
        self._of_model: dict[str, Served] = {
            "": (_GET, self._model_metadata),
            "ready": (_GET, self._model_ready),
            "config": (_GET, self._model_config),
            "stats": (_GET, self._model_statistics),
            "infer": (_POST, self._infer),
            "predict": (_POST, self._predict),
        }
        self._forms: dict[Route, str] = {self._infer: "infer", self._predict: "predict"}

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            InvalidInput: the address can't be listened on.
        """
        return await self._server.start()

    async def drain(self) -> None:
        """Close each connection with its next answer; requests are still answered."""
        await self._server.drain()

    async def stop(self, grace: float) -> None:
        """Take no more connections, give running requests ``grace`` seconds, then cut them."""
        await self._server.stop(grace)

    def _refused(self, status: int) -> None:
        self._plane.metrics.refused_by_http(status)
        if self._requests is not None:
            self._requests.refused_by_http(status)

    def _turned_away(self, request: Request) -> Response | None:
        """The answer to a request that is refused unread, before it has a task; None to all others."""
        found = self._found.get(request.target)  # addresses that were asked before: whatever is wrong is told elsewhere
        form = self._forms.get(found[0][1]) if found and request.method == "POST" else None
        unread = self._unread(request, form, found[1], found[2]) if found and form else None
        if unread is None:
            return None
        response, served = unread
        if self._requests is not None:
            self._requests.turned_away("http", served.name, served.version, response.status)
        return response

    def _turned_away_now(self, request: Request, form: str, model: str, version: str) -> Response | None:
        """The same for one that has a task: what came with it, and is accepted by now, may have taken its place."""
        unread = self._unread(request, form, model, version)
        if unread is None:
            return None
        response, served = unread
        note_model(served.name, served.version)
        return response

    def _unread(self, request: Request, form: str, model: str, version: str) -> tuple[Response, Model] | None:
        if not may_be_judged(form, request):
            return None
        try:
            deadline = _deadline(request)
        except InvalidInput:
            return None
        turned = self._plane.turned_away(form, model, version, len(request.body), deadline)
        if turned is None:
            return None
        error, served = turned
        failure = failure_of(error)
        return error_response(failure.status.http, failure.detail, failure.headers()), served

    async def _handle(self, request: Request) -> Response:
        (methods, route), model, version = self._find(request.target)
        if request.method not in methods:
            wanted = ", ".join(methods)
            return error_response(405, f"{request.method} is not served here; wanted {wanted}", [("allow", wanted)])
        return await route(request, model, version)

    def _find(self, target: str) -> tuple[Served, str, str]:
        """As :meth:`_look_up`, which is done once for each address that is asked again and again."""
        found = self._found.get(target)
        if found is None:
            found = self._look_up(target)
            if len(target) <= _LONGEST_KEPT:
                if len(self._found) >= _MOST_KEPT:
                    self._found.clear()
                self._found[target] = found
        return found

    def _look_up(self, target: str) -> tuple[Served, str, str]:
        """Methods and handler of an address, with model and version where it names them.

        Raises:
            NotFound: no such address.
        """
        path = target.partition("?")[0]
        if not path.startswith("/") and "://" in path:  # the absolute form, which RFC 9112 section 3.2.2 wants accepted
            path = path.partition("://")[2].partition("/")[2]
        try:
            parts = tuple(unquote_to_bytes(part).decode() for part in path.strip("/").split("/"))
        except UnicodeDecodeError:
            raise NotFound("address", found=path, wanted="percent-encoded UTF-8") from None
        if parts in self._whole:
            return self._whole[parts], "", ""
        if parts[:2] == ("v2", "models") and len(parts) > 2:
            model, rest, version = parts[2], parts[3:], ""
            if rest[:1] == ("versions",) and len(rest) > 1:
                version, rest = rest[1], rest[2:]
            call = rest[0] if rest else ""
            if model and len(rest) < 2 and call in self._of_model:
                return self._of_model[call], model, version
        raise NotFound(f"nothing is served at {path}")

    # -- the whole server ---------------------------------------------------------------------------------------------

    async def _server_metadata(self, request: Request, model: str, version: str) -> Response:
        return Response(200, json_metadata.encode_server_metadata(self._plane.server_metadata()))

    async def _live(self, request: Request, model: str, version: str) -> Response:
        live = self._plane.live()
        return Response(200 if live else 503, dump_json({"live": live}))

    async def _ready(self, request: Request, model: str, version: str) -> Response:
        ready = self._plane.ready()
        return Response(200 if ready else 503, dump_json({"ready": ready}))

    async def _all_statistics(self, request: Request, model: str, version: str) -> Response:
        return await self._model_statistics(request, "", "")

    async def _index(self, request: Request, model: str, version: str) -> Response:
        ready = codec_descriptions.read_index_body(self._content(request))
        return Response(200, codec_descriptions.index_json(self._plane.index(ready=ready)))

    async def _metrics(self, request: Request, model: str, version: str) -> Response:
        metrics = self._plane.metrics
        return Response(200, metrics.render(), metrics.content_type)

    # -- a model ------------------------------------------------------------------------------------------------------

    async def _model_metadata(self, request: Request, model: str, version: str) -> Response:
        return Response(200, json_metadata.encode_model_metadata(self._plane.model_metadata(model, version)))

    async def _model_ready(self, request: Request, model: str, version: str) -> Response:
        ready = self._plane.model_ready(model, version)
        return Response(200 if ready else 503, dump_json({"name": model, "ready": ready}))

    async def _model_config(self, request: Request, model: str, version: str) -> Response:
        return Response(200, codec_descriptions.model_config_json(self._plane.model_config(model, version)))

    async def _model_statistics(self, request: Request, model: str, version: str) -> Response:
        return Response(200, codec_descriptions.statistics_json(self._plane.statistics(model, version)))

    async def _infer(self, request: Request, model: str, version: str) -> Response:
        if (refused := self._turned_away_now(request, "infer", model, version)) is not None:
            return refused
        size = self._size(request)
        with self._plane.reading(model, version):
            deadline = _deadline(request)
            header_length = codec_json.read_header_length(request.headers.get(HEADER_LENGTH.lower()))

            def read() -> tuple[InferRequest, OutputForm]:
                return codec_json.decode_request(self._content(request), header_length, model=model, version=version)

            question, form = await self._plane.aside.run(size, read)
        inference = await self._plane.infer(question, deadline=deadline, size=size)
        answer = inference.response
        body = await self._plane.aside.run(
            codec_json.response_size(answer), lambda: codec_json.encode_response(answer, form)
        )
        timing = (SERVER_TIMING, server_timing(inference.stages))
        if body.header_length is None:
            return Response(200, body.content, JSON, [timing])
        return Response(200, body.content, _BINARY, [timing, (HEADER_LENGTH, str(body.header_length))])

    async def _predict(self, request: Request, model: str, version: str) -> Response:
        if (refused := self._turned_away_now(request, "predict", model, version)) is not None:
            return refused
        size = self._size(request)
        with self._plane.reading(model, version):
            deadline = _deadline(request)
            body = await self._plane.aside.run(size, lambda: parse_json(self._content(request)))
        prediction = await self._plane.predict(model, version, body, deadline=deadline, size=size)
        timing = (SERVER_TIMING, server_timing(prediction.stages))
        return Response(200, dump_json(prediction.answer), JSON, [timing, *_as_headers(prediction.parameters)])

    def _size(self, request: Request) -> int:
        """Bytes of the body; of a compressed one the most that it may grow to."""
        return self._max_bytes if "content-encoding" in request.headers else len(request.body)

    def _content(self, request: Request) -> bytes:
        """The body, decompressed.

        Raises:
            InvalidInput: another coding than gzip and deflate, or bytes that don't follow the coding.
            TooLarge: more than the limit.
        """
        coding = request.headers.get("content-encoding", "identity").lower()
        if coding == "identity":
            return request.body
        if coding not in ("gzip", "deflate"):
            raise InvalidInput("content-encoding", found=coding, wanted="gzip or deflate")
        # 32 reads the header and tells gzip and zlib apart.
        decompressor = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
        try:
            content = decompressor.decompress(request.body, self._max_bytes + 1)
        except zlib.error:
            raise InvalidInput("body", found=f"bytes that are no {coding}", wanted=coding) from None
        if len(content) > self._max_bytes:
            raise TooLarge("body after decompression", wanted=f"at most {self._max_bytes} bytes")
        if not decompressor.eof or decompressor.unused_data:
            raise InvalidInput("body", found=f"{coding} that is cut or followed by more", wanted="one whole stream")
        return content


def _deadline(request: Request) -> float | None:
    """When the client's time is over, in seconds of ``time.monotonic``; None where it doesn't say.

    Raises:
        InvalidInput: no positive number of milliseconds.
    """
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise InvalidInput(TIMEOUT_HEADER, found=text, wanted="a positive number of milliseconds")
    return time.monotonic() + milliseconds / 1000


def _as_headers(parameters: Mapping[str, Parameter]) -> list[tuple[str, str]]:
    """What an answer's parameters say, where its body has no place for them: ``x-bundle-digest`` and so on."""
    return [(f"x-{name.replace('_', '-')}", str(value)) for name, value in parameters.items()]
