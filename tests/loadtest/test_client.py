"""Both transports against real sockets, and the check of answers."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from nlpdeploy.bundle.errors import EngineFailed, InvalidInput, NotFound, Unavailable
from nlpdeploy.loadtest.answers import AnswerCheck, OutputForm, answer_form, read_expected
from nlpdeploy.loadtest.client import Client, open_client
from nlpdeploy.loadtest.preflight import first_answer
from nlpdeploy.loadtest.samples import Outcome
from nlpdeploy.wire.codec_json import encode_response
from nlpdeploy.wire.tensors import InferResponse, Tensor
from support.null_server import DIGEST, NullServer, label_of, null_server

TRANSPORTS = ("grpc", "http")
FORM = (OutputForm("label", "BYTES", (1,)), OutputForm("score", "FP32", (1,)))
HTTP = open_client("http://127.0.0.1:1", "intent")


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


@pytest.fixture(scope="module")
def server() -> Iterator[NullServer]:
    with null_server() as running:
        yield running


@contextmanager
def opened(url: str, model: str = "intent") -> Iterator[Client]:
    client = open_client(url, model)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "text", ["Where is my card?", "我的银行卡丢了", "👩‍🚒", "", 'quote " and \\ and \n', "x" * 100_000]
)
def test_a_text_arrives_whole_and_the_answer_is_read(server: NullServer, transport: str, text: str) -> None:
    with opened(server.url(transport)) as client:
        reply = client.send(client.encode(text), soon())
        assert (reply.outcome, reply.status) == (Outcome.OK, 200 if transport == "http" else 0)
        answer = client.read(reply.body)
    outputs = {tensor.name: tensor.data.tolist() for tensor in answer.outputs}
    assert outputs == {"label": [label_of(text).encode()], "score": [0.75]}
    assert answer.parameters == {"bundle_digest": DIGEST, "engine": "null-fp32"}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_metadata_name_the_inputs_and_an_unknown_model_is_not_found(server: NullServer, transport: str) -> None:
    with opened(server.url(transport)) as client:
        assert [spec.name for spec in client.metadata(5.0).inputs] == ["text"]
    with opened(server.url(transport), "nobody") as client, pytest.raises(NotFound, match="model nobody at"):
        client.metadata(5.0)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_where_nobody_listens_a_send_is_an_error_and_metadata_unavailable(transport: str) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        with opened(f"{transport}://127.0.0.1:{taken.getsockname()[1]}") as client:
            assert client.send(client.encode("hello"), soon()).outcome is Outcome.ERROR
            with pytest.raises(Unavailable):
                client.metadata(5.0)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_deadline_ends_a_send(transport: str) -> None:
    with null_server("--delay-ms", "2000") as slow, opened(slow.url(transport)) as client:
        before = time.monotonic()
        assert client.send(client.encode("hello"), soon(0.2)).outcome is Outcome.TIMEOUT
        assert time.monotonic() - before < 1.5
        assert client.send(client.encode("hello"), soon(-1.0)).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "https://h:1", "grpc://h", "grpc://h:99999", "http://h:80/v2", ""])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"grpc://HOST:PORT or http://HOST:PORT"):
        open_client(url, "intent")


BODY = b'{"ok":1}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + BODY


@contextmanager
def connections_answering(*answers: bytes) -> Iterator[tuple[str, Callable[[], int]]]:
    """A server that gives each connection the next answer for its first request and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served: list[bytes] = []

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    served.append(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lambda: len(served)
        thread.join()


def test_a_connection_that_the_server_closed_while_idle_is_not_used_again() -> None:
    with connections_answering(WHOLE, WHOLE) as (url, served), opened(url) as client:
        for _ in range(2):
            reply = client.send(client.encode("hello"), soon())
            assert (reply.outcome, reply.body) == (Outcome.OK, BODY)
            time.sleep(0.1)  # the end of the connection is on its way
        assert served() == 2


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"ok\r\n4\r\n":1}\r\n0\r\n\r\n', Outcome.OK),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\n" + BODY, Outcome.OK),
        (WHOLE[:-3], Outcome.ERROR),
        (b"", Outcome.ERROR),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Outcome.ERROR),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\n" + BODY, Outcome.ERROR),
        (b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 8\r\n\r\n" + BODY, Outcome.TIMEOUT),
    ],
)
def test_every_way_to_answer_ends_in_one_reply(answer: bytes, outcome: Outcome) -> None:
    with connections_answering(answer) as (url, _), opened(url) as client:
        reply = client.send(client.encode("hello"), soon())
    assert reply.outcome is outcome
    assert reply.body == (BODY if outcome is Outcome.OK else b"")
    assert reply.detail or outcome is Outcome.OK


def test_a_server_that_always_fails_is_told_apart_from_one_that_fails_now_and_then() -> None:
    with null_server("--error-share", "0.5") as half, opened(half.url("http")) as client:
        client.send(client.encode("hello"), soon())
        response, form = first_answer(client, client.encode("hello"))
        assert form == FORM
        assert response.model == "intent"
    with (
        null_server("--error-share", "1") as broken,
        opened(broken.url("http")) as client,
        pytest.raises(EngineFailed, match="queue full"),
    ):
        first_answer(client, client.encode("hello"))


def answer(*tensors: tuple[str, str, list[object]], **parameters: str) -> InferResponse:
    kinds = {"BYTES": object, "FP32": np.float32}
    outputs = tuple(Tensor(name, dtype, np.array(data, dtype=kinds[dtype])) for name, dtype, data in tensors)
    return InferResponse("intent", "1", "", outputs, parameters)


def problem(response: InferResponse, expected: tuple[str | None, ...] = (), row: int = 0) -> str:
    return AnswerCheck(FORM, expected).problem(HTTP, encode_response(response).content, row)


LABEL, SCORE = ("label", "BYTES", [b"card"]), ("score", "FP32", [0.5])


def test_a_right_answer_has_no_problem() -> None:
    assert problem(answer(LABEL, SCORE)) == ""
    assert problem(answer(SCORE, LABEL), ("other", "card"), row=1) == ""
    assert problem(answer(LABEL, SCORE), (None,)) == ""


@pytest.mark.parametrize(
    ("response", "what"),
    [
        (answer(LABEL), "output score is missing"),
        (answer(("label", "BYTES", []), ("score", "FP32", [])), r"label is BYTES \[0\], not BYTES \[1\]"),
        (answer(("label", "BYTES", [b"a", b"b"]), SCORE), r"\[2\]"),
        (answer(LABEL, ("score", "BYTES", [b"x"])), "score is BYTES"),
        (answer(("label", "BYTES", [b""]), SCORE), "label is empty"),
    ],
)
def test_an_answer_of_another_form_has_a_problem(response: InferResponse, what: str) -> None:
    import re

    assert re.search(what, problem(response))


def test_a_score_may_be_any_number_since_a_model_may_have_no_output_function() -> None:
    assert problem(answer(LABEL, ("score", "FP32", [7.5]))) == ""


def test_a_wrong_label_has_a_problem_where_the_right_one_is_known() -> None:
    assert problem(answer(LABEL, SCORE), ("lost",)) == "label 'card', expected 'lost'"


@pytest.mark.parametrize(
    "body", [b'{"error": "queue full"}', b"", b"not json", b"[1]", b'{"model_name": "m", "outputs": 3}']
)
def test_a_body_that_is_no_answer_has_a_problem(body: bytes) -> None:
    assert AnswerCheck(FORM).problem(HTTP, body, 0)


def test_a_score_that_is_not_a_number_has_a_problem(server: NullServer) -> None:
    from nlpdeploy.wire import codec_proto

    with opened(server.url("grpc")) as client:
        body = codec_proto.encode_response(answer(LABEL, ("score", "FP32", [float("nan")]))).SerializeToString()
        assert AnswerCheck(FORM).problem(client, body, 0) == "output score is not finite"


def test_who_answered_is_counted() -> None:
    check = AnswerCheck(FORM)
    for digest in ("a", "a", "b"):
        check.problem(HTTP, encode_response(answer(LABEL, SCORE, bundle_digest=digest, engine="e")).content, 0)
    assert (check.digests, check.engines) == ({"a": 2, "b": 1}, {"e": 3})


def test_a_first_answer_without_its_row_gives_no_form() -> None:
    with pytest.raises(InvalidInput, match="1 row"):
        answer_form(answer(("label", "BYTES", [])))
    with pytest.raises(InvalidInput, match="no outputs"):
        answer_form(answer())


def test_expected_labels_are_read_in_each_form(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text(json.dumps(["a", None, {"label": "正面", "score": 0.9}]), encoding="utf-8")
    assert read_expected(path, 3) == ("a", None, "正面")
    with pytest.raises(InvalidInput, match="a list of 4"):
        read_expected(path, 4)
    path.write_text("[1, 2, 3]")
    with pytest.raises(InvalidInput, match="no label"):
        read_expected(path, 3)
    with pytest.raises(NotFound):
        read_expected(tmp_path / "none.json", 3)
