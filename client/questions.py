"""The calls of the protocol, ready to be sent, and how their answers are read, over HTTP and over gRPC. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

from google.protobuf.message import DecodeError

from ..bundle.errors import InvalidInput
from ..wire import codec_json, codec_proto, json_metadata, oip
from ..wire.address import Address
from ..wire.codec_json import HEADER_LENGTH
from ..wire.oip import Message
from ..wire.tensors import InferRequest, InferResponse, ModelMetadata
from .failures import unreadable

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """What came back with success.

    Attributes:
        body: the message.
        headers: HTTP's, by lower-case name; none over gRPC.
    """

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Question(Generic[T]):
    """A call.

    Attributes:
        server: for messages.
        method: HTTP's method; empty over gRPC.
        target: HTTP's path, or the call's full name over gRPC.
        body: the message.
        reader: what is told by a reply.
        headers: HTTP's, besides those that every request has.
    """

    server: str
    method: str
    target: str
    body: bytes
    reader: Callable[[Reply], T]
    headers: tuple[tuple[str, str], ...] = ()

    def read(self, reply: Reply) -> T:
        """What the reply says.

        Raises:
            EngineFailed: it is none of this protocol.
        """
        try:
            return self.reader(reply)
        except InvalidInput as error:  # of the codecs, which blame who sent it
            raise unreadable(self.server, error.line()) from None
        except DecodeError:
            raise unreadable(self.server, "bytes that are no such message") from None


class Questions(Protocol):
    """The calls about one model."""

    def infer(self, request: InferRequest, *, plain: bool) -> Question[InferResponse]:
        """An inference; ``plain`` where all that is sent and asked for is text and finite numbers."""

    def metadata(self) -> Question[ModelMetadata]:
        """What the model takes and gives."""

    def properties(self) -> Question[Mapping[str, str]] | None:
        """The properties of its metadata, where :meth:`metadata` doesn't bring them."""

    def ready(self) -> Question[bool]:
        """Whether it answers."""


def questions_at(address: Address, model: str, version: str) -> Questions:
    """The calls in the form that the address speaks."""
    return (GrpcQuestions if address.scheme == "grpc" else HttpQuestions)(address, model, version)


class HttpQuestions:
    """Over HTTP; tensors go raw, but texts in plain JSON, which every server reads."""

    def __init__(self, address: Address, model: str, version: str) -> None:
        self._server = str(address)
        self._path = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")

    def infer(self, request: InferRequest, *, plain: bool) -> Question[InferResponse]:
        """See :class:`Questions`."""
        body = codec_json.encode_request(request, binary=not plain)
        headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
        if body.header_length is not None:
            headers = (("content-type", "application/octet-stream"), (HEADER_LENGTH, str(body.header_length)))
        return Question(self._server, "POST", f"{self._path}/infer", body.content, _read_http_response, headers)

    def metadata(self) -> Question[ModelMetadata]:
        """See :class:`Questions`."""

        def read(reply: Reply) -> ModelMetadata:
            return json_metadata.decode_model_metadata(reply.body)

        return Question(self._server, "GET", self._path, b"", read)

    def properties(self) -> None:
        """See :class:`Questions`."""
        return

    def ready(self) -> Question[bool]:
        """See :class:`Questions`."""
        return Question(self._server, "GET", f"{self._path}/ready", b"", lambda reply: True)


class GrpcQuestions:
    """Over gRPC."""

    def __init__(self, address: Address, model: str, version: str) -> None:
        self._server = str(address)
        self._model, self._version = model, version

    def infer(self, request: InferRequest, *, plain: bool) -> Question[InferResponse]:
        """See :class:`Questions`."""
        return self._question("ModelInfer", codec_proto.encode_request(request), codec_proto.decode_response)

    def metadata(self) -> Question[ModelMetadata]:
        """See :class:`Questions`."""
        return self._of_model("ModelMetadata", codec_proto.decode_model_metadata)

    def properties(self) -> Question[Mapping[str, str]]:
        """See :class:`Questions`; the parameters of the model's configuration."""

        def read(message: Message) -> dict[str, str]:
            return {name: value.string_value for name, value in message.config.parameters.items()}

        return self._of_model("ModelConfig", read)

    def ready(self) -> Question[bool]:
        """See :class:`Questions`."""
        return self._of_model("ModelReady", lambda message: bool(message.ready))

    def _of_model(self, name: str, read: Callable[[Message], T]) -> Question[T]:
        return self._question(name, oip.METHODS[name].request(name=self._model, version=self._version), read)

    def _question(self, name: str, message: Message, read: Callable[[Message], T]) -> Question[T]:
        method = oip.METHODS[name]
        body = bytes(message.SerializeToString())
        return Question(self._server, "", method.path, body, lambda reply: read(method.response.FromString(reply.body)))


def _read_http_response(reply: Reply) -> InferResponse:
    header_length = codec_json.read_header_length(reply.headers.get(HEADER_LENGTH.lower()))
    return codec_json.decode_response(reply.body, header_length)
