"""What goes over the wire, request by request, when an HTTP server does what a script says."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nlpdeploy.bundle import errors
from nlpdeploy.client import Retry
from support.clients import client_of
from support.fronts import until
from support.scripted import ANSWER, HALF, answer, close, reset, say, scripted_http, silence, then_close, when

OVERLOADED = {"error_kind": "Overloaded", "retry_after": "1", "retry_after_ms": "20"}
FAST = Retry(tries=4, first=0.001, longest=0.001)


@pytest.fixture(params=["http", "http-aio"])
def kind(request):
    return request.param


def ask(client, **options):
    return client.infer({"text": ["hello"]}, ["label"], **options).outputs["label"].tolist()


def asked(kind, *script, calls=1, error=None, **options):
    """The server, after so many calls, of which the last is to fail so."""
    with scripted_http(*script) as server, client_of(kind, server.port, "m", **{"retry": FAST} | options) as client:
        for number in range(calls):
            if error is not None and number == calls - 1:
                with pytest.raises(error) as raised:
                    ask(client)
                assert type(raised.value) is error
                assert "\n" not in str(raised.value)
            else:
                assert ask(client) == [b"yes"]
    return server


def test_one_connection_carries_all_requests(kind):
    assert asked(kind, answer(), calls=3).connections == [0, 0, 0]


def test_an_idle_connection_that_the_server_has_closed_costs_no_request(kind):
    with scripted_http(then_close(answer()), answer()) as server, client_of(kind, server.port, "m") as client:
        assert ask(client) == [b"yes"]
        while not closed_by_server(client):
            pass
        assert ask(client) == [b"yes"]
    assert server.connections == [0, 1]


def test_a_client_that_is_closed_while_an_answer_comes_keeps_no_connection():
    class Pool(list):
        """Of a thread that is overtaken by another one just before it gives its connection back."""

        def append(self, connection):
            client.close()
            super().append(connection)

    with scripted_http(answer()) as server, client_of("http", server.port, "m") as client:
        client._transport._idle = idle = Pool()
        assert ask(client) == [b"yes"]
        assert idle == []


def closed_by_server(client):
    """Whether the end of the idle connection has arrived."""
    client = getattr(client, "client", client)
    (connection,) = client._transport._idle
    if not isinstance(connection, socket.socket):
        return not connection.usable
    connection.settimeout(1)
    return connection.recv(1, socket.MSG_PEEK) == b""


@pytest.mark.parametrize("end", [close, reset])
def test_a_stale_connection_that_ends_before_a_byte_of_the_answer_is_replaced_once(kind, end):
    assert asked(kind, answer(), end, answer(), calls=2).connections == [0, 0, 1]
    assert asked(kind, answer(), end, end, answer(), calls=2, error=errors.Unavailable).connections == [0, 0, 1]


def test_a_new_connection_that_ends_before_a_byte_of_the_answer_is_replaced_once(kind):
    assert asked(kind, close, answer()).connections == [0, 1]
    assert asked(kind, close, error=errors.Unavailable).connections == [0, 1]


def test_half_an_answer_is_not_asked_for_again(kind):
    assert len(asked(kind, HALF, error=errors.Unavailable).received) == 1


@pytest.mark.parametrize("nonsense", [b"SSH-2.0-OpenSSH_9\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"])
def test_an_answer_of_another_protocol_is_not_asked_for_again(kind, nonsense):
    assert len(asked(kind, say(nonsense), error=errors.EngineFailed).received) == 1


def test_a_refusal_is_tried_again_until_there_is_an_answer_or_no_try_is_left(kind):
    overloaded, draining = answer(429, b"{}", **OVERLOADED), answer(503, b"{}", error_kind="Unavailable")
    assert len(asked(kind, overloaded, draining, overloaded, answer()).received) == 4
    assert len(asked(kind, overloaded, error=errors.Overloaded).received) == 4
    assert len(asked(kind, draining, error=errors.Unavailable).received) == 4
    assert len(asked(kind, overloaded, error=errors.Overloaded, retry=Retry(tries=1)).received) == 1


def test_a_hint_past_the_deadline_is_not_waited_for(kind):
    late = answer(429, b'{"error": "full; retry after 60.000 s"}', error_kind="Overloaded", retry_after="60")
    with (
        scripted_http(late) as server,
        client_of(kind, server.port, "m", retry=FAST) as client,
        pytest.raises(errors.Overloaded) as raised,
    ):
        ask(client)
    assert raised.value.retry_after == 60
    assert raised.value.line() == "full; retry after 60.000 s"
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.InvalidInput),
        (404, errors.NotFound),
        (413, errors.TooLarge),
        (499, errors.Cancelled),
        (500, errors.EngineFailed),
        (501, errors.Unsupported),
        (502, errors.Unavailable),
        (504, errors.DeadlineExceeded),
    ],
)
def test_what_another_try_cannot_mend_is_not_tried_again(kind, status, error):
    assert len(asked(kind, answer(status, b"{}"), error=error).received) == 1


def test_a_server_that_stays_silent_is_left_at_the_deadline_and_not_asked_again(kind):
    assert len(asked(kind, silence, error=errors.DeadlineExceeded, timeout=0.2).received) == 1


def test_the_server_is_told_what_is_left_of_the_one_deadline(kind):
    server = asked(kind, answer(429, b"{}", **OVERLOADED), answer(), timeout=5.0)
    first, second = [float(request.headers["x-request-timeout-ms"]) for request in server.received]
    assert 0 < second <= first - 20
    assert first <= 5000


def test_nobody_there_is_unavailable_after_all_tries(kind, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with client_of(kind, port, "m", retry=FAST) as client:
        transport = getattr(client, "client", client)._transport
        tries, send = [], transport.send
        monkeypatch.setattr(transport, "send", lambda *given: tries.append(1) or send(*given))
        with pytest.raises(errors.Unavailable, match=f"http://127.0.0.1:{port}"):
            ask(client)
        assert len(tries) == 4
        assert client.ready() is False


def test_a_server_that_comes_up_between_two_tries_is_found(kind, monkeypatch):
    with scripted_http(answer(), late=True) as server, client_of(kind, server.port, "m", retry=FAST) as client:
        transport = getattr(client, "client", client)._transport
        tries, send = [], transport.send

        def count(*given):
            tries.append(1)
            if len(tries) == 3:
                server.open()
            return send(*given)

        monkeypatch.setattr(transport, "send", count)
        assert ask(client) == [b"yes"]
    assert (len(tries), len(server.received)) == (3, 1)


def test_priority_id_version_and_names_go_out_as_the_protocol_says(kind):
    with scripted_http(answer()) as server, client_of(kind, server.port, "a b/ü", version="7") as client:
        client.infer({"text": ["hello"]}, ["label"], priority=1, request_id="r-1")
    (request,) = server.received
    assert request.line == "POST /v2/models/a%20b%2F%C3%BC/versions/7/infer HTTP/1.1"
    header = json.loads(request.body[: int(request.headers["inference-header-content-length"])])
    assert header["parameters"] == {"priority": 1, "binary_data_output": True}
    assert header["id"] == "r-1"
    assert [output["name"] for output in header["outputs"]] == ["label"]


def test_no_more_connections_than_allowed_and_the_next_call_waits_its_turn(kind):
    gate = threading.Event()
    with (
        scripted_http(when(gate, answer()), answer()) as server,
        client_of(kind, server.port, "m", connections=1) as client,
        ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(ask, client)
        assert until(lambda: server.received)
        with pytest.raises(errors.DeadlineExceeded):
            ask(client, timeout=0.1)
        second = pool.submit(ask, client)
        gate.set()
        assert first.result(10) == second.result(10) == [b"yes"]
    assert server.connections == [0, 0]


def test_an_answer_in_chunks_is_read(kind):
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ANSWER), ANSWER)
    assert len(asked(kind, say(chunked)).received) == 1


def metadata_of(digest, labels):
    outputs = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in ("score", "scores")]
    properties = {"bundle_digest": digest, "labels": json.dumps(labels)}
    return answer(200, json.dumps({"name": "m", "inputs": [], "outputs": outputs, "properties": properties}).encode())


def scores_of(digest):
    score = {"name": "score", "datatype": "FP32", "shape": [1], "data": [0.75]}
    scores = {"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]}
    parameters = {"bundle_digest": digest}
    return answer(200, json.dumps({"model_name": "m", "parameters": parameters, "outputs": [score, scores]}).encode())


def test_scores_are_named_by_the_bundle_that_answered_also_while_two_serve_by_turns(kind):
    old, new = metadata_of("d1", ["a", "b"]), metadata_of("d2", ["no", "yes"])
    script = (old, scores_of("d2"), new, scores_of("d1"), scores_of("d2"))
    with scripted_http(*script) as server, client_of(kind, server.port, "m") as client:
        answers = [client.predict("hello", scores=True) for _ in range(3)]
    assert [list(found.scores) for found in answers] == [["no", "yes"], ["a", "b"], ["no", "yes"]]
    assert len(server.received) == 5


def test_labels_of_a_bundle_that_nobody_describes_are_not_guessed(kind):
    script = (metadata_of("d1", ["a", "b"]), scores_of("d2"), metadata_of("d1", ["a", "b"]))
    with (
        scripted_http(*script) as server,
        client_of(kind, server.port, "m") as client,
        pytest.raises(errors.EngineFailed, match="d2"),
    ):
        client.predict("hello", scores=True)
    assert len(server.received) == 3


def test_a_connection_waits_for_nothing_and_is_probed_while_idle(kind):
    with scripted_http(answer()) as server, client_of(kind, server.port, "m") as client:
        assert ask(client) == [b"yes"]
        (idle,) = getattr(client, "client", client)._transport._idle
        connection = idle if isinstance(idle, socket.socket) else idle._transport.get_extra_info("socket")
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
