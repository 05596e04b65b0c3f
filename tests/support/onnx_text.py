"""Small ONNX graphs from their text form."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from nlpdeploy.export.passes.standard import standardise


def standard_graph(text: str, opset: int = 20, **constants: Any) -> ir.Model:
    """A standardised model from ONNX's text form, with the constants added as initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return standardise(ir.serde.deserialize_model(model))
