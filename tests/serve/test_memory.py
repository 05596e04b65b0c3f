"""Memory does not ratchet with shapes."""

import asyncio
import gc
import random
from pathlib import Path

import psutil

from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.bundle.specs import EngineState, Layout
from nlpdeploy.runtime.catalogue import load_engine
from nlpdeploy.runtime.engine import EngineOptions
from nlpdeploy.runtime.predictor import Predictor
from nlpdeploy.runtime.text import TextEncoder
from nlpdeploy.serve.plane import DataPlane
from support.engines import INPUTS, OUTPUTS, tiny_manifest, tiny_model
from support.tiny_bundle import write_tiny_graph
from support.tokenizers import write_tiny_tokenizer


def test_2000_requests_of_mixed_shapes_leave_the_memory_where_500_had_it(tmp_path: Path) -> None:
    model = tiny_model(max_length=512)
    write_tiny_graph(tmp_path / "model.onnx")
    entry = EngineEntry(
        "onnx-fp32", "onnxruntime", "fp32", Layout.PADDED, EngineState.READY, None, "model.onnx", INPUTS, OUTPUTS
    )
    encoder = TextEncoder(write_tiny_tokenizer(tmp_path / "tokenizer.json"), model.max_length)
    predictor = Predictor(tiny_manifest(model), encoder, load_engine(entry, tmp_path, EngineOptions(threads=1)))
    chance = random.Random(29)
    shapes = [(1 + i % 32, 1 + i * 511 // 1999) for i in range(2000)]
    chance.shuffle(shapes)

    async def main() -> list[int]:
        plane = DataPlane()
        plane.add(predictor)
        plane.open()
        resident = []
        for start in range(0, len(shapes), 20):
            bodies = [{"text": ["a " * max(length - 2, 0)] * texts} for texts, length in shapes[start : start + 20]]
            await asyncio.gather(*(plane.predict("tiny", "", body) for body in bodies))
            if start + 20 in (500, 2000):
                gc.collect()
                resident.append(psutil.Process().memory_info().rss)
        await plane.drain(1.0)
        assert plane.close()
        return resident

    after_500, after_2000 = asyncio.run(main())
    assert after_2000 <= 1.05 * after_500
