"""A new shape costs OpenVINO no memory that stays. The whole of it is ``make bench BENCH_ARGS=memory``."""

from nlpdeploy.runtime import openvino
from support.shapes import memory_on_mixed_shapes, write_small_transformer


def test_1600_shapes_leave_the_memory_where_400_had_it(tmp_path):
    """Kernels kept for each shape, as the runtime does by default, would add a fifth here."""
    onnx_file = write_small_transformer(tmp_path / "model.onnx")
    openvino.convert(onnx_file, onnx_file.with_suffix(".xml"))
    after_400, after_1600 = memory_on_mixed_shapes(onnx_file.with_suffix(".xml"), 1600, (400, 1600))
    assert after_1600 <= 1.05 * after_400
