"""The gRPC client's HTTP/2 against an independent implementation (``h2``), which refuses whatever breaks the rules."""

import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from nlpdeploy.loadtest.client_grpc import GrpcClient
from nlpdeploy.loadtest.grpc_headers import RequestHeaders, grpc_timeout
from nlpdeploy.loadtest.samples import Outcome
from nlpdeploy.wire.address import parse_address
from nlpdeploy.wire.h2_headers import HeaderReader

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
GOOD = [("grpc-status", "0"), ("server-timing", "model;dur=1.5")]
BODY = b"an answer"


def message(body: bytes = BODY, packed: int = 0) -> bytes:
    return struct.pack(">BI", packed, len(body)) + body


class Peer(h2.connection.H2Connection):
    """A server's side of one connection; what it has read of each request, and the headers of it."""

    def __init__(self) -> None:
        super().__init__(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.bodies: dict[int, bytes] = {}
        self.heads: dict[int, dict[str, str]] = {}
        self.seen: list[h2.events.Event] = []

    def take(self, event: h2.events.Event, script: "Script") -> None:
        self.seen.append(event)
        if isinstance(event, h2.events.RequestReceived):
            self.heads[event.stream_id] = dict(event.headers)
            self.bodies[event.stream_id] = b""
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            script(self, event.stream_id)

    def answer(self, stream: int, body: bytes = message(), trailers: list[tuple[str, str]] = GOOD) -> None:
        self.send_headers(stream, HEAD)
        for at in range(0, len(body), self.max_outbound_frame_size):
            self.send_data(stream, body[at : at + self.max_outbound_frame_size])
        self.send_headers(stream, trailers, end_stream=True)


Script = Callable[[Peer, int], None]


@contextmanager
def peers(script: Script, settings: dict[SettingCodes, int] | None = None) -> Iterator[tuple[str, list[Peer]]]:
    """A server whose script is called for each whole request; its address, and its connections."""
    made: list[Peer] = []
    faults: list[Exception] = []

    def serve(connection: socket.socket, peer: Peer) -> None:
        try:
            peer.local_settings.update(settings or {})
            peer.local_settings.acknowledge()
            peer.initiate_connection()
            with connection:
                connection.sendall(peer.data_to_send())
                while data := connection.recv(65536):
                    for event in peer.receive_data(data):
                        peer.take(event, script)
                    connection.sendall(peer.data_to_send())
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001  (told by the test's own thread)
            faults.append(error)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            made.append(Peer())
            threading.Thread(target=serve, args=(connection, made[-1]), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"grpc://127.0.0.1:{listener.getsockname()[1]}", made
        listener.shutdown(socket.SHUT_RDWR)
    assert not faults


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


@contextmanager
def client(url: str) -> Iterator[GrpcClient]:
    opened = GrpcClient(parse_address(url), "intent", "")
    try:
        yield opened
    finally:
        opened.close()


def answered(script: Script, requests: int = 1, **settings: int) -> tuple[list[object], list[Peer]]:
    wanted = {SettingCodes[name.upper()]: value for name, value in settings.items()}
    with peers(script, wanted) as (url, made), client(url) as asking:
        return [asking.send(b"a request", soon()) for _ in range(requests)], made


def test_requests_are_gRPCs_and_later_ones_refer_to_the_first_ones_headers() -> None:
    replies, (peer,) = answered(lambda peer, stream: peer.answer(stream), 3)
    assert [(reply.outcome, reply.status, reply.body, reply.timing) for reply in replies] == [
        (Outcome.OK, 0, BODY, "model;dur=1.5")
    ] * 3
    assert list(peer.bodies.values()) == [message(b"a request")] * 3
    for head in peer.heads.values():
        assert head[":method"] == "POST"
        assert head[":path"] == "/inference.GRPCInferenceService/ModelInfer"
        assert (head["te"], head["content-type"]) == ("trailers", "application/grpc")
        assert head["grpc-timeout"].endswith("u")
        assert 4e6 < int(head["grpc-timeout"][:-1]) <= 5e6
    assert peer.heads[1].keys() == peer.heads[3].keys()


@pytest.mark.parametrize("settings", [{"initial_window_size": 3}, {"header_table_size": 0}, {"max_frame_size": 2**20}])
def test_what_the_server_asks_for_is_kept_to(settings: dict[str, int]) -> None:
    replies, (peer,) = answered(lambda peer, stream: peer.answer(stream), 4, **settings)
    assert [reply.body for reply in replies] == [BODY] * 4
    assert list(peer.bodies.values()) == [message(b"a request")] * 4


def test_a_request_larger_than_every_window_arrives_whole() -> None:
    text = bytes(range(256)) * 1500
    with peers(lambda peer, stream: peer.answer(stream, message(text))) as (url, (made)), client(url) as asking:
        assert asking.send(text, soon(20)).body == text
        assert made[0].bodies[1] == message(text)


def test_a_server_that_takes_one_call_at_a_time_gets_a_connection_for_each() -> None:
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    with peers(lambda peer, stream: None, settings) as (url, made), client(url) as asking:
        threads = [threading.Thread(target=asking.send, args=(b"x", soon(1.0))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(peer.bodies) for peer in made] == [1, 1, 1]


@pytest.mark.parametrize(
    ("script", "outcome", "status", "detail"),
    [
        (
            lambda peer, stream: peer.send_headers(
                stream, [*HEAD, ("grpc-status", "8"), ("grpc-message", "queue%20full")], end_stream=True
            ),
            Outcome.ERROR,
            8,
            "RESOURCE_EXHAUSTED: queue full",
        ),
        (
            lambda peer, stream: peer.answer(stream, b"", [("grpc-status", "4"), ("grpc-message", "too late")]),
            Outcome.TIMEOUT,
            4,
            "DEADLINE_EXCEEDED: too late",
        ),
        (
            lambda peer, stream: peer.answer(stream, b"", [("grpc-status", "99")]),
            Outcome.ERROR,
            99,
            "status 99",
        ),
        (lambda peer, stream: peer.answer(stream, b""), Outcome.ERROR, 13, "0 bytes"),
        (lambda peer, stream: peer.answer(stream, message() + message()), Outcome.ERROR, 13, "28 bytes"),
        (lambda peer, stream: peer.answer(stream, message()[:-1]), Outcome.ERROR, 13, "13 bytes"),
        (lambda peer, stream: peer.answer(stream, message(packed=1)), Outcome.ERROR, 13, "not one uncompressed"),
        (
            lambda peer, stream: peer.send_headers(stream, [(":status", "503")], end_stream=True),
            Outcome.ERROR,
            14,
            "HTTP status 503",
        ),
        (
            lambda peer, stream: (peer.send_headers(stream, HEAD), peer.end_stream(stream)),
            Outcome.ERROR,
            2,
            "without a grpc-status",
        ),
        (
            lambda peer, stream: (peer.send_headers(stream, HEAD), peer.reset_stream(stream, ErrorCodes.CANCEL)),
            Outcome.ERROR,
            1,
            "reset the stream",
        ),
    ],
)
def test_every_end_is_told(script: Script, outcome: Outcome, status: int, detail: str) -> None:
    with peers(script) as (url, _), client(url) as asking:
        reply = asking.send(b"", soon())
    assert (reply.outcome, reply.status) == (outcome, status), reply.detail
    assert detail in reply.detail
    assert reply.body == b""


@pytest.mark.parametrize("refuse", ["stream", "connection"])
def test_a_call_that_no_server_looked_at_is_asked_once_more(refuse: str) -> None:
    def script(peer: Peer, stream: int) -> None:
        if peer is not made[0] or len(peer.bodies) > 1:
            peer.answer(stream)
        elif refuse == "stream":
            peer.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        else:
            peer.close_connection(last_stream_id=0)

    with peers(script) as (url, made), client(url) as asking:
        assert asking.send(b"", soon()).body == BODY
        assert len(made) == (1 if refuse == "stream" else 2)
    replies, (peer,) = answered(lambda peer, stream: peer.reset_stream(stream, ErrorCodes.REFUSED_STREAM))
    assert replies[0].outcome is Outcome.ERROR
    assert len(peer.bodies) == 2


def test_a_call_that_is_given_up_is_cancelled_and_the_connection_goes_on() -> None:
    def script(peer: Peer, stream: int) -> None:
        if stream > 1:
            peer.ping(b"are you?")
            peer.answer(stream)

    with peers(script) as (url, (made)), client(url) as asking:
        assert asking.send(b"", soon(0.2)).outcome is Outcome.TIMEOUT
        assert asking.send(b"", soon()).body == BODY
        assert asking.send(b"", soon()).body == BODY
        (peer,) = made
        kinds = [type(event) for event in peer.seen]
    assert h2.events.StreamReset in kinds
    assert h2.events.PingAckReceived in kinds


@contextmanager
def saying(*pieces: bytes, hear: bool = True) -> Iterator[str]:
    """A server that says these bytes to each client, whatever it hears; then it is silent, and hears nothing."""
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
                if hear:
                    held[-1].recv(65536)
                for piece in pieces:
                    held[-1].sendall(piece)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"grpc://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


SETTINGS = b"\0\0\0\4\0\0\0\0\0"


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",),
        (b"\0\0\10\6\0\0\0\0\0" + b"12345678",),  # a ping before the settings
        (SETTINGS, b"\0\0\4\5\4\0\0\0\1" + b"\0\0\0\2"),  # a push
        (SETTINGS, b"\0\0\1\11\4\0\0\0\1" + b"\x88"),  # headers that go on before they began
        (SETTINGS, b"\0\0\1\1\4\0\0\0\1" + b"\xff"),  # headers that can't be read
        (SETTINGS, b"\0\0\3\10\0\0\0\0\0" + b"\0\0\0"),  # a window of three bytes
    ],
)
def test_a_peer_that_breaks_the_protocol_is_an_error_at_once(pieces: tuple[bytes, ...]) -> None:
    with saying(*pieces) as url, client(url) as asking:
        before = time.monotonic()
        reply = asking.send(b"", soon(8.0))
    assert (reply.outcome, reply.status) == (Outcome.ERROR, 14), reply.detail
    assert time.monotonic() - before < 6.0


def test_a_server_that_says_nothing_at_all_is_a_timeout() -> None:
    with saying() as url, client(url) as asking:
        reply = asking.send(b"", soon(0.2))
    assert (reply.outcome, reply.detail.partition(":")[0]) == (Outcome.TIMEOUT, "DEADLINE_EXCEEDED")


def test_an_answer_before_the_request_was_heard_out_is_an_answer() -> None:
    """The server refuses a large request by its headers alone, and never opens its windows."""

    def refuse(peer: Peer, event: h2.events.Event, script: Script) -> None:
        if isinstance(event, h2.events.RequestReceived):
            peer.send_headers(event.stream_id, [*HEAD, ("grpc-status", "8")], end_stream=True)

    for window in ({SettingCodes.INITIAL_WINDOW_SIZE: 10}, {}):
        with pytest.MonkeyPatch.context() as patch, peers(lambda peer, stream: None, window) as (url, _):
            patch.setattr(Peer, "take", refuse)
            with client(url) as asking:
                reply = asking.send(b"x" * 200_000, soon(5))
        assert (reply.outcome, reply.status) == (Outcome.ERROR, 8), reply.detail


def test_a_server_that_reads_nothing_delays_no_deadline_and_no_other_request() -> None:
    with (
        saying(
            SETTINGS + b"\0\0\4\10\0\0\0\0\0\x7f\0\0\0" + b"\0\0\6\4\0\0\0\0\0\0\4\x7f\xff\xff\xff", hear=False
        ) as url,
        client(url) as asking,
    ):
        before = time.monotonic()
        for _ in range(3):
            assert asking.send(b"x" * 8_000_000, soon(0.3)).outcome is Outcome.TIMEOUT
        assert time.monotonic() - before < 4.0


GEVENT = """
import sys, time
from gevent import monkey; monkey.patch_all()
import gevent
from nlpdeploy.loadtest.client import open_client
client = open_client(sys.argv[1], "intent")
replies = []
def ask(text):
    replies.append(client.send(client.encode(text), time.monotonic() + 20))
gevent.joinall([gevent.spawn(ask, "x" * size) for size in [3] * 200 + [300_000] * 5], raise_error=True)
print(sorted({reply.outcome.name for reply in replies}), len(replies))
"""


def test_under_gevent_many_requests_share_a_connection() -> None:
    from support.null_server import null_server

    with null_server("--delay-ms", "20") as server:
        done = subprocess.run(
            [sys.executable, "-c", GEVENT, server.url("grpc")], capture_output=True, text=True, timeout=60
        )
    assert done.stdout == "['OK'] 205\n", done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, b"250000u"),
        (-1.0, b"0u"),
        (99.0, b"99000000u"),
        (100.5, b"100500m"),
        (2e5, b"200000S"),
        (1e12, b"99999999S"),
    ],
)
def test_a_timeout_has_eight_digits_at_most(seconds: float, text: bytes) -> None:
    assert grpc_timeout(seconds) == text


def test_header_blocks_read_alike_with_and_without_a_table() -> None:
    with_table, without = RequestHeaders("h:1", "agent"), RequestHeaders("h:1", "agent")
    without.limit_table(0)
    readers = HeaderReader(4096), HeaderReader(4096)
    for _ in range(3):
        one, other = (
            sorted(reader.read(headers.block(b"/s/m", 1.0)) or [])
            for reader, headers in zip(readers, (with_table, without), strict=True)
        )
        assert one == other
        assert (b":authority", b"h:1") in one
