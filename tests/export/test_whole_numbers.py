"""What a model computes in floats from integers to integers, as buckets of positions, is the same in bf16."""

from xml.etree import ElementTree as ET

import numpy as np
import openvino as ov
import pytest
import torch

from nlpdeploy.bundle.specs import TensorSpec
from nlpdeploy.export.builders import BUILDERS
from nlpdeploy.runtime import openvino as runtime

IDS = torch.arange(600)[None]


class Buckets(torch.nn.Module):
    """Rows of a table by a bucket of each id, through a matrix product; and the id's sign, which ends in floats."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", (torch.arange(700) % 7).float()[:, None].repeat(1, 32))
        self.register_buffer("same", torch.eye(32))

    def forward(self, ids):
        numbers = ids.float()
        buckets = torch.ceil(numbers * 1.01).to(torch.int64)
        return self.table[buckets[0]] @ self.same + torch.sign(numbers[0])[:, None]


@pytest.fixture
def convert(tmp_path):
    def written():
        specs = (TensorSpec("ids", "INT64", (1, -1)),), (TensorSpec("logits", "FP32", (-1, 32)),)
        runtime.convert_module(Buckets().eval(), *specs, (IDS,), tmp_path / "model.xml")
        return tmp_path / "model.xml"

    return written


def test_only_what_lies_between_integers_is_marked(convert):
    layers = list(ET.parse(convert()).iter("layer"))
    marked = {layer.get("type") for layer in layers if layer.find("rt_info/*[@name='precise']") is not None}
    assert marked == {"Convert", "Multiply", "Ceiling"}
    assert {layer.get("type") for layer in layers} > {"Sign", "Gather", "MatMul"}


@pytest.mark.skipif(BUILDERS["openvino-bf16"].unavailable() is not None, reason="this CPU has no bf16")
def test_bf16_finds_the_same_buckets(convert, monkeypatch):
    want = Buckets()(IDS).numpy()

    def answers():
        model = ov.Core().compile_model(str(convert()), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        return np.array(model(IDS.numpy())[0])

    np.testing.assert_array_equal(answers(), want)
    monkeypatch.setattr(runtime, "_between_integers", lambda model: set())
    assert (answers() != want).any(), "without the mark they are others, or this test would show nothing"
