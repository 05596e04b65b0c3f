"""The protocol over gRPC. Under gevent ``grpc.experimental.gevent.init_gevent`` must have run before."""

from __future__ import annotations

import time

import grpc
from google.protobuf.message import DecodeError

from ..bundle.errors import InvalidInput
from ..wire import codec_proto, oip
from ..wire.address import Address
from ..wire.tensors import InferResponse, ModelMetadata
from ..wire.timing import SERVER_TIMING
from .client import Reply, infer_request, refused
from .samples import Outcome

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    # Connections of its own and no detour: what is measured is the server at this address.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


class GrpcClient:
    """One channel: one HTTP/2 connection that all requests share."""

    def __init__(self, address: Address, model: str, version: str) -> None:
        self._address = address
        self._model, self._version = model, version
        self._channel = grpc.insecure_channel(address.authority, options=_OPTIONS)
        # Without (de)serialisers messages stay bytes: encoded once, decoded after the clock was read.
        self._infer = self._channel.unary_unary(oip.METHODS["ModelInfer"].path)
        self._metadata = self._channel.unary_unary(oip.METHODS["ModelMetadata"].path)

    def metadata(self, timeout: float) -> ModelMetadata:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        method = oip.METHODS["ModelMetadata"]
        request = method.request(name=self._model, version=self._version).SerializeToString()
        reply = _call(self._metadata, request, time.monotonic() + timeout)
        if reply.outcome is not Outcome.OK:
            raise refused(f"model {self._model} at {self._address}", reply)
        return codec_proto.decode_model_metadata(_parse(method.response, reply.body))

    def encode(self, text: str, pair: str | None = None, outputs: tuple[str, ...] = ()) -> bytes:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        message = codec_proto.encode_request(infer_request(self._model, self._version, text, pair, outputs))
        return bytes(message.SerializeToString())

    def send(self, request: bytes, deadline: float) -> Reply:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        return _call(self._infer, request, deadline)

    def read(self, body: bytes) -> InferResponse:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        return codec_proto.decode_response(_parse(oip.ModelInferResponse, body))

    def close(self) -> None:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        self._channel.close()


def _parse(kind: type[oip.Message], body: bytes) -> oip.Message:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise InvalidInput("the answer", found=error, wanted=kind.DESCRIPTOR.name) from error


def _call(method: grpc.UnaryUnaryMultiCallable, message: bytes, deadline: float) -> Reply:
    left = deadline - time.monotonic()
    if left <= 0:
        return Reply(Outcome.TIMEOUT, time.monotonic(), 4, detail="no time left to send it")
    try:
        body, call = method.with_call(message, timeout=left)
        ended = time.monotonic()
    except grpc.RpcError as error:
        code = error.code()
        outcome = Outcome.TIMEOUT if code is grpc.StatusCode.DEADLINE_EXCEEDED else Outcome.ERROR
        return Reply(outcome, time.monotonic(), code.value[0], detail=f"{code.name}: {error.details()}")
    timing = next((str(value) for name, value in call.trailing_metadata() or () if name == SERVER_TIMING), "")
    return Reply(Outcome.OK, ended, 0, body, timing=timing)
