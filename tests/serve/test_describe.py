"""What the server says of its models: statistics that add up, configuration, index."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import DeadlineExceeded, EngineFailed, InvalidInput, NotFound, Unavailable
from nlpdeploy.serve.plane import DataPlane
from nlpdeploy.wire.descriptions import Duration, IndexEntry, ModelStatistics
from support.engines import LABELS, TinyEngine, tiny_predictor
from support.planes import ask, gathered, serving


def only(found: list[ModelStatistics]) -> ModelStatistics:
    (statistics,) = found
    return statistics


def test_statistics_count_requests_rows_and_engine_calls_and_their_times_add_up(tmp_path: Path) -> None:
    async def main() -> tuple[ModelStatistics, TinyEngine]:
        engine = TinyEngine(seconds=0.005, nan_word="book")
        async with serving(tmp_path, engine) as plane:
            for texts in (["hello"], ["world"] * 3, ["note"] * 3, []):
                await plane.infer(ask(texts))
            await plane.predict("tiny", "", {"text": "hello"})
            with pytest.raises(InvalidInput):
                await plane.infer(ask(["hello"], outputs=("mood",)))
            with pytest.raises(EngineFailed):
                await plane.infer(ask(["book"]))
            return only(plane.statistics("tiny")), engine

    before = time.time()
    statistics, engine = asyncio.run(main())
    requests = statistics.inference_stats
    assert (statistics.name, statistics.version) == ("tiny", "1")
    assert statistics.inference_count == 8
    assert statistics.execution_count == len(engine.batches) == 5  # a NaN row fails its request, not the call
    assert requests.success.count == 5
    assert requests.fail.count == 2
    stages = (requests.queue, requests.compute_input, requests.compute_infer, requests.compute_output)
    assert [stage.count for stage in stages] == [5] * 4
    assert sum(stage.ns for stage in stages) == requests.success.ns
    assert requests.compute_infer.ns >= 4 * 5_000_000
    assert requests.fail.ns > 0
    assert requests.cache_hit == requests.cache_miss == Duration()
    assert [(batch.batch_size, batch.compute_infer.count) for batch in statistics.batch_stats] == [(1, 3), (3, 2)]
    assert all(batch.compute_infer.ns >= 5_000_000 * batch.compute_infer.count for batch in statistics.batch_stats)
    assert before * 1000 - 1 <= statistics.last_inference <= time.time() * 1000 + 1


def test_a_request_that_is_late_or_left_alone_is_a_failed_one_and_an_engine_call_that_raises_is_none(
    tmp_path: Path,
) -> None:
    async def main() -> ModelStatistics:
        engine = TinyEngine(gate=threading.Event(), raise_word="book")
        async with serving(tmp_path, engine) as plane:
            running = asyncio.create_task(gathered(plane, [ask(["book"])]))
            while not engine.batches:
                await asyncio.sleep(0.001)
            with pytest.raises(DeadlineExceeded):
                await plane.infer(ask(["hello"], parameters={"timeout": 100_000}))
            left = asyncio.create_task(plane.infer(ask(["hello"])))
            await asyncio.sleep(0)
            left.cancel()
            await asyncio.wait([left])
            assert engine.gate is not None
            engine.gate.set()
            await running
            return only(plane.statistics())

    statistics = asyncio.run(main())
    assert statistics.inference_stats.fail.count == 3
    assert statistics.execution_count == statistics.inference_count == statistics.last_inference == 0
    assert statistics.batch_stats == ()


def test_statistics_of_a_version_of_a_name_and_of_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "1") as plane:
            plane.add(tiny_predictor(tmp_path / "2"), version="2", chosen=True)
            plane.add(tiny_predictor(tmp_path / "other", name="other"), version="7")
            await plane.infer(ask(["hello"], version="1"))
            await plane.infer(ask(["hello", "world"]))

            def counts(name: str = "", version: str = "") -> dict[str, int]:
                found = plane.statistics(name, version)
                return {f"{one.name}/{one.version}": one.inference_count for one in found}

            assert counts() == {"tiny/1": 1, "tiny/2": 2, "other/7": 0}
            assert counts("tiny") == {"tiny/1": 1, "tiny/2": 2}
            assert counts("tiny", "1") == {"tiny/1": 1}
            for wrong in (("nobody", ""), ("tiny", "9")):
                with pytest.raises(NotFound):
                    plane.statistics(*wrong)

    asyncio.run(main())


def test_the_configuration_has_the_shapes_of_the_metadata_and_the_most_rows(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as plane:
            config, metadata = plane.model_config("tiny"), plane.model_metadata("tiny")
            assert config.max_batch_size == 0
            tensors = {tensor.name: tensor.dims for tensor in (*config.input, *config.output)}
            specs = {spec.name: spec.shape for spec in (*metadata.inputs, *metadata.outputs)}
            assert tensors == specs
            assert tensors["scores"] == (-1, len(LABELS))
            types = {tensor.name: tensor.data_type for tensor in (*config.input, *config.output)}
            assert (types["text"], types["label"], types["score"]) == ("TYPE_STRING", "TYPE_STRING", "TYPE_FP32")
            assert not config.model_transaction_policy.decoupled
            words = {name: word.string_value for name, word in config.parameters.items()}
            assert words == {**metadata.properties, "max_rows": "4096"}
            with pytest.raises(NotFound):
                plane.model_config("tiny", "9")

    asyncio.run(main())


def test_the_index_follows_a_model_from_loading_to_ready_to_its_end(tmp_path: Path) -> None:
    engine = TinyEngine(die_word="book")

    async def main() -> None:
        plane = DataPlane(expected=("tiny", "late"))
        plane.add(tiny_predictor(tmp_path, engine), version="3")
        assert plane.index() == [IndexEntry("late", "", "LOADING"), IndexEntry("tiny", "3", "LOADING")]
        assert plane.index(ready=True) == []
        with pytest.raises(Unavailable):
            plane.statistics("late")
        plane.open()
        assert plane.index() == plane.index(ready=True) == [IndexEntry("tiny", "3", "READY")]
        with pytest.raises(EngineFailed):
            await plane.infer(ask(["book"]))
        (dead,) = plane.index()
        assert (dead.state, dead.reason) == ("UNAVAILABLE", "its engine has stopped; restart the server")
        assert plane.index(ready=True) == []
        await plane.drain(0.0)
        assert plane.close()

    asyncio.run(main())


def test_a_draining_server_has_no_ready_models_in_its_index(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as plane:
            await plane.drain(0.0)
            assert plane.index() == [IndexEntry("tiny", "1", "UNAVAILABLE", "the server is going down")]

    asyncio.run(main())
