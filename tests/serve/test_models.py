"""Models out of a real store: found by name and version, refused when they are not what was published."""

import asyncio
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import CorruptBundle, EngineUnavailable, NotFound
from nlpdeploy.bundle.store import Store
from nlpdeploy.serve.models import load_models
from nlpdeploy.serve.plane import DataPlane
from support.tiny_bundle import MODEL_FILE, publish_tiny_bundle


def test_a_published_bundle_is_verified_loaded_and_answers(tmp_path: Path) -> None:
    reference = publish_tiny_bundle(tmp_path)

    async def main() -> None:
        plane = DataPlane()
        for loaded in await load_models(tmp_path, ["tiny"], threads=1):
            plane.add(loaded.predictor, version=str(loaded.reference.version), chosen=loaded.chosen)
        plane.open()
        answer = await plane.predict("tiny", "", {"text": ["hello a", "world", "人 人 a"]})
        assert [row["label"] for row in answer.answer["predictions"]] == ["hello", "world", "问候"]
        assert answer.parameters["engine"] == "onnx-fp32"
        assert answer.parameters["bundle_digest"] == Store(tmp_path).manifest(str(reference)).digest
        assert plane.model_metadata("tiny").platform == "onnxruntime_fp32"
        assert b'nlpdeploy_model_info{bundle_digest="' in plane.metrics.render()
        await plane.drain(1.0)
        assert plane.close()

    asyncio.run(main())


def test_all_of_a_store_is_loaded_when_nothing_is_named_and_versions_side_by_side(tmp_path: Path) -> None:
    for name in ("tiny", "tiny", "other"):
        publish_tiny_bundle(tmp_path, name)
    everything = asyncio.run(load_models(tmp_path, [], threads=1))
    assert sorted(str(loaded.reference) for loaded in everything) == ["other/1", "tiny/2"]
    both = asyncio.run(load_models(tmp_path, ["tiny:1", "tiny"], threads=1))
    assert [(str(loaded.reference), loaded.chosen) for loaded in both] == [("tiny/1", False), ("tiny/2", True)]
    for loaded in (*everything, *both):
        loaded.predictor.close()


def test_one_changed_byte_fails_the_start_with_the_name_of_the_file(tmp_path: Path) -> None:
    publish_tiny_bundle(tmp_path, "good")
    path = publish_tiny_bundle(tmp_path, "bad").path / MODEL_FILE
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptBundle, match=r"changed: engines/onnx-fp32/model\.onnx"):
        asyncio.run(load_models(tmp_path, ["good", "bad"], threads=1))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="empty store"):
        asyncio.run(load_models(tmp_path, []))
    publish_tiny_bundle(tmp_path)
    with pytest.raises(NotFound, match="model 'huge'"):
        asyncio.run(load_models(tmp_path, ["huge"]))
    with pytest.raises((NotFound, EngineUnavailable), match="tensorrt-fp16"):
        asyncio.run(load_models(tmp_path, ["tiny"], engine="tensorrt-fp16"))
