"""A model whose answers other servers make: what their answers become, whatever those servers do."""

import asyncio
import json
import time

import numpy as np
import pytest

from nlpdeploy.bundle.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidInput,
    NlpdeployError,
    Overloaded,
    TooLarge,
    Unavailable,
    Unsupported,
)
from nlpdeploy.serve import upstream_instance, upstream_model
from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.serve.upstream_instance import State
from nlpdeploy.wire.tensors import InferRequest, Tensor
from support.fake_torchserve import (
    DIGEST,
    NO_ROOM,
    FakeTorchServe,
    answer_to,
    description,
    error,
    fronted,
    message,
    says,
    upstream_of,
    works,
    writes,
)
from support.planes import outputs_of, sample

HARD = 'say "x"\\\n\ttwo\x00 lines \u2028 😀 𝔘 é é'


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(upstream_instance, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(upstream_instance, "LOOK_TIMEOUT", 0.2)


def ask(texts, **options):
    data = np.array([text.encode() for text in texts], dtype=object)
    return InferRequest("m", (Tensor("text", "BYTES", data),), **options)


def labels_of(inference):
    return [label.decode() for label in outputs_of(inference.response)["label"]]


def wanted_of(texts):
    return [("even", "odd")[len(text) % 2] for text in texts]


async def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.005)


async def ended(work):
    """An answer, or the error."""
    try:
        return await work
    except NlpdeployError as failure:
        return failure


# -- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_says_what_the_wire_contract_wants():
    async def main():
        fake = FakeTorchServe()
        async with fronted(fake) as plane:
            texts = ["a", "bb", HARD]
            inference = await plane.infer(ask(texts, id="r1"))
            outputs = outputs_of(inference.response)
            assert (inference.response.id, inference.response.version) == ("r1", "3")
            assert labels_of(inference) == wanted_of(texts)
            assert outputs["score"] == pytest.approx([1 / len(text) for text in texts], abs=1e-7)
            assert inference.response.parameters == {
                "bundle_digest": DIGEST, "engine": "onnx-fp32", "truncated_rows": 1,
            }  # fmt: skip
            assert set(inference.stages) == {"encode", "queue", "infer", "decode"}
            assert fake.asked[0].texts() == texts
            assert fake.asked[0].target == "/predictions/m"

    asyncio.run(main())


def test_only_the_outputs_asked_for_are_fetched():
    async def main():
        fake = FakeTorchServe()
        async with fronted(fake) as plane:
            inference = await plane.infer(ask(["abcd"], outputs=("logits", "scores", "tokens", "truncated")))
            shapes = {tensor.name: (tensor.dtype, tensor.shape) for tensor in inference.response.outputs}
            assert shapes == {
                "logits": ("FP32", (1, 2)), "scores": ("FP32", (1, 2)), "tokens": ("INT32", (1,)),
                "truncated": ("BOOL", (1,)),
            }  # fmt: skip
            assert outputs_of(inference.response)["scores"] == [[0.25, 0.75]]
            names = [entry["name"] for entry in json.loads(fake.asked[0].body)["outputs"]]
            assert sorted(names) == ["logits", "scores", "tokens", "truncated"]

    asyncio.run(main())


def test_plain_bodies_too_and_no_texts_ask_nobody():
    async def main():
        fake = FakeTorchServe()
        async with fronted(fake) as plane:
            one = await plane.predict("m", "", {"text": "abc"})
            assert one.answer == {"label": "odd", "score": pytest.approx(1 / 3)}
            none = await plane.infer(ask([]))
            assert outputs_of(none.response) == {"label": [], "score": []}
            assert len(fake.asked) == 1

    asyncio.run(main())


def test_many_texts_are_shared_by_the_instances_and_come_back_in_order():
    async def main():
        fakes = FakeTorchServe(), FakeTorchServe()
        async with fronted(*fakes) as plane:
            await until(lambda: all(instance.up for instance in upstream_of(plane).instances))
            texts = ["x" * (1 + i % 17) for i in range(10 * upstream_model.TEXTS_AT_ONCE + 3)]
            inference = await plane.infer(ask(texts))
            assert labels_of(inference) == wanted_of(texts)
            assert outputs_of(inference.response)["score"] == pytest.approx([1 / len(text) for text in texts])
            assert len(fakes[0].asked) + len(fakes[1].asked) == 11
            assert min(len(fake.asked) for fake in fakes) >= 4

    asyncio.run(main())


def test_metadata_configuration_statistics_and_index_are_those_of_the_archive():
    async def main():
        async with fronted(FakeTorchServe()) as plane:
            await plane.infer(ask(["a", "b"]))
            metadata = plane.model_metadata("m")
            assert (metadata.platform, metadata.versions) == ("onnxruntime_fp32", ("3",))
            assert metadata.properties["bundle_digest"] == DIGEST
            assert json.loads(metadata.properties["labels"]) == ["even", "odd"]
            assert [spec.shape for spec in metadata.outputs if spec.name == "scores"] == [(-1, 2)]
            assert plane.model_config("m").parameters["engine"].string_value == "onnx-fp32"
            (statistics,) = plane.statistics("m")
            assert (statistics.inference_count, statistics.execution_count) == (2, 1)
            assert [(entry.name, entry.state) for entry in plane.index()] == [("m", "READY")]
            assert sample(plane, "nlpdeploy_request_seconds_count", outcome="ok", model="m") == 1
            assert sample(plane, "nlpdeploy_upstream_requests_total", fate="answered") == 1
            assert sample(plane, "nlpdeploy_upstream_up") == 1

    asyncio.run(main())


def test_another_name_and_a_version_go_into_the_address():
    async def main():
        fake = FakeTorchServe()
        async with fronted(fake, path="/intents/2.0") as plane:
            await plane.infer(ask(["a"]))
            assert fake.asked[0].target == "/predictions/intents/2.0"
            assert plane.model_metadata("m").versions == ("2.0",)

    asyncio.run(main())


def test_a_request_by_tokens_is_not_served():
    async def main():
        async with fronted(FakeTorchServe()) as plane:
            tokens = InferRequest("m", (Tensor("input_ids", "INT64", np.array([[1, 2]])),))
            with pytest.raises(Unsupported, match="send text"):
                await plane.infer(tokens)

    asyncio.run(main())


# -- answers that are none --------------------------------------------------------------------------------------------


def changed(**changes):
    async def act(asked, writer):
        writer.write(message(answer_to(asked, **changes)))
        return True

    return act


def with_parameters(**parameters):
    async def act(asked, writer):
        writer.write(message(answer_to(asked) | {"parameters": parameters}))
        return True

    return act


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (changed(score={"data": [float("nan")]}), "answer of the upstream"),
        (writes(message(b'{"outputs":[{"name":"score","datatype":"FP32","shape":[1],"data":[1e999]}]}')), "upstream"),
        (changed(score={"data": [1e39]}), "."),
        (changed(score={"shape": [2], "data": [0.5, 0.5]}), "output score"),
        (changed(label={"shape": [1, 1], "data": ["odd"]}), "output label"),
        (changed(label={"data": ["neither"]}), "label"),
        (changed(label={"datatype": "FP32", "data": [1.0]}), "output label"),
        (changed(tokens={"data": [-5]}), "tokens"),
        (changed(score={"name": "other"}), "output score"),
        (says({"label": "odd", "score": 1.0}), "answer of the upstream"),
        (says(b""), "answer of the upstream"),
        (says(b'{"model_name":'), "answer of the upstream"),
        (says(b"\xff\xfe"), "answer of the upstream"),
        (says([]), "answer of the upstream"),
        (writes(b"SSH-2.0-OpenSSH_9\r\n\r\n"), "no HTTP"),
        (writes(b"HTTP/1.1 200 \r\ncontent-length: 99999999999\r\n\r\n"), "more than"),
        (error(500, "InternalServerException", "Worker died."), "Worker died"),
        (error(507, "InternalServerException", "Worker died."), "Worker died"),
        (says(b"<html>gateway</html>", 502), "502"),
        (says(b"", 302), "302"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_an_error_and_never_ok(act, said):
    async def main():
        fake = FakeTorchServe(act=act)
        async with fronted(fake) as plane:
            with pytest.raises((EngineFailed, Unavailable), match=said):
                await plane.infer(ask(["abc"]))
            assert len(fake.asked) == 1  # it may have been run
            fake.act = works
            assert labels_of(await plane.infer(ask(["abc"]))) == ["odd"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "act",
    [
        writes(b""),
        writes(b"HTTP/1.1 200 "),
        writes(b"HTTP/1.1 200 \r\ncontent-length: 500\r\n\r\n{"),
        writes(message({"label": "odd"}, length=500)),
        writes(b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello"),
    ],
    ids=["nothing", "half a head", "half a body", "a body shorter than its length", "half its chunks"],
)
def test_half_an_answer_is_unavailable_and_the_request_is_not_sent_twice(act):
    async def main():
        fakes = FakeTorchServe(act=act), FakeTorchServe(act=act)
        async with fronted(*fakes) as plane:
            with pytest.raises(Unavailable, match="connection closed"):
                await plane.infer(ask(["abc"]))
            assert len(fakes[0].asked) + len(fakes[1].asked) == 1
            assert sample(plane, "nlpdeploy_upstream_requests_total", fate="broken") == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "status", "wanted"),
    [("InvalidInput", 400, InvalidInput), ("TooLarge", 413, TooLarge), ("EngineFailed", 500, EngineFailed)],
)
def test_an_error_of_our_handler_keeps_its_kind(kind, status, wanted):
    async def main():
        fake = FakeTorchServe(act=says({"error": "text[0]; found this", "code": status, "type": kind}, status))
        async with fronted(fake) as plane:
            with pytest.raises(wanted, match="found this"):
                await plane.infer(ask(["abc"]))

    asyncio.run(main())


def test_an_instance_that_changes_its_bundle_is_not_believed():
    async def main():
        changing, standing = FakeTorchServe(), FakeTorchServe()
        async with fronted(changing, standing) as plane:
            model = upstream_of(plane)
            await until(lambda: all(instance.up for instance in model.instances))
            changing.act = with_parameters(bundle_digest="e" * 64, engine="onnx-fp32")
            changing.said = description(bundle_digest="e" * 64)
            outcomes = [await ended(plane.infer(ask(["abc"]))) for _ in range(6)]
            failed = [outcome for outcome in outcomes if isinstance(outcome, EngineFailed)]
            assert len(failed) == 1
            assert "another bundle" in failed[0].line()
            await until(lambda: model.instances[0].state is State.OTHER and "eeeeee" in model.instances[0].reason)
            assert plane.ready()
            assert plane.live()
            await standing.stop()
            await until(lambda: not plane.ready())
            assert plane.live()  # that one may come back
            changing.said = description()  # as does what was served before
            changing.act = works
            await until(plane.ready)
            assert labels_of(await plane.infer(ask(["abc"]))) == ["odd"]

    asyncio.run(main())


def test_when_all_instances_serve_another_bundle_only_a_restart_mends_it():
    async def main():
        fake = FakeTorchServe()
        async with fronted(fake) as plane:
            fake.act = with_parameters(bundle_digest="e" * 64, engine="onnx-fp32")
            fake.said = description(bundle_digest="e" * 64)
            assert isinstance(await ended(plane.infer(ask(["abc"]))), EngineFailed)
            await until(lambda: "eeeeee" in upstream_of(plane).trouble())
            assert not plane.live()
            assert not plane.ready()
            with pytest.raises(Unavailable, match="restart this server"):
                await plane.infer(ask(["abc"]))

    asyncio.run(main())


# -- no room, no time -------------------------------------------------------------------------------------------------


def test_without_room_here_another_instance_is_asked():
    async def main():
        fakes = FakeTorchServe(act=NO_ROOM), FakeTorchServe()
        async with fronted(*fakes) as plane:
            await until(lambda: all(instance.up for instance in upstream_of(plane).instances))
            for _ in range(8):
                assert labels_of(await plane.infer(ask(["abc"]))) == ["odd"]
            assert len(fakes[1].asked) == 8
            assert fakes[0].asked
            retries = sample(plane, "nlpdeploy_upstream_retries_total", instance=fakes[0].place)
            assert retries == len(fakes[0].asked)

    asyncio.run(main())


def test_without_room_anywhere_it_is_an_overload_with_a_hint():
    async def main():
        fakes = FakeTorchServe(act=NO_ROOM), FakeTorchServe(act=NO_ROOM)
        async with fronted(*fakes) as plane:
            await until(lambda: all(instance.up for instance in upstream_of(plane).instances))
            with pytest.raises(Overloaded, match="retry after") as refused:
                await plane.infer(ask(["abc"]))
            assert refused.value.retry_after > 0
            assert [len(fake.asked) for fake in fakes] == [1, 1]
            assert plane.ready()

    asyncio.run(main())


def test_a_handlers_own_503_is_an_overload_that_is_not_asked_elsewhere():
    async def main():
        act = says({"detail": "busy after all that work"}, 503)
        fakes = FakeTorchServe(act=act), FakeTorchServe(act=act)
        async with fronted(*fakes) as plane:
            await until(lambda: all(instance.up for instance in upstream_of(plane).instances))
            with pytest.raises(Overloaded):
                await plane.infer(ask(["abc"]))
            assert len(fakes[0].asked) + len(fakes[1].asked) == 1

    asyncio.run(main())


class Gate:
    """Answers wait until it is opened."""

    def __init__(self):
        self.opened = asyncio.Event()

    async def __call__(self, asked, writer):
        await self.opened.wait()
        return await works(asked, writer)


def test_a_full_queue_is_an_overload_and_what_waits_is_answered():
    async def main():
        gate = Gate()
        fake = FakeTorchServe(act=gate)
        capacity = Capacity(limits=Limits(rows=3))
        async with fronted(fake, requests=2, capacity=capacity) as plane:
            asked = [asyncio.create_task(ended(plane.infer(ask(["abc"])))) for _ in range(9)]
            await until(lambda: sum(task.done() for task in asked) == 4)
            assert sample(plane, "nlpdeploy_queue_rows") == 3
            gate.opened.set()
            outcomes = await asyncio.gather(*asked)
            assert [type(outcome) for outcome in outcomes].count(Overloaded) == 4
            assert sample(plane, "nlpdeploy_refusals_total", reason="queue_rows") == 4
            assert len(fake.asked) == 5
            with pytest.raises(TooLarge):
                await plane.infer(ask(["a"] * 4))

    asyncio.run(main())


def test_a_deadline_passes_on_time_its_answer_is_dropped_and_the_connection_serves_on():
    async def main():
        gate = Gate()
        fake = FakeTorchServe(act=gate)
        async with fronted(fake, requests=1) as plane:
            started = time.monotonic()
            sent = asyncio.create_task(ended(plane.infer(ask(["abc"], parameters={"timeout": 100_000}))))
            waiting = asyncio.create_task(ended(plane.infer(ask(["never sent"], parameters={"timeout": 100_000}))))
            assert [type(outcome) for outcome in await asyncio.gather(sent, waiting)] == [DeadlineExceeded] * 2
            assert time.monotonic() - started >= 0.1
            gate.opened.set()
            await until(lambda: sample(plane, "nlpdeploy_upstream_requests_total", fate="late") == 1)
            assert labels_of(await plane.infer(ask(["ab"]))) == ["even"]
            assert [asked.texts() for asked in fake.asked] == [["abc"], ["ab"]]
            assert sample(plane, "nlpdeploy_request_seconds_count", outcome="DeadlineExceeded") == 2
            assert sample(plane, "nlpdeploy_request_seconds_count", outcome="ok") == 1

    asyncio.run(main())


def test_an_answer_that_never_comes_gives_its_place_back(monkeypatch):
    monkeypatch.setattr(upstream_model, "OVERTIME", 0.1)

    async def main():
        gate = Gate()
        fake = FakeTorchServe(act=gate)
        async with fronted(fake, requests=1) as plane:
            assert isinstance(await ended(plane.infer(ask(["abc"], parameters={"timeout": 50_000}))), DeadlineExceeded)
            fake.act = works
            assert labels_of(await plane.infer(ask(["ab"]))) == ["even"]

    asyncio.run(main())


def test_a_refusal_after_the_deadline_asks_nobody_else():
    async def main():
        gate = asyncio.Event()

        async def late_refusal(asked, writer):
            await gate.wait()
            return await NO_ROOM(asked, writer)

        fakes = FakeTorchServe(act=late_refusal), FakeTorchServe(act=late_refusal)
        async with fronted(*fakes) as plane:
            assert isinstance(await ended(plane.infer(ask(["abc"], parameters={"timeout": 50_000}))), DeadlineExceeded)
            gate.set()
            await until(lambda: sample(plane, "nlpdeploy_upstream_requests_total", fate="no_room") == 1)
            await asyncio.sleep(0.05)
            assert len(fakes[0].asked) + len(fakes[1].asked) == 1

    asyncio.run(main())


def test_a_deadline_that_can_not_be_met_behind_what_waits_is_refused_at_once():
    async def main():
        async def slow(asked, writer):
            await asyncio.sleep(0.2)
            return await works(asked, writer)

        fake = FakeTorchServe(act=slow)
        async with fronted(fake, requests=1) as plane:
            await plane.infer(ask(["abc"]))  # from which the pace is known
            asked = [asyncio.create_task(ended(plane.infer(ask(["abc"])))) for _ in range(5)]
            await asyncio.sleep(0.01)
            with pytest.raises(Overloaded, match="deadline can't be met"):
                await plane.infer(ask(["abc"], parameters={"timeout": 100_000}))
            assert sample(plane, "nlpdeploy_refusals_total", reason="deadline_forecast") == 1
            assert all(not isinstance(outcome, NlpdeployError) for outcome in await asyncio.gather(*asked))

    asyncio.run(main())


def test_a_caller_who_leaves_takes_what_waits_away():
    async def main():
        gate = Gate()
        fake = FakeTorchServe(act=gate)
        async with fronted(fake, requests=1) as plane:
            first = asyncio.create_task(plane.infer(ask(["abc"])))
            await until(lambda: fake.asked)
            second = asyncio.create_task(plane.infer(ask(["leaves"])))
            await until(lambda: sample(plane, "nlpdeploy_queue_rows") == 1)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert sample(plane, "nlpdeploy_queue_rows") == 0
            gate.opened.set()
            assert labels_of(await first) == ["odd"]
            assert len(fake.asked) == 1

    asyncio.run(main())


def test_draining_answers_what_was_accepted():
    async def main():
        gate = Gate()
        fake = FakeTorchServe(act=gate)
        async with fronted(fake) as plane:
            asked = asyncio.create_task(plane.infer(ask(["abc"])))
            await until(lambda: fake.asked)
            draining = asyncio.create_task(plane.drain(5.0))
            await asyncio.sleep(0.02)
            with pytest.raises(Unavailable):
                await plane.infer(ask(["abc"]))
            gate.opened.set()
            assert labels_of(await asked) == ["odd"]
            assert await draining

    asyncio.run(main())
