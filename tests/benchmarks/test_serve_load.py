"""The load client, in its own process, against a real server without a model."""

import json

import pytest

from benchmarks.messages import http_request, infer_body
from benchmarks.serve.loader import Loader, LoadFailed, Target, loading
from benchmarks.serve.requests import Ask, Form, ask, asks
from support.null_server import label_of, null_server

TEXTS = ["a", "bb", "ccc", "dd", "e", "ff", "g"]
LONG = 60.0
"""Seconds that no answer takes; where it is the limit, every answer is in time."""


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    with loading(tmp_path_factory.mktemp("load")) as made:
        yield made


@pytest.fixture(scope="module")
def server():
    with null_server() as running:
        yield running


def asked(transport: str, labels=None) -> list[Ask]:
    labels = labels or [label_of(text) for text in TEXTS]
    if transport == "grpc":
        return asks(Form.OIP_GRPC, "intent", TEXTS, labels)
    messages = [http_request("/v2/models/intent/infer", infer_body("intent", [text])) for text in TEXTS]
    return [Ask(message, (json.dumps(label).encode(),)) for message, label in zip(messages, labels, strict=True)]


def target(loader: Loader, server, transport: str, labels=None) -> Target:
    port = server.grpc_port if transport == "grpc" else server.http_port
    return Target(transport, port, loader.write(asked(transport, labels)))


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_once_asks_each_request_exactly_once_and_knows_right_answers(loader, server, transport):
    before = len(server.received())
    result = loader.once(target(loader, server, transport), clients=3)
    assert (result["answers"], result["right"], result["errors"]) == (len(TEXTS), len(TEXTS), 0)
    assert len(server.received()) - before == len(TEXTS)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_wrong_labels_are_counted(loader, server, transport):
    labels = ["even"] * len(TEXTS)
    result = loader.once(target(loader, server, transport, labels), clients=1)
    assert result["right"] == sum(label_of(text) == "even" for text in TEXTS)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_closed_loops_side_by_side_have_books_of_their_own(loader, server, transport):
    right, wrong = target(loader, server, transport), target(loader, server, transport, ["nothing"] * len(TEXTS))
    first, second = loader.closed([(right, 3), (wrong, 2)], seconds=0.3)
    for result in (first, second):
        assert result["errors"] == 0
        assert 0 < len(result["latencies"]) <= result["answers"]
    assert first["right"] == first["answers"]
    assert second["right"] == 0


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_an_open_loop_sends_all_that_is_planned_and_holds_a_limit_that_all_keep(loader, server, transport):
    before = len(server.received())
    result = loader.opened(target(loader, server, transport), rate=100.0, seconds=0.5, seed=1, limit=LONG)
    assert result["held"]
    assert result["misses"] == result["errors"] == 0
    assert result["sent"] == result["planned"] > 20
    assert len(server.received()) - before >= result["sent"]


def test_the_same_seed_plans_the_same_arrivals(loader, server):
    to = target(loader, server, "http")
    first, second = (loader.opened(to, rate=100.0, seconds=0.3, seed=2, limit=LONG)["planned"] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_an_open_loop_ends_early_once_the_limit_can_not_be_kept_any_more(loader, server, transport):
    result = loader.opened(target(loader, server, transport), rate=50.0, seconds=LONG, seed=1, limit=0.0)
    assert not result["held"]
    assert result["sent"] < result["planned"]


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_refusals_are_errors_that_end_no_client(loader, transport):
    with null_server("--error-share", "0.3", "--error-status", "429 Too Many Requests") as refusing:
        to = target(loader, refusing, transport)
        result = loader.once(to, clients=1)
        assert (result["errors"], result["answers"]) == (2, len(TEXTS) - 2)  # the fourth and the seventh
        assert result["error"]
        [result] = loader.closed([(to, 1)], seconds=0.5)
        assert result["errors"] >= 1  # the trial ends early
        assert result["answers"] > 0


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_refusal_misses_any_limit(loader, transport):
    with null_server("--error-share", "0.05", "--error-status", "429 Too Many Requests") as refusing:
        result = loader.opened(target(loader, refusing, transport), rate=200.0, seconds=0.5, seed=1, limit=LONG)
    assert not result["held"]
    assert result["errors"] >= 1  # the trial ends early


def test_a_server_that_is_gone_is_a_failure_and_the_loader_goes_on(loader, server):
    with null_server() as gone:
        pass
    with pytest.raises(LoadFailed):
        loader.closed([(target(loader, gone, "http"), 1)], seconds=0.1)
    assert loader.once(target(loader, server, "http"), clients=1)["errors"] == 0


def test_requests_of_several_texts_hold_all_labels_and_leave_no_part_over():
    made = asks(Form.PREDICT, "m", TEXTS, [label_of(text) for text in TEXTS], each=3)
    assert len(made) == 2
    head, _, body = made[0].message.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/m/predict HTTP/1.1\r\n")
    assert json.loads(body) == {"text": TEXTS[:3]}
    assert made[0].marks == (b'"odd"', b'"even"', b'"odd"')


@pytest.mark.parametrize("form", list(Form))
def test_every_form_carries_the_text(form):
    message = ask(form, "m", ["I lost my card"]).message
    assert b"I lost my card" in message
    assert form.transport in ("http", "grpc")
    assert message.startswith(b"POST /") == (form.transport == "http")
