"""The HTTP/1.1 server at the socket: framing, order, limits, time, clients that leave, drain."""

import asyncio
import math
import socket
import time
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest

from nlpdeploy.bundle.errors import InvalidInput, Overloaded
from nlpdeploy.serve.http_limits import HttpLimits
from nlpdeploy.serve.http_messages import Response
from nlpdeploy.serve.http_server import HttpServer
from support.fronts import LoopThread, until


class Server:
    """Echoes; ``/slow`` waits for :meth:`release`, ``/bug`` and ``/busy`` raise, ``/big`` answers a lot."""

    def __init__(self, **limits):
        self.thread = LoopThread()
        self.started, self.cancelled, self.finished = [], [], []
        self.server = HttpServer(self.handle, "127.0.0.1", 0, HttpLimits(**limits))
        self.gate = asyncio.Event()
        self.port = self.thread.run(self.server.start())

    async def handle(self, request):
        self.started.append(request.target)
        if request.target.startswith("/slow"):
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.append(request.target)
                raise
        if request.target == "/bug":
            raise KeyError("a secret text")
        if request.target == "/busy":
            raise Overloaded("the queue", retry_after=2.0)
        body = b"x" * 30_000_000 if request.target == "/big" else request.target.encode() + b":" + request.body
        self.finished.append(request.target)
        return Response(200, body, "text/plain", [("x-method", request.method)])

    def release(self):
        self.thread.loop.call_soon_threadsafe(self.gate.set)

    def close(self):
        self.thread.run(self.server.stop(0.0))
        self.thread.close()


@contextmanager
def serving(**limits):
    server = Server(**limits)
    try:
        yield server
    finally:
        server.close()


class Client:
    """A raw connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.sendall = self.socket.sendall

    def at_end(self):
        return self.file.read(1) == b""

    def line(self):
        return self.file.readline().strip()


@contextmanager
def connected(server):
    client = Client(server.port)
    try:
        yield client
    finally:
        client.file.close()
        client.socket.close()


def answer(client, method="GET"):
    """Read one answer: status, headers by lower-case name, body."""
    status = int(client.line().split()[1])
    headers = {}
    while line := client.line():
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    return status, headers, b"" if method == "HEAD" else client.file.read(int(headers["content-length"]))


@pytest.fixture(scope="module")
def echo():
    with serving() as server:
        yield server


def test_keep_alive_serves_many_requests_on_one_connection(echo):
    connection = HTTPConnection("127.0.0.1", echo.port, timeout=10)
    for number in range(5):
        connection.request("POST", f"/{number}", body=b"b" * number)
        assert connection.getresponse().read() == f"/{number}:".encode() + b"b" * number
    connection.close()


def test_requests_sent_ahead_are_answered_in_order(echo):
    asked = b"".join(b"POST /%d HTTP/1.1\r\nContent-Length: 1\r\n\r\nz" % number for number in range(200))
    with connected(echo) as connection:
        connection.sendall(asked + b"GET /end HTTP/1.1\r\nConnection: close\r\n\r\n")
        bodies = [part.partition(b"\r\n\r\n")[2] for part in connection.file.read().split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"/%d:z" % number for number in range(200)] + [b"/end:"]


def test_a_request_that_comes_byte_by_byte_is_whole(echo):
    with connected(echo) as connection:
        for byte in b"POST /drip HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc":
            connection.sendall(bytes([byte]))
        assert answer(connection)[2] == b"/drip:abc"


def test_a_chunked_body_is_put_together_and_its_trailer_changes_nothing(echo):
    with connected(echo) as connection:
        connection.sendall(
            b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
        )
        assert answer(connection)[2] == b"/c:abcde"


def test_head_has_the_length_but_no_body(echo):
    with connected(echo) as connection:
        connection.sendall(b"HEAD /abc HTTP/1.1\r\n\r\nGET /next HTTP/1.1\r\n\r\n")
        status, headers, body = answer(connection, "HEAD")
        assert (status, headers["content-length"], headers["x-method"], body) == (200, "5", "HEAD", b"")
        assert answer(connection)[2] == b"/next:"


def test_http_1_0_is_answered_and_closed(echo):
    with connected(echo) as connection:
        connection.sendall(b"GET /old HTTP/1.0\r\n\r\n")
        assert connection.file.read().endswith(b"connection: close\r\n\r\n/old:")


def test_a_body_held_back_is_asked_for(echo):
    with connected(echo) as connection:
        connection.sendall(b"POST /e HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (connection.line(), connection.line()) == (b"HTTP/1.1 100 Continue", b"")
        connection.sendall(b"hi")
        assert answer(connection)[2] == b"/e:hi"


def test_a_body_held_back_behind_another_request_is_asked_for_in_its_turn():
    with serving() as server, connected(server) as connection:
        connection.sendall(
            b"GET /slow HTTP/1.1\r\n\r\nPOST /e HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert until(lambda: server.started)
        server.release()
        assert answer(connection)[2] == b"/slow:"
        assert (connection.line(), connection.line()) == (b"HTTP/1.1 100 Continue", b"")
        connection.sendall(b"hi")
        assert answer(connection)[2] == b"/e:hi"


def test_a_request_for_another_protocol_is_served_as_http_1_1_with_its_body(echo):
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
    with connected(echo) as connection:
        connection.sendall(b"POST /u HTTP/1.1\r\nX-A: b\r\n" + upgrade + b"GET /next HTTP/1.1\r\n\r\n")
        assert answer(connection)[2] == b"/u:abc"
        assert answer(connection)[2] == b"/next:"


def test_any_number_of_requests_for_another_protocol_in_one_packet_are_answered(echo):
    one = b"GET /u HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with connected(echo) as connection:
        connection.sendall(one * 1500)
        for _ in range(1500):
            assert answer(connection)[2] == b"/u:"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT host:1 HTTP/1.1\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: aaaaaaaa\r\n" * 8_000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 12_000 + b"\r\n", 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_gets_an_answer_and_the_end(echo, sent, status):
    with connected(echo) as connection:
        connection.sendall(b"GET /first HTTP/1.1\r\n\r\n" + sent)
        assert answer(connection)[2] == b"/first:"
        code, headers, body = answer(connection)
        assert (code, headers["connection"]) == (status, "close")
        assert body.startswith(b'{"error": "')
        assert connection.at_end()


@pytest.mark.parametrize("part", [b"GET / HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;"])
def test_a_header_or_a_chunk_line_without_end_is_cut_at_the_limit(echo, part):
    with connected(echo) as connection:
        connection.sendall(part)
        for _ in range(12):  # one read of up to 256 KiB may pass
            connection.sendall(b"a" * 50_000)
        assert answer(connection)[0] == 431
        assert connection.at_end()


@pytest.mark.parametrize("head", [b"Content-Length: 3000000", b"Transfer-Encoding: chunked"])
def test_a_body_above_the_limit_is_413_for_a_client_that_sends_it_all_first(head):
    with serving(body=1_000_000) as server, connected(server) as connection:
        body = b"a" * 3_000_000 if b"Length" in head else (b"186a0\r\n" + b"a" * 100_000 + b"\r\n") * 30 + b"0\r\n\r\n"
        connection.sendall(b"POST /big HTTP/1.1\r\n" + head + b"\r\n\r\n" + body)
        status, headers, text = answer(connection)
        assert (status, headers["connection"]) == (413, "close")
        assert b"1000000" in text
        assert server.started == []


def test_a_body_above_the_limit_is_refused_before_it_is_asked_for():
    with serving(body=10) as server, connected(server) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n")
        assert answer(connection)[0] == 413


def test_an_error_of_the_handler_gets_its_status_and_a_bug_keeps_its_words_inside(echo):
    with connected(echo) as connection:
        connection.sendall(b"GET /bug HTTP/1.1\r\n\r\nGET /busy HTTP/1.1\r\n\r\nGET /after HTTP/1.1\r\n\r\n")
        status, _, body = answer(connection)
        assert status == 500
        assert b"secret" not in body
        status, headers, _ = answer(connection)
        assert (status, headers["retry-after"], headers["error-kind"]) == (429, "2", "Overloaded")
        assert answer(connection)[2] == b"/after:"


def test_a_client_that_leaves_cancels_its_handler():
    with serving() as server:
        with connected(server) as connection:
            connection.sendall(b"GET /slow HTTP/1.1\r\n\r\nGET /never HTTP/1.1\r\n\r\n")
            assert until(lambda: server.started)
        assert until(lambda: server.cancelled == ["/slow"])
        assert server.started == ["/slow"]


def test_a_request_that_does_not_come_to_its_end_is_408():
    with serving(reading=0.2) as server, connected(server) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab")
        assert answer(connection)[0] == 408


def test_an_idle_connection_is_closed_without_a_word():
    with serving(idle=0.2) as server, connected(server) as connection:
        connection.sendall(b"GET /a HTTP/1.1\r\n\r\n")
        assert answer(connection)[0] == 200
        assert connection.at_end()


def test_a_client_that_reads_no_answer_is_cut():
    with serving(writing=0.2) as server, connected(server) as connection:
        connection.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        assert until(lambda: server.finished)
        assert until(lambda: not server.server.open_connections)


def test_a_slow_handler_is_not_a_slow_client():
    with serving(reading=0.1, idle=0.1) as server, connected(server) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert until(lambda: server.started)
        time.sleep(0.4)
        server.release()
        assert answer(connection)[2] == b"/slow:"


def test_one_connection_too_many_is_503_and_the_others_are_served():
    with serving(connections=2) as server, connected(server) as first, connected(server) as second:
        for connection in (first, second):
            connection.sendall(b"GET /a HTTP/1.1\r\n\r\n")
            assert answer(connection)[0] == 200
        with connected(server) as third:
            assert answer(third)[0] == 503
        first.sendall(b"GET /b HTTP/1.1\r\n\r\n")
        assert answer(first)[2] == b"/b:"


def test_a_newcomer_takes_the_place_of_the_connection_that_was_idle_for_longest():
    with serving(connections=3, rested=0.3) as server, connected(server) as oldest, connected(server) as younger:
        for connection in (oldest, younger):
            connection.sendall(b"GET /a HTTP/1.1\r\n\r\n")
            assert answer(connection)[0] == 200
        with connected(server) as busy:
            busy.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
            assert until(lambda: "/slow" in server.started)
            time.sleep(0.4)
            with connected(server) as newcomer:
                newcomer.sendall(b"GET /b HTTP/1.1\r\n\r\n")
                assert answer(newcomer)[2] == b"/b:"
                assert oldest.at_end()
                younger.sendall(b"GET /c HTTP/1.1\r\n\r\n")
                assert answer(younger)[2] == b"/c:"
                server.release()
                assert answer(busy)[2] == b"/slow:"


def test_who_has_not_taken_the_last_answer_makes_room_at_once():
    with serving(connections=1, rested=0.0) as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.settimeout(10)
        body = b"x" * 20_000  # an answer of which three stay below what makes a connection wait
        request = b"POST /one HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        unsent = 0
        while not unsent:
            done = len(server.finished)
            deaf.sendall(request)
            assert until(lambda done=done: len(server.finished) > done)
            (connection,) = server.server._state.connections
            unsent = connection._transport.get_write_buffer_size()
        assert until(lambda: connection.idle_since() < math.inf)
        with connected(server) as newcomer:
            newcomer.sendall(b"GET /two HTTP/1.1\r\n\r\n")
            assert answer(newcomer)[0] == 200
            assert until(lambda: connection._transport.get_extra_info("socket").fileno() == -1)


def test_a_drain_finishes_what_runs_and_closes_what_is_idle():
    with serving() as server, connected(server) as idle, connected(server) as busy:
        idle.sendall(b"GET /a HTTP/1.1\r\n\r\n")
        assert answer(idle)[1]["connection"] == "keep-alive"
        busy.sendall(b"GET /slow1 HTTP/1.1\r\n\r\nGET /slow2 HTTP/1.1\r\n\r\n")
        assert until(lambda: server.started[1:])
        server.thread.run(server.server.drain())
        assert idle.at_end()
        with connected(server) as late:
            late.sendall(b"GET /late HTTP/1.1\r\n\r\n")
            status, headers, body = answer(late)
            assert (status, headers["connection"], body) == (200, "close", b"/late:")
        server.release()
        assert [answer(busy)[2], answer(busy)[2]] == [b"/slow1:", b"/slow2:"]
        assert busy.at_end()


def test_a_stop_cuts_what_outlasts_its_grace():
    with serving() as server, connected(server) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert until(lambda: server.started)
        server.thread.run(server.server.stop(0.05))
        assert until(lambda: server.cancelled == ["/slow"])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_a_port_in_use_is_named_with_the_option_that_changes_it(echo):
    with pytest.raises(InvalidInput, match=f"127.0.0.1:{echo.port}.*EADDRINUSE.*--http-port"):
        asyncio.run(HttpServer(echo.handle, "127.0.0.1", echo.port).start())
