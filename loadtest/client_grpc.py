"""The protocol over gRPC. HTTP/2 is our own: a general client spends more on a request than a small model does."""

from __future__ import annotations

import threading
import time

from google.protobuf.message import DecodeError

from ..bundle.errors import InvalidInput
from ..wire import codec_proto, oip
from ..wire.address import Address
from ..wire.tensors import InferResponse, ModelMetadata
from ..wire.timing import SERVER_TIMING
from .client import Reply, infer_request, refused
from .grpc_headers import DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, name_of, read_status, refusal
from .h2_call import Call, Gone
from .h2_client import Connection
from .samples import Outcome

_TIMING = SERVER_TIMING.encode()
_INFER, _METADATA = (oip.METHODS[name].path.encode() for name in ("ModelInfer", "ModelMetadata"))


class GrpcClient:
    """One connection that all requests share; another one only where the server takes no more of them on the first."""

    def __init__(self, address: Address, model: str, version: str) -> None:
        self._address = address
        self._model, self._version = model, version
        self._connections: list[Connection] = []
        self._connecting = threading.Lock()

    def metadata(self, timeout: float) -> ModelMetadata:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        method = oip.METHODS["ModelMetadata"]
        request = method.request(name=self._model, version=self._version).SerializeToString()
        reply = self._call(_METADATA, request, time.monotonic() + timeout)
        if reply.outcome is not Outcome.OK:
            raise refused(f"model {self._model} at {self._address}", reply)
        return codec_proto.decode_model_metadata(_parse(method.response, reply.body))

    def encode(self, text: str, pair: str | None = None, outputs: tuple[str, ...] = ()) -> bytes:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        message = codec_proto.encode_request(infer_request(self._model, self._version, text, pair, outputs))
        return bytes(message.SerializeToString())

    def send(self, request: bytes, deadline: float) -> Reply:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        return self._call(_INFER, request, deadline)

    def read(self, body: bytes) -> InferResponse:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        return codec_proto.decode_response(_parse(oip.ModelInferResponse, body))

    def close(self) -> None:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        while self._connections:
            self._connections.pop().close()

    def _call(self, path: bytes, message: bytes, deadline: float) -> Reply:
        if deadline <= time.monotonic():
            return _failed(DEADLINE_EXCEEDED, "no time left to send it")
        try:
            try:
                return _reply(self._connection(deadline).ask(path, message, deadline))
            except Gone:  # as gRPC has it: a call that no server has looked at is asked once more
                return _reply(self._connection(deadline).ask(path, message, deadline))
        except TimeoutError as error:
            return _failed(DEADLINE_EXCEEDED, str(error))
        except OSError as error:
            return _failed(UNAVAILABLE, str(error) or type(error).__name__)

    def _connection(self, deadline: float) -> Connection:
        for connection in self._connections:
            if connection.usable:
                return connection
        if not self._connecting.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError("no connection in time")
        try:
            for connection in [connection for connection in self._connections if not connection.alive]:
                self._connections.remove(connection)
                connection.close()
            for connection in self._connections:
                if connection.usable:  # which another request has opened meanwhile
                    return connection
            self._connections.append(Connection(self._address, deadline))
            return self._connections[-1]
        finally:
            self._connecting.release()


def _parse(kind: type[oip.Message], body: bytes) -> oip.Message:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise InvalidInput("the answer", found=error, wanted=kind.DESCRIPTOR.name) from error


def _reply(call: Call) -> Reply:
    """What an answer says: its status if it has one, and one whole message behind a good one."""
    if call.failure is not None:
        return _failed(*call.failure, call.ended)
    trailers = call.trailers or []
    if wrong := refusal(call.head if call.head is not None else trailers):
        return _failed(*wrong, call.ended)
    code, text = read_status(trailers)
    if code:
        return _failed(code, text, call.ended)
    data = call.data[0] if len(call.data) == 1 else b"".join(call.data)
    if data[:1] != b"\0" or len(data) != 5 + int.from_bytes(data[1:5], "big"):
        return _failed(INTERNAL, f"{len(data)} bytes that are not one uncompressed message", call.ended)
    timing = next((value for name, value in trailers if name == _TIMING), b"")
    return Reply(Outcome.OK, call.ended, 0, data[5:], timing=timing.decode("latin-1"))


def _failed(code: int, text: str, ended: float = 0.0) -> Reply:
    outcome = Outcome.TIMEOUT if code == DEADLINE_EXCEEDED else Outcome.ERROR
    return Reply(outcome, ended or time.monotonic(), code, detail=f"{name_of(code)}: {text}")
