"""Each stage of a request is broken in turn: each request ends in exactly one answer, and the next one works."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.answers import AnswerForm
from nlpdeploy.serve.job import Job
from nlpdeploy.serve.served_model import Capacity
from support.asking import FRONTS, ask, question
from support.engines import LABELS, TinyEngine, token
from support.fronts import serving_fronts, until


class Panic(BaseException):
    """What the tokenizer's Rust raises when it panics: no ``Exception``."""


def has_book(feed):
    return (feed["input_ids"] == token("book")).any()


class SpoilingEngine(TinyEngine):
    """The tiny engine; an answer to a batch with the word *book* is spoilt."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def run(self, feed):
        outputs = super().run(feed)
        return self.spoil(outputs["logits"]) if has_book(feed) else outputs


def raising(error):
    def spoil(*_):
        raise error

    return spoil


def broken_tokenizer(error):
    def break_it(server, monkeypatch):
        encoder = server.plane.served()[0].predictor.encoder
        whole = encoder.encode

        def encode(texts, pairs=None):
            if any("book" in text for text in texts):
                raise error
            return whole(texts, pairs)

        monkeypatch.setattr(encoder, "encode", encode)

    return break_it


def broken_decoding(server, monkeypatch):
    whole = AnswerForm.tensors

    def tensors(form, rows, scored, names):
        if any(token("book") in row.input_ids for row in rows):
            raise KeyError("a secret text")
        return whole(form, rows, scored, names)

    monkeypatch.setattr(AnswerForm, "tensors", tensors)


def broken_delivery(server, monkeypatch):
    """What takes a row's logits on the event loop raises."""
    whole = Job.receive

    def receive(job, index, scored, now):
        if token("book") in job.rows[index].input_ids:
            raise ZeroDivisionError
        whole(job, index, scored, now)

    monkeypatch.setattr(Job, "receive", receive)


def nothing(server, monkeypatch):
    pass


def engine_that(spoil):
    return lambda: SpoilingEngine(spoil)


STAGES = {
    "the tokenizer raises": (TinyEngine, broken_tokenizer(RuntimeError("a secret text"))),
    "the tokenizer panics": (TinyEngine, broken_tokenizer(Panic("a secret text"))),
    "the engine raises a kind of its own": (engine_that(raising(EngineFailed("out of memory"))), nothing),
    "the engine raises a foreign error": (engine_that(raising(OSError("a secret text"))), nothing),
    "the engine has no memory": (engine_that(raising(MemoryError())), nothing),
    "the engine answers too few rows": (engine_that(lambda logits: {"logits": logits[:-1]}), nothing),
    "the engine answers too many rows": (engine_that(lambda logits: {"logits": np.vstack([logits, logits])}), nothing),
    "the engine answers too few classes": (engine_that(lambda logits: {"logits": logits[:, :-1]}), nothing),
    "the engine answers under another name": (engine_that(lambda logits: {"output_0": logits}), nothing),
    "the engine answers nothing": (engine_that(lambda logits: None), nothing),
    "the engine answers NaN": (engine_that(lambda logits: {"logits": logits * np.nan}), nothing),
    "the engine answers infinity": (engine_that(lambda logits: {"logits": logits + np.inf}), nothing),
    "the outcome can't be handed on": (TinyEngine, broken_delivery),
    "the answer can't be made": (TinyEngine, broken_decoding),
}


def books(server):
    """What must be 0 once every request has its answer."""
    names = ("queue_rows", "queue_tokens", "open_requests")
    return {name: server.metric(f"nlpdeploy_{name}") for name in names}


EMPTY = {"queue_rows": 0, "queue_tokens": 0, "open_requests": 0}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_broken_stage_is_an_internal_error_at_once_and_the_next_request_is_answered(
    stage, front, tmp_path, monkeypatch
):
    engine, break_it = STAGES[stage]
    with serving_fronts(tmp_path, engine()) as server:
        break_it(server, monkeypatch)
        port = getattr(server, f"{front}_port")
        end = ask(front, port, question(["hello", "a book"]))
        assert end.is_(500)
        assert "secret" not in end.detail
        assert books(server) == EMPTY
        after = ask(front, port, question(["world"], id="after"))
        assert (after.outputs["label"], after.id) == (["world"], "after")
        assert server.plane.ready()
        assert server.metric("nlpdeploy_request_seconds_count") == 2
        assert server.metric("nlpdeploy_request_seconds_count", outcome="ok") == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_broken_stage_among_many_requests_leaves_each_with_exactly_one_answer(stage, tmp_path, monkeypatch):
    engine, break_it = STAGES[stage]
    with serving_fronts(tmp_path, engine()) as server, ThreadPoolExecutor(12) as clients:
        break_it(server, monkeypatch)

        def one(index):
            front = FRONTS[index % 2]
            texts = ["book"] if index % 6 == 0 else [["hello", "world", "note"][index % 3]]
            return ask(front, getattr(server, f"{front}_port"), question(texts, id=str(index)))

        ends = list(clients.map(one, range(36)))
        for index, end in enumerate(ends):
            if end.is_(200):  # a neighbour of a spoilt row may fail with its batch, never get another's answer
                assert index % 6
                assert (end.id, end.outputs["label"]) == (str(index), [LABELS[index % 3]])
            else:
                assert end.is_(500)
        assert books(server) == EMPTY
        assert server.metric("nlpdeploy_request_seconds_count") == 36
        assert server.metric("nlpdeploy_request_seconds_count", outcome="ok") == sum(end.is_(200) for end in ends)
        assert ask("http", server.http_port, question(["hello"])).outputs["label"] == ["hello"]


def dying_engine(server, monkeypatch):
    server.engine.die_word = "book"


def dying_queue(server, monkeypatch):
    """What a worker does outside the engine's call raises."""
    queue = server.plane.served()[0].queue
    whole = queue.finished

    def finished(batch, seconds):
        if any(token("book") in ticket.owner.rows[ticket.index].input_ids for ticket in batch):
            raise IndexError
        whole(batch, seconds)

    monkeypatch.setattr(queue, "finished", finished)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("kill", [dying_engine, dying_queue])
def test_a_dead_worker_answers_all_that_is_open_and_the_server_says_that_it_is_not_ready(
    kill, front, tmp_path, monkeypatch
):
    gate = threading.Event()
    with serving_fronts(tmp_path, TinyEngine(gate=gate)) as server, ThreadPoolExecutor(9) as clients:
        kill(server, monkeypatch)
        port = getattr(server, f"{front}_port")
        doomed = clients.submit(ask, front, port, question(["book"]))
        assert until(lambda: server.engine.batches)
        waiting = [clients.submit(ask, front, port, question(["hello"])) for _ in range(8)]
        assert until(lambda: server.metric("nlpdeploy_queue_rows") == 8)
        gate.set()
        assert all(end.result(10).is_(500) for end in [doomed, *waiting])
        assert not server.plane.ready()
        assert ask(front, port, question(["hello"])).is_(503)
        assert books(server) == EMPTY
        assert server.engine.rows_run() == 1


@pytest.mark.parametrize("front", FRONTS)
def test_an_engine_that_hangs_makes_the_server_not_ready_until_it_comes_back(front, tmp_path):
    gate = threading.Event()
    capacity = Capacity(Limits(stuck=0.05))
    with serving_fronts(tmp_path, TinyEngine(gate=gate), capacity=capacity) as server, ThreadPoolExecutor(2) as clients:
        port = getattr(server, f"{front}_port")
        assert server.plane.ready()
        hanging = clients.submit(ask, front, port, question(["hello"]))
        assert until(lambda: server.engine.batches)
        assert until(lambda: not server.plane.ready())
        late = ask(front, port, question(["world"], parameters={"timeout": 100_000}))
        assert late.is_(504)
        gate.set()
        assert hanging.result(10).outputs["label"] == ["hello"]
        assert until(server.plane.ready)
        assert ask(front, port, question(["note"])).outputs["label"] == ["note"]
        assert books(server) == EMPTY
        assert server.engine.rows_run() == 2


def counted_texts(server, monkeypatch, gate=None):
    """The numbers of texts that the tokenizer is given at a time; each time it waits for the gate."""
    encoder = server.plane.served()[0].predictor.encoder
    whole, given = encoder.encode, []

    def encode(texts, pairs=None):
        given.append(len(texts))
        assert gate is None or gate.wait(30)
        return whole(texts, pairs)

    monkeypatch.setattr(encoder, "encode", encode)
    return given


@pytest.mark.parametrize("front", FRONTS)
def test_a_request_of_too_many_tokens_is_not_tokenised_to_its_end(front, tmp_path, monkeypatch):
    capacity = Capacity(Limits(tokens=1000))
    with serving_fronts(tmp_path, capacity=capacity) as server:
        given = counted_texts(server, monkeypatch)
        end = ask(front, getattr(server, f"{front}_port"), question(["a " * 20] * 4000))
        assert end.is_(413)
        assert sum(given) <= 2 * 1000 / 16 + 64  # 16 tokens each
        assert server.metric("nlpdeploy_refusals_total", reason="too_large") == 1
        assert books(server) == EMPTY


@pytest.mark.parametrize("front", FRONTS)
def test_a_request_whose_time_is_over_is_tokenised_no_further(front, tmp_path, monkeypatch):
    gate = threading.Event()
    with serving_fronts(tmp_path) as server:
        given = counted_texts(server, monkeypatch, gate)
        port = getattr(server, f"{front}_port")
        end = ask(front, port, question(["hello"] * 4000, parameters={"timeout": 100_000}))
        assert end.is_(504)
        gate.set()
        assert ask(front, port, question(["world"])).outputs["label"] == ["world"]
        assert sum(given) <= 2 * 64 + 1
        assert books(server) == EMPTY
        assert server.engine.rows_run() == 1


def test_a_request_of_many_texts_lets_others_pass_at_the_tokenizer(tmp_path, monkeypatch):
    gate = threading.Event()
    with serving_fronts(tmp_path) as server, ThreadPoolExecutor(3) as callers:
        given = counted_texts(server, monkeypatch, gate)
        many = [callers.submit(ask, "http", server.http_port, question(["hello"] * 1000)) for _ in range(2)]
        assert until(lambda: given == [64, 64])  # both threads are taken
        one = callers.submit(ask, "grpc", server.grpc_port, question(["world"]))
        assert until(lambda: server.metric("nlpdeploy_open_requests") == 3)
        gate.set()
        assert one.result(10).outputs["label"] == ["world"]
        assert given.index(1) <= 4  # of 33
        assert [end.result(10).outputs["label"] for end in many] == [["hello"] * 1000] * 2
        assert len(given) == 33
