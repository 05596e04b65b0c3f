"""One connection to a server of the Open Inference Protocol, for a client that must cost little and hide nothing.

Requests are bytes made once for each text; :meth:`Client.send` moves them and never raises, retries or waits past the
deadline: every send ends in exactly one :class:`Reply`. Nothing here knows Locust or gevent: under gevent's patches the
same blocking code yields.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..bundle.errors import DeadlineExceeded, NlpdeployError, NotFound, Unavailable
from ..wire.address import parse_address
from ..wire.tensors import InferRequest, InferResponse, ModelMetadata, Tensor
from .samples import Outcome


@dataclass(frozen=True, slots=True)
class Reply:
    """How a send ended.

    Attributes:
        outcome: OK (there is a body to read), ERROR or TIMEOUT.
        ended: when, in seconds of ``time.monotonic``.
        status: gRPC status code or HTTP status; 0 on HTTP where none came.
        body: the answer as it came, for :meth:`Client.read`.
        detail: what the server or the network said of a failure.
        timing: ``server-timing`` of a good answer, as it came; empty where there is none.
    """

    outcome: Outcome
    ended: float
    status: int
    body: bytes = b""
    detail: str = ""
    timing: str = ""


class Client(Protocol):
    """What the two transports have in common."""

    def metadata(self, timeout: float) -> ModelMetadata:
        """Ask what the model takes and gives.

        Raises:
            NotFound: the server has no such model.
            Unavailable: no server there, or it isn't ready.
        """

    def encode(self, text: str, pair: str | None = None, outputs: tuple[str, ...] = ()) -> bytes:
        """The whole request for one text, or one pair of texts, and the model's default outputs, or others."""

    def send(self, request: bytes, deadline: float) -> Reply:
        """Send and wait for the answer until ``deadline`` (seconds of ``time.monotonic``). Raises nothing."""

    def read(self, body: bytes) -> InferResponse:
        """The answer in a reply's body.

        Raises:
            InvalidInput: it is no answer of this protocol.
        """

    def close(self) -> None:
        """Close the connections."""


def open_client(url: str, model: str, version: str = "", key_file: str | None = None) -> Client:
    """The client for ``grpc://``, ``http://`` or ``torchserve://host:port``; it connects when it is first used.

    Args:
        url: where.
        model: its name there.
        version: of the model; empty for the server's choice.
        key_file: with the token that a TorchServe asks for.

    Raises:
        InvalidInput: another form of address, or no token in the key file.
        NotFound: no such key file.
    """
    if url.startswith("torchserve://"):
        from .client_torchserve import TorchServeClient, torchserve_address

        return TorchServeClient(torchserve_address(url), model, version, Path(key_file) if key_file else None)
    address = parse_address(url)
    if address.scheme == "grpc":
        from .client_grpc import GrpcClient

        return GrpcClient(address, model, version)
    from .client_http import HttpClient

    return HttpClient(address, model, version)


def refused(what: str, reply: Reply) -> NlpdeployError:
    """The error of a question that got no answer, by its status (gRPC codes are below 17, HTTP's from 100 on)."""
    found = reply.detail or f"status {reply.status}"
    if reply.outcome is Outcome.TIMEOUT:
        return DeadlineExceeded(what, found=found)
    if reply.status in (5, 404):
        return NotFound(what, found=found, mend="ask the server which models it has")
    return Unavailable(what, found=found, wanted="a ready server of the Open Inference Protocol")


def infer_request(model: str, version: str, text: str, pair: str | None, outputs: tuple[str, ...] = ()) -> InferRequest:
    """A request with one row, for the model's default outputs or those named."""
    inputs = [_bytes_tensor("text", text)]
    if pair is not None:
        inputs.append(_bytes_tensor("text_pair", pair))
    return InferRequest(model=model, version=version, inputs=tuple(inputs), outputs=outputs)


def _bytes_tensor(name: str, text: str) -> Tensor:
    data = np.empty(1, dtype=object)
    data[0] = text.encode()
    return Tensor(name, "BYTES", data)
