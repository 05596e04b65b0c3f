"""The four clients against a real server."""

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nlpdeploy.bundle import errors
from nlpdeploy.bundle.specs import Task
from nlpdeploy.client import AsyncClient, Client, Retry
from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.served_model import Capacity
from support.clients import KINDS, client_of
from support.engines import KEYWORDS, LABELS, TinyEngine, tiny_model, token
from support.fronts import serving_fronts, until


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    with serving_fronts(tmp_path_factory.mktemp("fronts")) as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def port_of(fronts, kind):
    return fronts.grpc_port if kind.startswith("grpc") else fronts.http_port


@pytest.fixture
def client(kind, fronts):
    with client_of(kind, port_of(fronts, kind)) as made:
        yield made


@pytest.fixture
def blocked(tmp_path):
    """A server whose engine answers nothing before its gate is set, with room for one request in its queue."""
    engine = TinyEngine(gate=threading.Event())
    with serving_fronts(tmp_path, engine, capacity=Capacity(limits=Limits(rows=1))) as running:
        yield running


def test_one_text_is_one_prediction_and_a_list_is_a_list_in_order(client):
    one = client.predict("hello")
    assert (one.label, one.truncated, one.scores) == ("hello", False, {})
    assert (one.model, one.version, one.engine) == ("tiny", "1", "tiny")
    assert one.digest == client.metadata().properties["bundle_digest"]
    assert [answer.label for answer in client.predict(list(KEYWORDS))] == list(LABELS)
    assert client.predict(("hello",)) == [one]


def test_no_texts_are_no_predictions_and_nobody_is_asked(kind):
    with client_of(kind, 1) as client:
        assert client.predict([]) == []


def test_scores_come_by_label_and_agree_with_the_logits(client):
    (answer,) = client.predict(["hello world"], scores=True)
    logits = client.infer({"text": ["hello world"]}, ["logits"]).outputs["logits"][0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert list(answer.scores) == list(LABELS)
    assert list(answer.scores.values()) == pytest.approx(expected, rel=1e-5)
    assert answer.score == answer.scores[answer.label]


def test_each_text_says_whether_it_was_cut(client):
    assert [answer.truncated for answer in client.predict(["hello", "hello " * 50, "world"])] == [False, True, False]


def test_pairs_are_asked_as_pairs(kind, tmp_path):
    with (
        serving_fronts(tmp_path, model=tiny_model(pair=True)) as fronts,
        client_of(kind, port_of(fronts, kind)) as client,
    ):
        assert client.predict("hello", "hello").label == "hello"
        assert [answer.label for answer in client.predict(["world", "note"], ["world", "note"])] == ["world", "note"]
        with pytest.raises(errors.InvalidInput, match="text_pair"):
            client.predict("hello")


def test_a_regression_has_a_score_and_no_label(kind, tmp_path):
    model = tiny_model(task=Task.REGRESSION)
    with serving_fronts(tmp_path, model=model) as fronts, client_of(kind, port_of(fronts, kind)) as client:
        answer = client.predict("hello")
        assert (answer.label, type(answer.score)) == (None, float)
        with pytest.raises(errors.Unsupported, match="scores"):
            client.predict("hello", scores=True)


def test_tensors_go_and_come_by_name_with_the_request_s_id(client):
    answer = client.infer({"text": ["hello", b"world"]}, ["label", "tokens", "truncated"], request_id="r7")
    assert list(answer.outputs) == ["label", "tokens", "truncated"]
    assert answer.outputs["label"].tolist() == [b"hello", b"world"]
    assert (answer.outputs["tokens"].dtype, answer.outputs["truncated"].dtype) == (np.int32, np.bool_)
    assert (answer.id, answer.model, answer.parameters["engine"]) == ("r7", "tiny", "tiny")
    by_tokens = client.infer({"input_ids": [[2, 5, 3]], "attention_mask": np.ones((1, 3), np.int64)})
    assert by_tokens.outputs["logits"].shape == (1, len(LABELS))


def test_ready_and_metadata(client, kind, fronts):
    assert client.ready() is True
    metadata = client.metadata()
    assert [spec.name for spec in metadata.inputs] == ["text"]
    assert metadata.properties["task"] == "classification"
    with client_of(kind, port_of(fronts, kind), "nobody") as other, pytest.raises(errors.NotFound, match="nobody"):
        other.ready()


def test_a_server_that_is_still_loading_is_not_ready(kind, tmp_path):
    with serving_fronts(tmp_path, opened=False) as fronts, client_of(kind, port_of(fronts, kind)) as client:
        assert client.ready() is False
        with pytest.raises(errors.Unavailable):
            client.infer({"text": ["hello"]})


def test_what_the_caller_can_mend_is_told_in_one_line(client, kind, fronts):
    with client_of(kind, port_of(fronts, kind), "nobody") as other, pytest.raises(errors.NotFound, match="nobody"):
        other.predict("hello")
    with pytest.raises(errors.InvalidInput, match="probability"):
        client.infer({"text": ["hello"]}, ["probability"])
    with pytest.raises(errors.TooLarge):
        client.predict(["hello"] * 5000)


def test_a_body_above_the_server_s_limit_is_too_large_though_it_is_still_being_sent(kind, tmp_path):
    with (
        serving_fronts(tmp_path, max_message_bytes=10_000) as fronts,
        client_of(kind, port_of(fronts, kind)) as client,
        pytest.raises(errors.TooLarge),
    ):
        client.infer({"text": ["hello " * 4_000_000]})


@pytest.mark.parametrize("timeout", [0, -1, 1e6, float("inf"), float("nan"), "1"])
def test_no_call_waits_for_ever(client, kind, timeout):
    with pytest.raises(errors.InvalidInput, match="timeout"):
        client.predict("hello", timeout=timeout)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"connections": 0}])
@pytest.mark.parametrize("made", [Client, AsyncClient])
def test_a_client_checks_its_options(made, options):
    with pytest.raises(errors.InvalidInput, match=next(iter(options))):
        made("http://127.0.0.1:1", "tiny", **options)


def test_a_closed_client_says_so(kind, fronts):
    with client_of(kind, port_of(fronts, kind)) as client:
        client.predict("hello")
        client.close()
        with pytest.raises(errors.InvalidInput, match="closed"):
            client.predict("hello")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_many_threads_get_each_their_own_answers(scheme, fronts):
    with client_of(scheme, port_of(fronts, scheme)) as client, ThreadPoolExecutor(8) as pool:
        asked = [KEYWORDS[number % len(KEYWORDS)] for number in range(200)]
        answers = list(pool.map(client.predict, asked))
    assert [answer.label for answer in answers] == [LABELS[KEYWORDS.index(word)] for word in asked]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_many_tasks_get_each_their_own_answers(scheme, fronts):
    async def main():
        async with AsyncClient(f"{scheme}://127.0.0.1:{port_of(fronts, scheme)}", "tiny", timeout=10) as client:
            return await asyncio.gather(*(client.predict(word) for word in asked))

    asked = [KEYWORDS[number % len(KEYWORDS)] for number in range(200)]
    assert [answer.label for answer in asyncio.run(main())] == [LABELS[KEYWORDS.index(word)] for word in asked]


# -- a server at its limit ---------------------------------------------------------------------------------------------


def occupy(client, fronts, pool):
    """A request that the engine is at work on."""
    first = pool.submit(client.predict, "hello")
    assert until(lambda: fronts.engine.batches)
    return first


def test_work_whose_deadline_passes_in_the_queue_never_runs(kind, blocked):
    with client_of(kind, port_of(blocked, kind)) as client, ThreadPoolExecutor() as pool:
        client.metadata()
        first = occupy(client, blocked, pool)
        with pytest.raises(errors.DeadlineExceeded):
            client.predict("world", timeout=0.2)
        blocked.engine.gate.set()
        assert first.result(10).label == "hello"
    assert blocked.engine.rows_run() == 1


def test_a_full_queue_is_tried_again_until_it_has_room(kind, blocked):
    retry = Retry(tries=1000, first=0.01, longest=0.01)
    with client_of(kind, port_of(blocked, kind), retry=retry) as client, ThreadPoolExecutor() as pool:
        client.metadata()
        first = occupy(client, blocked, pool)
        second = pool.submit(client.predict, "world")
        assert until(lambda: in_queue(blocked) == 1)
        third = pool.submit(client.predict, "note")
        assert until(lambda: refused(blocked) >= 1)
        blocked.engine.gate.set()
        assert [answer.result(10).label for answer in (first, second, third)] == ["hello", "world", "note"]
    assert blocked.engine.rows_run() == 3


def test_a_full_queue_is_told_with_its_hint_once_the_tries_are_used_up(kind, blocked):
    with client_of(kind, port_of(blocked, kind), retry=Retry(tries=2)) as client, ThreadPoolExecutor() as pool:
        client.metadata()
        occupy(client, blocked, pool)
        pool.submit(client.predict, "world")
        assert until(lambda: in_queue(blocked) == 1)
        with pytest.raises(errors.Overloaded) as raised:
            client.predict("note")
        assert raised.value.retry_after > 0
        assert refused(blocked) == 2
        blocked.engine.gate.set()


def test_who_asks_with_priority_goes_first(kind, tmp_path):
    engine = TinyEngine(gate=threading.Event())
    with (
        serving_fronts(tmp_path, engine) as fronts,
        client_of(kind, port_of(fronts, kind)) as client,
        ThreadPoolExecutor() as pool,
    ):
        client.metadata()
        asked = [occupy(client, fronts, pool)]
        # Texts so unlike in length that no batch holds two of them.
        for number, (text, priority) in enumerate([("world " * 2, 2), ("note " * 12, 1)], start=1):
            asked.append(pool.submit(client.predict, text, priority=priority))
            assert until(lambda number=number: in_queue(fronts) == number)
        engine.gate.set()
        assert [answer.result(10).label for answer in asked] == ["hello", "world", "note"]
    rows = [row for batch in engine.batches for row in batch]
    assert [token("note") in row for row in rows] == [False, True, False]


def in_queue(fronts):
    return fronts.metric("nlpdeploy_queue_rows")


def refused(fronts):
    return fronts.metric("nlpdeploy_refusals_total", reason="queue_rows")


# -- a caller that leaves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_cancelled_task_withdraws_its_work(scheme, blocked):
    async def main():
        async with AsyncClient(f"{scheme}://127.0.0.1:{port_of(blocked, scheme)}", "tiny", timeout=30) as client:
            await client.metadata()
            first = asyncio.create_task(client.predict("hello"))
            await asyncio.to_thread(until, lambda: blocked.engine.batches)
            second = asyncio.create_task(client.predict("world"))
            await asyncio.to_thread(until, lambda: in_queue(blocked) == 1)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert await asyncio.to_thread(until, lambda: in_queue(blocked) == 0)
            blocked.engine.gate.set()
            assert (await first).label == "hello"
            assert (await client.predict("note")).label == "note"

    asyncio.run(main())
    assert blocked.engine.rows_run() == 2


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_ctrl_c_withdraws_the_call_s_work(scheme, blocked):
    with Client(f"{scheme}://127.0.0.1:{port_of(blocked, scheme)}", "tiny", timeout=30) as client:
        client.metadata()
        with ThreadPoolExecutor() as pool:
            first = occupy(client, blocked, pool)

            def interrupt():
                assert until(lambda: in_queue(blocked) == 1)
                os.kill(os.getpid(), signal.SIGINT)

            interrupted = pool.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.predict("world")
            interrupted.result(10)
            assert until(lambda: in_queue(blocked) == 0)
            blocked.engine.gate.set()
            assert first.result(10).label == "hello"
            assert client.predict("note").label == "note"
    assert blocked.engine.rows_run() == 2
