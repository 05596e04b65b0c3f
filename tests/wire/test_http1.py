"""HTTP/1.1: requests as bytes, and answers parsed from bytes cut anywhere."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlpdeploy.wire.http1 import AnswerParser, MalformedAnswer, request_message

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Engine:  tiny \r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n" + (
    b"3;ext=1\r\nhel\r\n00002\r\nlo\r\n0\r\nTrailer: x\r\nY: z\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SIZED
TO_THE_END = b"HTTP/1.0 200 OK\r\n\r\nhello"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


def parse(message, cuts=(), *, end=False, largest=None):
    parser = AnswerParser(largest)
    edges = [0, *sorted(cuts), len(message)]
    for start, stop in pairwise(edges):
        if stop > start:
            parser.feed(message[start:stop])
    if end:
        parser.feed(b"")
    return parser


@pytest.mark.parametrize(
    ("message", "body", "reusable"),
    [(SIZED, b"hello", True), (CHUNKED, b"hello", True), (INTERIM, b"hello", True), (TO_THE_END, b"hello", False),
     (EMPTY, b"", True)],
    ids=["sized", "chunked", "interim", "to the end", "empty"],
)  # fmt: skip
@given(data=st.data())
def test_an_answer_is_the_same_wherever_it_is_cut(message, body, reusable, data):
    cuts = data.draw(st.lists(st.integers(1, len(message) - 1), max_size=8))
    parser = parse(message, cuts, end=message is TO_THE_END)
    assert parser.complete
    assert (parser.body, parser.reusable) == (body, reusable)
    if b"X-Engine" in message:
        assert parser.headers["x-engine"] == "tiny"


@pytest.mark.parametrize("message", [SIZED, CHUNKED, INTERIM], ids=["sized", "chunked", "interim"])
def test_an_end_before_the_end_is_an_error_wherever_it_comes(message):
    for length in range(len(message)):
        with pytest.raises(ConnectionError):
            parse(message[:length], end=True)


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.0 200 OK\r\n", False),
    ],
)
def test_the_server_says_whether_the_connection_stays(head, reusable):
    assert parse(head + b"Content-Length: 0\r\n\r\n").reusable is reusable


def test_a_connection_with_more_bytes_than_were_asked_for_is_not_used_again():
    parser = parse(SIZED + b"H")
    assert (parser.complete, parser.body, parser.reusable) == (True, b"hello", False)


@pytest.mark.parametrize(
    "message",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 70_000,
    ],
)
def test_bytes_that_are_no_answer_are_refused(message):
    with pytest.raises(MalformedAnswer):
        parse(message)


@pytest.mark.parametrize("message", [SIZED, CHUNKED, INTERIM, TO_THE_END], ids=["sized", "chunked", "interim", "end"])
def test_a_body_above_the_limit_is_refused_before_it_is_held(message):
    end = message is TO_THE_END
    assert parse(message, end=end, largest=5).body == b"hello"
    with pytest.raises(MalformedAnswer, match="more than 4 bytes"):
        parse(message, end=end, largest=4)


def test_an_announced_length_above_the_limit_is_refused_at_once():
    with pytest.raises(MalformedAnswer, match="more than 1000 bytes"):
        parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", largest=1000)
    with pytest.raises(MalformedAnswer, match="more than 1000 bytes"):
        parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n", largest=1000)


def test_a_request_gives_its_length():
    assert request_message("GET", "/ping", [("host", "h:1")], b"") == (
        b"GET /ping HTTP/1.1\r\nhost: h:1\r\ncontent-length: 0\r\n\r\n"
    )
