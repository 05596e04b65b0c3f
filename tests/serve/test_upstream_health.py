"""Instances that go, hang, come back, refuse their token or were never there; and what the front says of it."""

import asyncio
import json
import logging
import socket

import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput, NlpdeployError, Unavailable
from nlpdeploy.serve import upstream_instance
from nlpdeploy.serve.upstream_instance import State
from nlpdeploy.wire.tensors import InferRequest, Tensor
from support.fake_torchserve import FakeTorchServe, description, fronted, says, upstream_of, works
from support.planes import outputs_of, sample

SECRET = "Zq7-vEry_S3cret"


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(upstream_instance, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(upstream_instance, "LOOK_TIMEOUT", 0.2)


def ask(text="abc", **options):
    data = np.array([text.encode()], dtype=object)
    return InferRequest("m", (Tensor("text", "BYTES", data),), **options)


def label_of(inference):
    return outputs_of(inference.response)["label"][0].decode()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def ended(work):
    try:
        return await work
    except NlpdeployError as failure:
        return failure


async def failure_at_start(*fakes, **options):
    with pytest.raises(NlpdeployError) as failed:
        async with fronted(*fakes, **options):
            pass
    for fake in fakes:
        await fake.stop()
    return failed.value


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# -- the start --------------------------------------------------------------------------------------------------------


def test_nobody_there_at_the_start_is_one_line_after_the_time_allowed():
    fake = FakeTorchServe(port=free_port())
    error = asyncio.run(failure_at_start(fake, wait=0.3))
    assert isinstance(error, Unavailable)
    assert error.line() == (
        f"--upstream m; found {fake.place}: connection refused; wanted an instance that answers within 0.3 s; "
        "start it, or wait longer with --upstream-wait"
    )


def test_a_fleet_that_comes_later_is_waited_for_and_one_instance_is_enough():
    async def main():
        first, never = FakeTorchServe(port=free_port()), FakeTorchServe(port=free_port())

        async def later():
            await asyncio.sleep(0.2)
            await first.start()

        starting = asyncio.create_task(later())
        async with fronted(first, never) as plane:
            assert plane.ready()
            assert label_of(await plane.infer(ask())) == "odd"
            assert "connection refused" in upstream_of(plane).instances[1].reason
        await starting

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fake", "path", "said"),
    [
        (FakeTorchServe(), "/missing", "Model not found: missing (--upstream m=torchserve://"),
        (FakeTorchServe(key=SECRET), "", "it wants a token: --upstream-key-file"),
        (FakeTorchServe(said={"bundle_digest": "d", "engine": "e"}), "", "pack the archive again"),
        (FakeTorchServe(said=None, act=says(b"a label alone")), "", "wanted JSON with a label and a score"),
        (FakeTorchServe(said=None, act=says({"code": 500, "message": "boom"}, 500)), "", "it says 500: boom"),
    ],
    ids=["no such model", "no token", "another nlpdeploy", "unreadable answers", "a handler that fails"],
)
def test_what_waiting_does_not_mend_ends_the_start_at_once(fake, path, said):
    async def main():
        async with asyncio.timeout(5):
            return await failure_at_start(fake, path=path, wait=60.0)

    error = asyncio.run(main())
    assert isinstance(error, InvalidInput)
    assert said in error.line()
    assert "\n" not in error.line()


def test_another_kind_of_server_is_told_from_a_torchserve():
    class Other(FakeTorchServe):
        async def _one(self, reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot found")
            return True

    error = asyncio.run(failure_at_start(Other(), wait=60.0))
    assert "it is no TorchServe: /ping says not found" in error.line()


def test_a_frontend_whose_workers_still_load_is_waited_for():
    async def main():
        fake = FakeTorchServe(status="Unhealthy")

        async def loaded():
            await asyncio.sleep(0.2)
            fake.status = "Healthy"

        loading = asyncio.create_task(loaded())
        async with fronted(fake) as plane:
            assert label_of(await plane.infer(ask())) == "odd"
        await loading

    asyncio.run(main())


# -- coming and going -------------------------------------------------------------------------------------------------


def test_an_instance_that_dies_is_left_out_and_used_again_when_it_is_back():
    async def main():
        dying, standing = FakeTorchServe(), FakeTorchServe()
        async with fronted(dying, standing) as plane:
            model = upstream_of(plane)
            await until(lambda: all(instance.up for instance in model.instances))
            await dying.stop()
            for _ in range(20):
                assert label_of(await plane.infer(ask())) == "odd"
            assert not model.instances[0].up
            assert plane.ready()
            seen = len(dying.asked)
            await dying.start()
            await until(lambda: model.instances[0].up)
            for _ in range(4):
                await plane.infer(ask())
            assert len(dying.asked) > seen

    asyncio.run(main())


def test_a_request_whose_connection_is_refused_goes_to_another_instance(monkeypatch):
    monkeypatch.setattr(upstream_instance, "LOOK_SECONDS", 30.0)

    async def main():
        dying, standing = FakeTorchServe(), FakeTorchServe()
        async with fronted(dying, standing) as plane:
            await until(lambda: all(instance.up for instance in upstream_of(plane).instances))
            await dying.stop()  # which no look has seen
            outcomes = [await plane.infer(ask()) for _ in range(4)]
            assert [label_of(outcome) for outcome in outcomes] == ["odd"] * 4
            assert sample(plane, "nlpdeploy_upstream_requests_total", fate="not_sent") == 1
            assert sample(plane, "nlpdeploy_upstream_retries_total", instance=dying.place) == 1

    asyncio.run(main())


def test_an_instance_that_dies_over_requests_ends_each_of_them_once():
    async def main():
        gate = asyncio.Event()

        async def never(asked, writer):
            await gate.wait()
            return False

        dying, standing = FakeTorchServe(act=never), FakeTorchServe()
        async with fronted(dying, standing, requests=4) as plane:
            model = upstream_of(plane)
            await until(lambda: all(instance.up for instance in model.instances))
            asked = [asyncio.create_task(ended(plane.infer(ask()))) for _ in range(40)]
            await until(lambda: len(dying.asked) == 4)
            await dying.stop()
            outcomes = await asyncio.gather(*asked)
            lost = [outcome for outcome in outcomes if isinstance(outcome, NlpdeployError)]
            assert [type(outcome) for outcome in lost] == [Unavailable] * 4
            assert len(standing.asked) == 36
            assert sample(plane, "nlpdeploy_request_seconds_count") == 40
            assert plane.ready()
            gate.set()

    asyncio.run(main())


def test_without_any_instance_the_model_is_not_ready_and_what_waits_is_answered():
    async def main():
        gate = asyncio.Event()

        async def never(asked, writer):
            await gate.wait()
            return False

        fake = FakeTorchServe(act=never)
        async with fronted(fake, requests=1) as plane:
            asked = [asyncio.create_task(ended(plane.infer(ask()))) for _ in range(3)]
            await until(lambda: sample(plane, "nlpdeploy_queue_rows") == 2)
            await fake.stop()
            outcomes = await asyncio.gather(*asked)
            assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
            await until(lambda: not plane.ready())
            assert plane.live()
            assert not plane.model_ready("m")
            (entry,) = plane.index()
            assert entry.state == "UNAVAILABLE"
            assert f"{fake.place}: connection refused" in entry.reason
            with pytest.raises(Unavailable, match="connection refused"):
                await plane.infer(ask())
            gate.set()
            fake.act = works
            await fake.start()
            await until(lambda: plane.model_ready("m"))
            assert label_of(await plane.infer(ask())) == "odd"

    asyncio.run(main())


def test_one_that_hangs_is_out_and_its_requests_end():
    async def main():
        hanging, standing = FakeTorchServe(), FakeTorchServe()
        async with fronted(hanging, standing) as plane:
            model = upstream_of(plane)
            await until(lambda: all(instance.up for instance in model.instances))
            hanging.hang()
            asked = [asyncio.create_task(ended(plane.infer(ask()))) for _ in range(6)]
            outcomes = await asyncio.gather(*asked)
            assert {type(outcome) for outcome in outcomes if isinstance(outcome, NlpdeployError)} <= {Unavailable}
            await until(lambda: not model.instances[0].up)
            assert model.instances[0].requests == 0
            assert label_of(await plane.infer(ask())) == "odd"

    asyncio.run(main())


@pytest.mark.parametrize("status", ["Unhealthy", "Dubious"])
def test_one_whose_workers_are_gone_gets_nothing_until_it_is_well(status):
    async def main():
        ill, well = FakeTorchServe(), FakeTorchServe()
        async with fronted(ill, well) as plane:
            model = upstream_of(plane)
            await until(lambda: all(instance.up for instance in model.instances))
            ill.status = status
            await until(lambda: not model.instances[0].up)
            assert model.instances[0].state is State.DOWN
            seen = len(ill.asked)
            for _ in range(4):
                await plane.infer(ask())
            assert len(ill.asked) == seen
            ill.status = "Healthy"
            await until(lambda: model.instances[0].up)

    asyncio.run(main())


def test_where_only_a_part_is_well_the_model_itself_is_asked():
    async def main():
        fake = FakeTorchServe(status="Partial Healthy")
        async with fronted(fake) as plane:
            assert plane.ready()
            fake.said = description(bundle_digest="e" * 64)
            await until(lambda: not plane.ready())
            assert "it serves bundle eeeeeeee" in upstream_of(plane).trouble()

    asyncio.run(main())


def test_an_instance_with_another_bundle_stays_out():
    async def main():
        other = FakeTorchServe(port=free_port(), said=description(engine="onnx-int8"))
        first = FakeTorchServe()
        async with fronted(first, other) as plane:
            await other.start()
            model = upstream_of(plane)
            await until(lambda: model.instances[1].state is State.OTHER)
            assert "on onnx-int8, not bundle dddddddddddddddd on onnx-fp32" in model.instances[1].reason
            for _ in range(4):
                await plane.infer(ask())
            assert not other.asked

    asyncio.run(main())


# -- tokens -----------------------------------------------------------------------------------------------------------


def key_file(folder, token):
    path = folder / "key_file.json"
    path.write_text(json.dumps({"inference": {"key": token}, "management": {"key": "other"}}))
    return path


def test_a_refused_token_takes_the_instance_out_and_a_new_one_brings_it_back(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)

    async def main():
        fake = FakeTorchServe(key=SECRET)
        path = key_file(tmp_path, SECRET)
        async with fronted(fake, key_file=path) as plane:
            assert label_of(await plane.infer(ask())) == "odd"
            fake.key = SECRET + "-2"  # as a restart makes one
            outcome = await ended(plane.infer(ask()))
            assert isinstance(outcome, Unavailable)
            await until(lambda: not plane.ready())
            trouble = upstream_of(plane).trouble()
            assert f"it refuses the token of {path}" in trouble
            key_file(tmp_path, SECRET + "-2")
            await until(plane.ready)
            assert label_of(await plane.infer(ask())) == "odd"
            path.unlink()
            again = await ended(plane.infer(ask()))
            assert isinstance(again, Unavailable)
            assert "key file" in upstream_of(plane).trouble()
            return outcome.line() + trouble + again.line()

    said = asyncio.run(main())
    assert SECRET not in said
    assert SECRET not in caplog.text
    assert "refuses the token" in caplog.text


def test_a_token_that_a_server_repeats_in_its_error_goes_no_further(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)

    async def tells(asked, writer):
        return await says({"code": 500, "type": "X", "message": asked.headers["authorization"]}, 500)(asked, writer)

    async def main():
        fake = FakeTorchServe(key=SECRET)
        async with fronted(fake, key_file=key_file(tmp_path, SECRET)) as plane:
            fake.act = tells
            return await ended(plane.infer(ask()))

    error = asyncio.run(main())
    assert "Bearer …" in error.line()
    assert SECRET not in error.line() + caplog.text


def test_a_wrong_token_at_the_start_is_one_line_without_it(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    fake = FakeTorchServe(key=SECRET)
    error = asyncio.run(failure_at_start(fake, key_file=key_file(tmp_path, "wrong-" + SECRET), wait=60.0))
    assert isinstance(error, InvalidInput)
    assert "it refuses the token of" in error.line()
    assert SECRET not in error.line() + caplog.text


def test_a_key_file_that_its_server_has_still_to_write_is_waited_for(tmp_path):
    async def main():
        path = tmp_path / "key_file.json"
        fake = FakeTorchServe(key=SECRET)

        async def later():
            await asyncio.sleep(0.2)
            key_file(tmp_path, SECRET)

        writing = asyncio.create_task(later())
        async with fronted(fake, key_file=path) as plane:
            assert label_of(await plane.infer(ask())) == "odd"
        await writing

    asyncio.run(main())


# -- archives of other makers -----------------------------------------------------------------------------------------


def other_handler(value):
    async def act(asked, writer):
        return await says(value)(asked, writer)

    return act


@pytest.mark.parametrize(
    ("value", "label", "score"),
    [
        ({"label": "yes", "score": 0.75}, "yes", 0.75),
        ({"label": "yes", "confidence": 0.75, "id": 3}, "yes", 0.75),
        ({"no": 0.25, "yes": 0.75}, "yes", 0.75),
        ([{"label": "no", "score": 0.25}, {"label": "yes", "score": 0.75}], "yes", 0.75),
        ([[{"label": "yes", "score": 1}]], "yes", 1.0),
        ({"predictions": [{"label": "yes", "probability": 0.75}]}, "yes", 0.75),
        ({"predictions": [{"no": 0.25, "yes": 0.75}]}, "yes", 0.75),
    ],
)
def test_a_label_and_a_score_are_found_in_other_handlers_json(value, label, score):
    async def main():
        fake = FakeTorchServe(said=None, act=other_handler(value))
        async with fronted(fake) as plane:
            fake.asked.clear()
            hard = 'say "x"\\\n\ttwo lines\u2028 😀'
            inference = await plane.infer(ask(hard))
            outputs = outputs_of(inference.response)
            assert outputs == {"label": [label.encode()], "score": [pytest.approx(score)]}
            assert inference.response.parameters == {"bundle_digest": "unknown", "engine": "torchserve"}
            assert fake.asked[0].body.decode() == hard
            assert fake.asked[0].headers["content-type"] == "text/plain; charset=utf-8"
            metadata = plane.model_metadata("m")
            assert [spec.name for spec in metadata.outputs] == ["label", "score"]
            assert (metadata.platform, "labels" in metadata.properties) == ("torchserve", False)
            assert (await plane.predict("m", "", {"text": ["a", "b"]})).answer == {
                "predictions": [{"label": label, "score": pytest.approx(score)}] * 2
            }
            with pytest.raises(InvalidInput, match="logits"):
                await plane.infer(ask(outputs=("logits",)))

    asyncio.run(main())


@pytest.mark.parametrize(
    "value",
    [
        "yes", 0.5, [], {}, {"label": "yes"}, {"label": 3, "score": 0.5}, {"label": "yes", "score": "0.5"},
        {"predictions": [{"a": 1}, {"b": 2}]}, [["yes", 0.5]], {"a": True}, None, b"\xff", b"Infinity",
        b'{"label":"yes","score":1e999}', b'{"label":"yes","score":1' + b"0" * 400 + b"}", b"[" * 50 + b"]" * 50,
    ],
)  # fmt: skip
def test_an_answer_without_both_is_an_error_once_it_serves(value):
    async def main():
        fake = FakeTorchServe(said=None, act=other_handler({"label": "yes", "score": 0.5}))
        async with fronted(fake) as plane:
            fake.act = says(value)
            outcome = await ended(plane.infer(ask()))
            assert type(outcome).__name__ == "EngineFailed"
            assert plane.ready()

    asyncio.run(main())
