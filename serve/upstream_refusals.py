"""A TorchServe's answer that is no success -> the error kind it stands for, and whether another instance may be asked.

What was refused before any handler saw it may be asked elsewhere: no room in the queue, no such model, no valid token.
Everything else has been run, or may have been.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..bundle import errors
from ..bundle.errors import EngineFailed, InvalidInput, NlpdeployError, Overloaded, TooLarge
from ..wire.http1 import AnswerParser
from ..wire.json_text import parse_json
from .admission import LEAST_RETRY

_LONGEST = 200
"""Characters of what a server says of its error."""
_OF_HANDLER: dict[str, type[NlpdeployError]] = {
    kind.__name__: kind
    for kind in (errors.InvalidInput, errors.NotFound, errors.Unsupported, errors.EngineFailed, errors.TooLarge)
}
_NO_MODEL = ("ModelNotFoundException", "ModelVersionNotFoundException", "ResourceNotFoundException")


class Where(enum.Enum):
    """Who refused."""

    QUEUE = "no room; another instance may have some"
    KEY = "the token; no request of ours is taken"
    MODEL = "it has no such model"
    HANDLER = "the model, or whatever ran it"


@dataclass(frozen=True)
class Refusal:
    """An answer that is no success.

    Attributes:
        status: HTTP's.
        where: who refused.
        error: what a caller is told where nobody else is asked.
        said: in the server's words, one line.
    """

    status: int
    where: Where
    error: NlpdeployError
    said: str

    @property
    def elsewhere(self) -> bool:
        """Whether nothing was run, so that another instance may be asked."""
        return self.where is not Where.HANDLER


def read_refusal(answer: AnswerParser, server: str, *, secret: str | None) -> Refusal:
    """What an answer above 299 means.

    Args:
        answer: whole.
        server: for messages, ``host:port``.
        secret: the token that was sent, which no message may hold.
    """
    kind, said = _read(answer.body)
    said = " ".join(said.split()) or f"HTTP status {answer.status}"
    if secret:
        said = said.replace(secret, "…")
    said = said[:_LONGEST]
    status = answer.status
    if status == 503:
        # Only the frontend says it so; a handler of another maker may say 503 after all its work.
        where = Where.QUEUE if kind == "ServiceUnavailableException" else Where.HANDLER
        return Refusal(status, where, Overloaded(f"upstream {server} has no room", retry_after=LEAST_RETRY), said)
    if status in (401, 403) or kind == "InvalidKeyException":
        return Refusal(status, Where.KEY, errors.Unavailable(f"upstream {server}", found="it refuses the token"), said)
    if status == 404 and kind in _NO_MODEL:
        return Refusal(status, Where.MODEL, errors.Unavailable(f"upstream {server}", found=said), said)
    if status == 429:
        return Refusal(
            status, Where.HANDLER, Overloaded(f"upstream {server} has no room", retry_after=LEAST_RETRY), said
        )
    if status == 413:
        return Refusal(status, Where.HANDLER, TooLarge(f"request to upstream {server}", found=said), said)
    if kind in _OF_HANDLER:
        return Refusal(status, Where.HANDLER, _OF_HANDLER[kind](said), said)
    if 400 <= status < 500:
        return Refusal(status, Where.HANDLER, InvalidInput(f"upstream {server} refuses the text", found=said), said)
    return Refusal(status, Where.HANDLER, EngineFailed(f"upstream {server} failed", found=f"{status}: {said}"), said)


def _read(body: bytes) -> tuple[str, str]:
    """Type and message, of TorchServe's own errors or of our handler's."""
    try:
        said = parse_json(body)
    except errors.NlpdeployError:
        return "", body[:_LONGEST].decode(errors="replace")
    if not isinstance(said, dict):
        return "", str(said)
    message = next((said[name] for name in ("error", "message", "status") if isinstance(said.get(name), str)), "")
    return str(said.get("type", "")), message
