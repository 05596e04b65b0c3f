"""A call over HTTP as bytes."""

from nlpdeploy.client.http1 import request_bytes
from nlpdeploy.client.questions import Question


def test_a_request_says_how_long_its_caller_waits():
    question = Question("http://h:1", "POST", "/v2/models/m/infer", b"{}", lambda reply: None, (("x-a", "b"),))
    assert request_bytes(question, "h:1", 0.25) == (
        b"POST /v2/models/m/infer HTTP/1.1\r\nhost: h:1\r\nuser-agent: nlpdeploy\r\nx-request-timeout-ms: 250.000\r\n"
        b"x-a: b\r\ncontent-length: 2\r\n\r\n{}"
    )
