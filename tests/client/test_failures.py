"""Every error kind comes back from both transports as itself."""

import grpc
import pytest

from nlpdeploy.bundle import errors
from nlpdeploy.client.failures import grpc_failure, http_failure
from nlpdeploy.client.retry import Fate
from nlpdeploy.wire.json_text import dump_json
from nlpdeploy.wire.status import STATUS, failure_of

AGAIN = {errors.Overloaded, errors.Unavailable}


def example(kind):
    if kind is errors.Overloaded:
        return kind("queue of intent", found=64, wanted="at most 64", retry_after=0.25)
    if kind is errors.CorruptBundle:
        return kind("bundle m/1", changed=("model.onnx",))
    return kind("thing", found=1, wanted=2, mend="mend it")


def over_http(failure):
    return http_failure(
        "http://h:1", failure.status.http, dict(failure.headers()), dump_json({"error": failure.detail})
    )


def over_grpc(failure):
    return grpc_failure("grpc://h:1", int(failure.status.grpc), failure.detail, dict(failure.headers()))


@pytest.mark.parametrize("over", [over_http, over_grpc])
@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_a_kind_arrives_as_itself_with_its_line(kind, over):
    sent = example(kind)
    failed = over(failure_of(sent))
    assert type(failed.error) is kind
    assert failed.error.line() == sent.line()
    assert failed.fate is (Fate.NOT_BEGUN if kind in AGAIN else Fate.FINAL)
    assert failed.hint == (0.25 if kind is errors.Overloaded else 0.0)


@pytest.mark.parametrize("over", [over_http, over_grpc])
def test_a_server_s_own_bug_is_its_failure(over):
    failed = over(failure_of(KeyError("x")))
    assert type(failed.error) is errors.EngineFailed
    assert failed.fate is Fate.FINAL


@pytest.mark.parametrize(
    ("status", "kind", "fate"),
    [
        (400, errors.InvalidInput, Fate.FINAL),
        (403, errors.InvalidInput, Fate.FINAL),
        (404, errors.NotFound, Fate.FINAL),
        (413, errors.TooLarge, Fate.FINAL),
        (429, errors.Overloaded, Fate.NOT_BEGUN),
        (500, errors.EngineFailed, Fate.FINAL),
        (502, errors.Unavailable, Fate.FINAL),
        (503, errors.Unavailable, Fate.NOT_BEGUN),
        (504, errors.DeadlineExceeded, Fate.FINAL),
        (302, errors.InvalidInput, Fate.FINAL),
    ],
)
def test_a_status_without_a_kind_stands_for_one(status, kind, fate):
    failed = http_failure("http://h:1", status, {}, b"<html>\nproxy</html>")
    assert (type(failed.error), failed.fate) == (kind, fate)
    assert "<html> proxy</html>" in failed.error.line()


@pytest.mark.parametrize(
    ("code", "detail", "kind", "fate"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", errors.Overloaded, Fate.NOT_BEGUN),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", errors.TooLarge, Fate.FINAL),
        (
            grpc.StatusCode.UNAVAILABLE,
            "failed to connect to all addresses; x",
            errors.Unavailable,
            Fate.NOT_BEGUN,
        ),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", errors.Unavailable, Fate.LOST),
        (grpc.StatusCode.INTERNAL, "x", errors.EngineFailed, Fate.FINAL),
        (grpc.StatusCode.UNKNOWN, "x", errors.EngineFailed, Fate.FINAL),
        (grpc.StatusCode.PERMISSION_DENIED, "x", errors.InvalidInput, Fate.FINAL),
        (grpc.StatusCode.UNIMPLEMENTED, "x", errors.Unsupported, Fate.FINAL),
    ],
)
def test_a_code_without_a_kind_stands_for_one(code, detail, kind, fate):
    failed = grpc_failure("grpc://h:1", code.value[0], detail, {})
    assert (type(failed.error), failed.fate) == (kind, fate)
    assert detail in failed.error.line()


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "2", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after-ms": "nan", "retry-after": "3"}, 3.0),
        ({}, 0.0),
    ],
)
def test_the_hint_is_read_in_each_form(headers, hint):
    failed = http_failure("http://h:1", 429, headers, b"")
    assert failed.hint == hint
    assert failed.error.retry_after == hint
