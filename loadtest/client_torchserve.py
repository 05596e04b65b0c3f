"""TorchServe's own REST interface, so that what runs today can be measured beside what shall replace it.

An archive that nlpdeploy packed says so and is asked in the Open Inference Protocol; any other gets the text as
``text/plain``, as a caller of it would send it, and its JSON is read for what it has in it.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.errors import InvalidInput, NotFound
from ..bundle.specs import TensorSpec
from ..wire.address import Address, parse_address
from ..wire.codec_json import encode_request
from ..wire.tensors import InferResponse, ModelMetadata, Tensor
from .client import Reply, infer_request, refused
from .client_http import HttpClient
from .samples import Outcome

SCHEME = "torchserve://"
_PROBE = b"hello"  # to a handler that can't describe itself the question is a text like any other
_TEXT = "text/plain; charset=utf-8"
_PATIENCE = 10.0
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


def torchserve_address(url: str) -> Address:
    """Where a ``torchserve://host:port`` listens.

    Raises:
        InvalidInput: another form.
    """
    try:
        return parse_address("http://" + url.removeprefix(SCHEME))
    except InvalidInput:
        raise InvalidInput("url", found=url, wanted="torchserve://HOST:PORT") from None


def read_token(path: Path) -> str:
    """The token for inference in TorchServe's ``key_file.json``, or the one thing in a file of its own.

    Raises:
        NotFound: no such file.
        InvalidInput: no token in it.
    """
    try:
        text = path.read_bytes().decode("ascii").strip()
        if text.startswith("{"):
            text = json.loads(text)["inference"]["key"]
        if not isinstance(text, str) or not _TOKEN.fullmatch(text):
            raise ValueError
    except FileNotFoundError:
        raise NotFound(f"key file {path}", found="no such file", mend="give TorchServe's with --key-file") from None
    except (OSError, ValueError, KeyError, TypeError):
        wanted = "TorchServe's key_file.json, or nothing but the token"
        raise InvalidInput(f"key file {path}", found="no token that can be read", wanted=wanted) from None
    return text


class TorchServeClient(HttpClient):
    """``POST /predictions/MODEL[/VERSION]``; asks once, before the first text is encoded, what the archive is."""

    def __init__(self, address: Address, model: str, version: str, key_file: Path | None = None) -> None:
        """Read the token.

        Raises:
            NotFound, InvalidInput: the key file is not there or holds no token.
        """
        super().__init__(address, model, version)
        self._path = f"/predictions/{model}" + (f"/{version}" if version else "")
        self._authorization = f"Authorization: Bearer {read_token(key_file)}\r\n" if key_file else ""
        self._described: dict[str, Any] | None = None

    def metadata(self, timeout: float) -> ModelMetadata:
        """See :class:`~nlpdeploy.loadtest.client.Client`; of an archive of another tool all that is known is its text.

        Raises:
            InvalidInput: it wants a token, or another one.
        """
        said = self._describe(timeout)
        inputs = tuple(TensorSpec(str(name), "BYTES", (-1,)) for name in said.get("inputs", ["text"]))
        outputs = tuple(TensorSpec(str(name), "BYTES", (-1,)) for name in said.get("outputs", ["answer"]))
        return ModelMetadata(self._model, (self._version,) if self._version else (), "torchserve", inputs, outputs)

    def encode(self, text: str, pair: str | None = None, outputs: tuple[str, ...] = ()) -> bytes:
        """See :class:`~nlpdeploy.loadtest.client.Client`.

        Raises:
            InvalidInput: a pair for an archive of another tool.
        """
        if self._describe(_PATIENCE):
            body = encode_request(infer_request(self._model, self._version, text, pair, outputs), binary=False).content
            return self._asking(body, "application/json")
        if pair is not None:
            raise InvalidInput(
                f"pairs of texts for {self._model} at {self._address}",
                found="an archive that nlpdeploy did not pack",
                wanted="single texts",
            )
        return self._asking(text.encode(), _TEXT)

    def read(self, body: bytes) -> InferResponse:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        return super().read(body) if self._described else read_told(self._model, self._version, body)

    def _describe(self, timeout: float) -> dict[str, Any]:
        """What the archive says of itself; empty for one that says nothing."""
        if self._described is None:
            asked = self._asking(_PROBE, _TEXT, "describe: true\r\n")
            reply = self.send(asked, time.monotonic() + timeout)
            if reply.outcome is not Outcome.OK and not _of_the_handler(reply):
                raise self._refusal(reply)
            self._described = _description(reply.body)
        return self._described

    def _refusal(self, reply: Reply) -> Exception:
        if "Token" in reply.detail or "InvalidKey" in reply.detail:
            found = "a token that it doesn't take" if self._authorization else "no token"
            mend = "give its key_file.json with --key-file"
            return InvalidInput(f"TorchServe at {self._address}", found=found, wanted="its inference token", mend=mend)
        return refused(f"model {self._model} at {self._address}", reply)

    def _asking(self, body: bytes, content_type: str, more: str = "") -> bytes:
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._address.authority}\r\n{self._authorization}{more}"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def read_told(model: str, version: str, body: bytes) -> InferResponse:
    """What an archive of another tool says, as outputs of one row.

    A JSON object gives an output a member that is a text (BYTES) or a number (FP32), a JSON text is a ``label``;
    anything else that has something in it is an ``answer``.

    Raises:
        InvalidInput: nothing was said, or an error.
    """
    text = body.decode(errors="replace").strip()
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, dict):
        if "error" in value or {"code", "message"} <= set(value):
            raise InvalidInput(
                "the answer", found=f"error: {value.get('error') or value['message']}", wanted="an answer"
            )
        known = {str(name): one for name, one in value.items() if isinstance(one, (str, int, float))}
        outputs = tuple(_output(name, one) for name, one in known.items())
        if outputs:
            return InferResponse(model, version, "", outputs)
    if not value and value != 0:
        raise InvalidInput("the answer", found="nothing", wanted="an answer")
    name = "label" if isinstance(value, str) else "answer"
    return InferResponse(model, version, "", (_output(name, value if isinstance(value, str) else text),))


def _output(name: str, value: str | float) -> Tensor:
    if not isinstance(value, str):
        return Tensor(name, "FP32", np.array([value], dtype=np.float32))
    data = np.empty(1, dtype=object)
    data[0] = value.encode()
    return Tensor(name, "BYTES", data)


def _description(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) and {"bundle_digest", "engine"} <= set(said) else {}


def _of_the_handler(reply: Reply) -> bool:
    """Whether a handler that doesn't know the question has failed over it, where the server itself is well."""
    return reply.outcome is Outcome.ERROR and reply.status in (400, 500) and "Token" not in reply.detail
