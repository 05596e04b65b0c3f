"""One TorchServe elsewhere: its connections, its token, what is under way there, and whether it may be asked."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..bundle.errors import InvalidInput, NlpdeployError, NotFound
from ..wire.address import Address
from ..wire.http1 import AnswerParser
from ..wire.json_text import parse_json
from .upstream_connections import Broken, Connections, NotSent
from .upstream_description import Description, read_description, told_description
from .upstream_refusals import Refusal, Where, read_refusal
from .upstream_spec import KeyFile, Upstream
from .upstream_told import PROBE, read_told

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between looks at an instance."""
LOOK_TIMEOUT = 2.0
"""For its frontend to say how it is."""
DESCRIBE_TIMEOUT = 10.0
"""For a worker to say what it serves, behind what waits there already."""
PATIENCE = 2
"""Looks in a row without an answer in time before an instance counts as gone: a JVM may stop to collect."""
Headers = tuple[tuple[str, str], ...]
JSON: Headers = (("content-type", "application/json"),)
TEXT: Headers = (("content-type", "text/plain; charset=utf-8"),)


class State(enum.Enum):
    """Whether an instance may be asked."""

    UP = "answers"
    DOWN = "doesn't answer; it may come back by itself"
    WRONG = "can't be asked before somebody changes something"
    OTHER = "serves another bundle than the other instances, or than before"


@dataclass(frozen=True)
class Limits:
    """Of what an instance is asked.

    Attributes:
        answer_bytes: largest answer.
        requests: most under way at once; None: as the archive was packed for.
    """

    answer_bytes: int
    requests: int | None = None


UNDESCRIBED_REQUESTS = 16
"""Under way at an instance that doesn't say how much it does at once."""


class Instance:
    """One TorchServe.

    Args:
        upstream: what it answers for.
        address: where.
        limits: of what it is asked.
        accepts: says why a description doesn't fit to what the other instances serve; None where it does.
        changed: told after each change of its state.

    Attributes:
        state: whether it may be asked.
        reason: why not.
        described: what it serves, once it has said so.
        requests: under way.
        rows: texts under way.
        sent: requests so far.
    """

    def __init__(
        self,
        upstream: Upstream,
        address: Address,
        limits: Limits,
        *,
        accepts: Callable[[Description], str | None],
        changed: Callable[[Instance], None],
    ) -> None:
        self.upstream, self.address = upstream, address
        self.state, self.reason = State.DOWN, "not asked yet"
        self.described: Description | None = None
        self.requests = self.rows = self.sent = 0
        key = upstream.keys.get(address.authority)
        self._key = None if key is None else KeyFile(key)
        self._limits = limits
        self._accepts, self._changed = accepts, changed
        self._connections = Connections(address, limits.answer_bytes)
        self._silent = 0
        self._wake = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return self.address.authority

    @property
    def up(self) -> bool:
        """Whether it may be asked."""
        return self.state is State.UP

    @property
    def slots(self) -> int:
        """Requests that may be under way: twice what its workers take at once, so that they never wait for the next."""
        if self._limits.requests is not None:
            return self._limits.requests
        described = self.described
        if described is None or described.workers is None or described.batch_size is None:
            return UNDESCRIBED_REQUESTS
        return max(2 * described.workers * described.batch_size, 1)

    async def predict(self, body: bytes, content: Headers, timeout: float) -> AnswerParser | Refusal:
        """Ask for answers.

        Args:
            body: in the form that ``described`` asks for.
            content: headers that say what the body is.
            timeout: seconds until the connection is cut.

        Raises:
            NotSent: nothing has been sent; the instance is out.
            Broken: there is no whole answer.
        """
        self.sent += 1
        try:
            answer = await self._ask("POST", self.upstream.target, content, body, timeout)
        except NotSent as error:
            self.out(State.DOWN, str(error))
            self.look_soon()
            raise
        except (NotFound, InvalidInput) as error:  # of the key file
            self.out(_of_key(error), error.line())
            raise NotSent(error.line()) from None
        except Broken as error:
            if not error.late:
                self.look_soon()
            raise
        if isinstance(answer, Refusal) and answer.where in (Where.KEY, Where.MODEL):
            self._refused(answer)
        return answer

    def out(self, state: State, reason: str) -> None:
        """Ask it no more until a look says otherwise."""
        before, self.state, self.reason = (self.state, self.reason), state, reason
        if before[0] is State.UP:
            log.warning("upstream %s: %s is out: %s", self.upstream.name, self, reason)
        elif before != (state, reason):
            log.info("upstream %s: %s is not there: %s", self.upstream.name, self, reason)
        self._changed(self)

    def look_soon(self) -> None:
        """Look without waiting for the next turn."""
        self._wake.set()

    def start(self) -> None:
        """Look at it from now on, until :meth:`close`."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def look(self) -> None:
        """Ask how it is and, where it is back or only a part of it is well, what it serves."""
        try:
            well = await self._health()
            described = None if well is None or (well and self.up) else await self._description()
        except (NotSent, Broken) as error:
            self._without_answer(error)
        except NlpdeployError as error:  # of the key file, or of what it says of itself
            self.out(_of_key(error), error.line())
        else:
            self._silent = 0
            if described is not None:
                self._serves(described)

    def close(self) -> None:
        """Look no more, and cut every connection."""
        if self._watching is not None:
            self._watching.cancel()
        self._connections.cut()

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.look()
            except Exception:
                log.exception("a look at upstream %s failed", self)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
                await asyncio.sleep(LOOK_SECONDS / 10)  # many requests may find the same at once

    async def _ask(
        self, method: str, target: str, headers: Headers, body: bytes, timeout: float
    ) -> AnswerParser | Refusal:
        token = None if self._key is None else self._key.token()
        own = headers if token is None else (*headers, ("authorization", f"Bearer {token}"))
        answer = await self._connections.ask(method, target, own, body, timeout)
        if 200 <= answer.status < 300:
            return answer
        return read_refusal(answer, str(self), secret=token)

    async def _health(self) -> bool | None:
        """True where all of it is well, False where a part is; None where it isn't, which is noted."""
        answer = await self._ask("GET", "/ping", (), b"", LOOK_TIMEOUT)
        if isinstance(answer, Refusal):
            if answer.where is Where.KEY:
                self._refused(answer)
            elif answer.status < 500:
                self.out(State.WRONG, f"it is no TorchServe: /ping says {answer.said}")
            else:
                self.out(State.DOWN, f"its health: {answer.said}")
            return None
        try:
            said = parse_json(answer.body)
        except InvalidInput:
            said = None
        status = said.get("status") if isinstance(said, dict) else None
        if not isinstance(status, str):
            self.out(State.WRONG, "it is no TorchServe: /ping has no status")
            return None
        if status not in ("Healthy", "Partial Healthy"):
            self.out(State.DOWN, f"its health: {status[:40]}")
            return None
        return status == "Healthy"

    async def _description(self) -> Description | None:
        """What it serves; None where it can't say now, which is noted."""
        target = self.upstream.target
        answer = await self._ask("POST", target, (("describe", "true"), *TEXT), PROBE, DESCRIBE_TIMEOUT)
        if isinstance(answer, AnswerParser) and (described := read_description(answer.body)) is not None:
            return described
        if isinstance(answer, AnswerParser) or answer.where is Where.HANDLER:
            # Not one of ours. Whether its answers can be read is seen from one.
            answer = await self._ask("POST", target, TEXT, PROBE, DESCRIBE_TIMEOUT)
            if isinstance(answer, AnswerParser):
                read_told(answer.body)
                return told_description()
        if answer.where in (Where.KEY, Where.MODEL):
            self._refused(answer)
        elif answer.where is Where.HANDLER:
            self.out(State.WRONG, f"asked for an answer it says {answer.status}: {answer.said}")
        elif not self.up:
            self.out(State.DOWN, answer.said)
        return None

    def _refused(self, refusal: Refusal) -> None:
        if refusal.where is Where.MODEL:
            mend = f"--upstream {self.upstream.name}=torchserve://{self}/MODEL names another"
            self.out(State.WRONG, f"{refusal.said} ({mend})")
        elif self._key is None:
            self.out(State.WRONG, "it wants a token: --upstream-key-file names the file that has it")
        else:
            self.out(State.WRONG, f"it refuses the token of {self._key.path}")

    def _serves(self, described: Description) -> None:
        trouble = self._accepts(described)
        if trouble is not None:
            self.out(State.OTHER, trouble)
        elif not self.up:
            self.described, self.state, self.reason = described, State.UP, ""
            log.info("upstream %s: %s answers", self.upstream.name, self)
            self._changed(self)

    def _without_answer(self, error: NotSent | Broken) -> None:
        self._silent += 1
        if not error.late:
            self.out(State.DOWN, str(error))  # what is under way may still be answered, or ends by itself
        elif not self.up or self._silent >= PATIENCE:
            self.out(State.DOWN, str(error))
            self._connections.cut()
        else:
            self.look_soon()


def _of_key(error: NlpdeployError) -> State:
    """A key file that isn't there comes with its server."""
    return State.DOWN if isinstance(error, NotFound) else State.WRONG
