"""OpenVINO on the CPU. Imported only when an engine of this runtime is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as opset

from ..bundle.errors import EngineFailed, EngineUnavailable
from ..bundle.manifest import EngineEntry
from ..bundle.specs import Layout, TensorSpec
from .engine import EngineOptions, Feed, Outputs

DEVICE = "CPU"
PRECISION_HINT = "INFERENCE_PRECISION_HINT"
GROUP_SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
"""An engine's option and OpenVINO's property: so many neighbouring values of a token's state share an int8 scale."""
KERNEL_CACHE = 128
"""Compiled kernels kept by shape. The default of 5,000 grows with every new batch and length; on changing shapes it was
no faster than 128."""


def _meet_numpy() -> None:
    """Have the bindings look numpy up while one thread alone is here, as an import is.

    They do it with the first array, under a lock of their own in which they need the interpreter's: two threads with
    first arrays wait for each other for ever.
    """
    tensor = ov.Tensor(np.zeros(1, dtype=np.int64), shared_memory=True)
    np.array(tensor.data, np.float32)


_meet_numpy()


class OpenVINOEngine:
    """A compiled model with one inference request; keeps the contract of ``runtime/engine.py``.

    Raises:
        EngineUnavailable: this CPU doesn't compute in the precision that the engine was built for.
        EngineFailed: the file can't be loaded.
    """

    def __init__(self, entry: EngineEntry, model_file: Path, options: EngineOptions) -> None:
        self.id: str = entry.id
        self.layout: Layout = entry.layout
        self.inputs: tuple[TensorSpec, ...] = entry.inputs
        self.outputs: tuple[TensorSpec, ...] = entry.outputs
        hint = str(entry.options[PRECISION_HINT])
        try:
            compiled = _core().compile_model(str(model_file), DEVICE, _properties(entry, options))
            self._request: Any = compiled.create_infer_request()
            found = compiled.get_property(PRECISION_HINT).to_string()
            group = compiled.get_property(GROUP_SIZE)
        except Exception as error:  # noqa: BLE001 - the runtime raises bare RuntimeError and kinds of its own
            raise _failed(f"engine {self.id} can't be loaded by OpenVINO", error) from None
        if found != hint:
            raise EngineUnavailable(f"precision of engine {self.id} on this CPU", found=found, wanted=hint)
        if GROUP_SIZE in entry.options and group != entry.options[GROUP_SIZE]:
            wanted = entry.options[GROUP_SIZE]
            raise EngineUnavailable(f"int8 groups of engine {self.id} on this CPU", found=group, wanted=wanted)

    def run(self, feed: Feed) -> Outputs:
        """See ``Engine.run``."""
        if self._request is None:
            raise EngineFailed(f"engine {self.id} is closed")
        try:
            self._request.infer(feed, share_inputs=True, share_outputs=True)
            # The request's own memory is overwritten by the next run, so the caller gets a copy.
            values = [np.array(self._request.get_tensor(spec.name).data, np.float32) for spec in self.outputs]
        except Exception as error:  # noqa: BLE001 - the runtime raises bare RuntimeError and kinds of its own
            raise _failed(f"engine {self.id}", error) from None
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def close(self) -> None:
        """See ``Engine.close``."""
        self._request = None


@cache
def _core() -> Any:
    return ov.Core()


def cpu_capabilities() -> frozenset[str]:
    """What this CPU computes in without detours, in OpenVINO's words: ``FP32``, ``BF16``, ``FP16``, ``INT8``."""
    return frozenset(str(name) for name in _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


def _properties(entry: EngineEntry, options: EngineOptions) -> dict[str, Any]:
    return {
        PRECISION_HINT: str(entry.options[PRECISION_HINT]),
        # 0: what is not said to be int8 is not made int8, whatever this version of the runtime does by default.
        GROUP_SIZE: int(entry.options.get(GROUP_SIZE) or 0),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": options.threads,
        # Several processes on one machine would all pin themselves to CPU 0.
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": KERNEL_CACHE,
    }


def load_engine(entry: EngineEntry, model_file: Path, options: EngineOptions) -> OpenVINOEngine:
    """Load an OpenVINO IR (the .xml; its .bin lies beside it); see ``catalogue.Loader``."""
    return OpenVINOEngine(entry, model_file, options)


def convert(onnx_file: Path, target: Path) -> str:
    """Convert an ONNX file into an OpenVINO model (.xml, with its .bin beside it), weights in fp32.

    Returns:
        OpenVINO's version.
    """
    _save(ov.convert_model(str(onnx_file)), target)
    return str(ov.get_version())


def convert_module(
    module: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], example: tuple[Any, ...], target: Path
) -> str:
    """Trace a PyTorch module into an OpenVINO model (.xml, with its .bin beside it), weights in fp32.

    Args:
        module: in eval mode; takes tensors in the order of ``inputs``.
        inputs: names and shapes, INT64; -1 is an axis of any size.
        outputs: names, in the order of what the module answers.
        example: tensors to trace with.
        target: the .xml.

    Returns:
        OpenVINO's version.
    """
    shapes = [ov.PartialShape(list(spec.shape)) for spec in inputs]
    model = ov.convert_model(module, example_input=example, input=shapes)
    for port, spec in zip((*model.inputs, *model.outputs), (*inputs, *outputs), strict=True):
        port.get_tensor().set_names({spec.name})
    _save(model, target)
    return str(ov.get_version())


def _save(model: Any, target: Path) -> None:
    """Write a model with fp32 weights, in which whole numbers stay whole in bf16 too, which knows them up to 256.

    Told to compute in bf16, OpenVINO does so with what a graph computes in floats on the way from integers to integers
    as well: DeBERTa's logarithmic buckets of positions became others. Such nodes get OpenVINO's own mark for what keeps
    its precision, in the file, as the bindings can't set it.
    """
    ov.save_model(model, str(target), compress_to_fp16=False)
    names = _between_integers(model)
    if names:
        tree = ET.parse(target)  # noqa: S314 - it was written a line above
        for layer in tree.iter("layer"):
            if layer.get("name") in names:
                info = layer.find("rt_info")
                info = ET.SubElement(layer, "rt_info") if info is None else info
                ET.SubElement(info, "attribute", name="precise", version="0")
        tree.write(target, encoding="utf-8", xml_declaration=True)


def _between_integers(model: Any) -> set[str]:
    """Names of nodes that compute floats of nothing but integers and single constants, for nodes that want integers."""
    names: set[str] = set()
    for node in model.get_ordered_ops():
        reals = [value for value in node.input_values() if value.get_element_type().is_real()]
        derived = [value for value in reals if value.get_node().get_friendly_name() in names]
        single = [value for value in reals if value.get_node().get_type_name() == "Constant" and _size(value) == 1]
        from_integers = node.get_type_name() == "Convert" and not reals
        if from_integers or (derived and len(derived) + len(single) == len(reals)):
            names.add(node.get_friendly_name())
    wanted: set[str] = set()
    for node in reversed(model.get_ordered_ops()):
        if node.get_friendly_name() not in names:
            continue
        result = node.output(0)
        readers = {port.get_node().get_friendly_name() for port in result.get_target_inputs()}
        if not result.get_element_type().is_real() or readers & wanted:
            wanted.add(node.get_friendly_name())
    return wanted


def _size(value: Any) -> int:
    return int(np.prod(value.get_shape()))


def compress_weights(source: Path, target: Path, *, narrowest: int) -> list[int]:
    """Write a model again with the weights of its matrix products in int8, for engines with ``GROUP_SIZE``.

    A scale for each output channel, symmetric: weight = int8 * scale, scale = largest absolute value / 127.

    Args:
        source: the .xml of an fp32 model.
        target: the .xml to write, with its .bin beside it.
        narrowest: least size of both axes; products with narrower weights stay as they are, as heads do.

    Returns:
        Of each product with int8 weights the width of the states that it reads. What is the same for every input, as a
        product of two constants, is none of them: it is computed but once, when the model is loaded.
    """
    model, widths = _core().read_model(str(source)), []
    fed: set[str] = set()  # what depends on an input
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Parameter" or any(v.get_node().get_name() in fed for v in node.input_values()):
            fed.add(node.get_name())
        if node.get_type_name() != "MatMul" or node.input_value(0).get_node().get_name() not in fed:
            continue
        if node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        weights = np.array(node.input_value(1).get_node().get_data(), np.float32)
        if weights.ndim != 2 or min(weights.shape) < narrowest:
            continue
        inner = 1 if node.get_attributes()["transpose_b"] else 0
        node.input(1).replace_source_output(_int8_weights(weights, inner).output(0))
        widths.append(int(weights.shape[inner]))
    model.validate_nodes_and_infer_types()
    ov.save_model(model, str(target), compress_to_fp16=False)
    return widths


def _int8_weights(weights: npt.NDArray[np.float32], inner: int) -> Any:
    """The node that stands for weights [inner, channels], or the other way round: ``inner`` is the axis of the sums."""
    scales = np.maximum(np.abs(weights).max(axis=inner, keepdims=True) / 127, np.finfo(np.float32).tiny)
    whole = opset.constant(np.rint(weights / scales).astype(np.int8))
    return opset.multiply(opset.convert(whole, "f32"), opset.constant(scales.astype(np.float32)))


@cache
def takes_groups(width: int, group: int) -> bool:
    """Whether OpenVINO computes a product in int8 on this CPU; where not, it computes it in floats and says nothing.

    A product is tried, with such groups and with none: floats answer both alike. OpenVINO 2026.4 on AVX512-VNNI took
    multiples of 16 up to the states' own width, which a group need not divide: the rest gets a scale of its own.

    Args:
        width: of the states that the product reads.
        group: neighbouring values of a state that share a scale.
    """
    random = np.random.default_rng(0)
    states = random.standard_normal((1, 16, width), dtype=np.float32)
    row = opset.parameter([1, -1, width], np.float32)
    weights = _int8_weights(random.standard_normal((64, width), dtype=np.float32), inner=1)
    model = ov.Model([opset.matmul(row, weights, False, True)], [row])
    floats, grouped = (
        np.array(_core().compile_model(model, DEVICE, {PRECISION_HINT: "f32", GROUP_SIZE: size})(states)[0])
        for size in (0, group)
    )
    return not np.allclose(grouped, floats, rtol=0, atol=1e-4 * float(np.abs(floats).max()))


def _failed(what: str, error: Exception) -> EngineFailed:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return EngineFailed(what, found=f"{type(error).__name__}: {lines[-1] if lines else ''}")
