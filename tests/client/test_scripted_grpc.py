"""What goes over the wire, call by call, when a gRPC server does what a script says."""

import socket

import grpc
import pytest

from nlpdeploy.bundle import errors
from nlpdeploy.client import Retry
from nlpdeploy.wire import codec_proto
from support.clients import client_of
from support.scripted import OK, scripted_grpc

CODE = grpc.StatusCode
OVERLOADED = (CODE.RESOURCE_EXHAUSTED, "queue full", {"error-kind": "Overloaded", "retry-after-ms": "20"})
DRAINING = (CODE.UNAVAILABLE, "draining", {"error-kind": "Unavailable"})
LOST = (CODE.UNAVAILABLE, "Socket closed", {})
FAST = Retry(tries=4, first=0.001, longest=0.001)


@pytest.fixture(params=["grpc", "grpc-aio"])
def kind(request):
    return request.param


def ask(client, **options):
    return client.infer({"text": ["hello"]}, ["label"], **options).outputs["label"].tolist()


def asked(kind, *script, error=None, **options):
    """The server after one call, which is to fail so."""
    with scripted_grpc(*script) as server, client_of(kind, server.port, "m", **{"retry": FAST} | options) as client:
        if error is None:
            assert ask(client) == [b"yes"]
        else:
            with pytest.raises(error) as raised:
                ask(client)
            assert type(raised.value) is error
            assert "\n" not in str(raised.value)
    return server


def test_a_refusal_is_tried_again_until_there_is_an_answer_or_no_try_is_left(kind):
    assert len(asked(kind, OVERLOADED, DRAINING, OVERLOADED, OK).received) == 4
    assert len(asked(kind, OVERLOADED, error=errors.Overloaded).received) == 4
    assert len(asked(kind, DRAINING, error=errors.Unavailable).received) == 4
    assert len(asked(kind, OVERLOADED, error=errors.Overloaded, retry=Retry(tries=1)).received) == 1


def test_a_lost_connection_is_replaced_once(kind):
    assert len(asked(kind, LOST, OK).received) == 2
    assert len(asked(kind, LOST, error=errors.Unavailable).received) == 2


@pytest.mark.parametrize(
    ("code", "kind_named", "error"),
    [
        (CODE.INVALID_ARGUMENT, "InvalidInput", errors.InvalidInput),
        (CODE.NOT_FOUND, "NotFound", errors.NotFound),
        (CODE.RESOURCE_EXHAUSTED, "TooLarge", errors.TooLarge),
        (CODE.INTERNAL, "EngineFailed", errors.EngineFailed),
        (CODE.UNIMPLEMENTED, "Unsupported", errors.Unsupported),
        (CODE.DEADLINE_EXCEEDED, "DeadlineExceeded", errors.DeadlineExceeded),
        (CODE.CANCELLED, "Cancelled", errors.Cancelled),
        (CODE.UNKNOWN, "", errors.EngineFailed),
    ],
)
def test_what_another_try_cannot_mend_is_not_tried_again(kind, code, kind_named, error):
    trailers = {"error-kind": kind_named} if kind_named else {}
    assert len(asked(kind, (code, "no", trailers), error=error).received) == 1


def test_a_hint_past_the_deadline_is_not_waited_for(kind):
    late = (CODE.RESOURCE_EXHAUSTED, "full", {"error-kind": "Overloaded", "retry-after": "60"})
    assert len(asked(kind, late, error=errors.Overloaded).received) == 1


def test_the_server_is_told_what_is_left_of_the_one_deadline(kind):
    late = (CODE.RESOURCE_EXHAUSTED, "full", {"error-kind": "Overloaded", "retry-after-ms": "300"})
    first, second = asked(kind, late, OK, timeout=5.0).remaining
    assert 0 < second < first - 0.2  # gRPC rounds
    assert first < 5.1


def test_nobody_there_is_unavailable_after_all_tries(kind, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with client_of(kind, port, "m", retry=FAST) as client:
        transport = getattr(client, "client", client)._transport
        tries, send = [], transport.send
        monkeypatch.setattr(transport, "send", lambda *given: tries.append(1) or send(*given))
        with pytest.raises(errors.Unavailable, match=f"grpc://127.0.0.1:{port}"):
            ask(client)
        assert len(tries) == 4
        assert client.ready() is False


def test_priority_id_version_and_names_go_out_as_the_protocol_says(kind):
    with scripted_grpc(OK) as server, client_of(kind, server.port, "m", version="7") as client:
        client.infer({"text": ["hello"]}, ["label"], priority=1, request_id="r-1")
    request = codec_proto.decode_request(server.received[0])
    assert (request.model, request.version, request.id, request.outputs) == ("m", "7", "r-1", ("label",))
    assert request.parameters == {"priority": 1}
