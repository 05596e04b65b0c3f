"""Error kind -> status on both transports."""

import grpc
import pytest

from nlpdeploy.bundle import errors
from nlpdeploy.wire.status import STATUS, GrpcCode, failure_of


def kinds():
    return {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}


def test_every_error_kind_has_a_status():
    assert set(STATUS) == kinds() - {errors.NlpdeployError}


def test_codes_are_grpc_s_own():
    assert {code.name: code.value for code in GrpcCode}.items() <= {
        code.name: code.value[0] for code in grpc.StatusCode
    }.items()


@pytest.mark.parametrize(
    ("error", "code", "http"),
    [
        (errors.InvalidInput("x"), "INVALID_ARGUMENT", 400),
        (errors.NotFound("x"), "NOT_FOUND", 404),
        (errors.Cancelled("x"), "CANCELLED", 499),
        (errors.TooLarge("x"), "RESOURCE_EXHAUSTED", 413),
        (errors.DeadlineExceeded("x"), "DEADLINE_EXCEEDED", 504),
        (errors.Unavailable("x"), "UNAVAILABLE", 503),
        (errors.EngineFailed("x"), "INTERNAL", 500),
        (errors.CorruptBundle("x"), "INTERNAL", 500),
        (errors.Unsupported("x"), "UNIMPLEMENTED", 501),
    ],
)
def test_a_kind_goes_to_its_status(error, code, http):
    status = failure_of(error).status
    assert (status.grpc.name, status.http) == (code, http)


def test_overload_is_not_unavailable_and_says_when_to_come_back():
    failure = failure_of(errors.Overloaded("queue", retry_after=1.2))
    assert (failure.status.grpc, failure.status.http) == (GrpcCode.RESOURCE_EXHAUSTED, 429)
    assert dict(failure.headers()) == {"error-kind": "Overloaded", "retry-after": "2", "retry-after-ms": "1200"}


def test_a_kind_derived_elsewhere_takes_its_parent_s_status():
    class Special(errors.NotFound):
        pass

    assert failure_of(Special("x")).status.http == 404


def test_an_unknown_error_is_internal_and_its_text_stays_inside():
    failure = failure_of(KeyError("secret"))
    assert (failure.status.grpc, failure.status.http) == (GrpcCode.INTERNAL, 500)
    assert "secret" not in failure.detail


def test_a_detail_is_one_short_line_of_whole_characters():
    detail = failure_of(errors.NotFound("model \n" + "界" * 100_000 + "\ud800")).detail
    assert "\n" not in detail
    assert len(detail) <= 400
    assert detail.encode()
