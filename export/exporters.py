"""PyTorch module -> ONNX file by one of PyTorch's exporters. Knows no architecture and no runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.errors import EngineFailed
from ..bundle.specs import TensorSpec

TRACER_OPSET = 17
TORCH_EXPORT_OPSET = 20
_LEAST = {"length": 2, "tokens": 2}
"""Of free axes, for ``torch.export``, which takes a size of one for a special case."""


@dataclass(frozen=True)
class Interface:
    """What goes into a module and comes out of it, in order.

    Attributes:
        inputs: with -1 for axes that are free.
        outputs: likewise.
        axes: by a tensor's name the symbols of its free axes, by their index.
        sample: tensors to trace the module with, whose sizes mustn't matter.
        optional: names of inputs that a module may leave unread; its graph then has none of that name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: Mapping[str, Mapping[int, str]]
    sample: tuple[Any, ...]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Exporter:
    """One of PyTorch's.

    Attributes:
        name: for manifests and messages.
        opset: of the default domain.
        export: writes a module with an interface to a file.
    """

    name: str
    opset: int
    export: Callable[[Any, Interface, Path], None]


def trace(module: Any, interface: Interface, file: Path) -> None:
    """Export what the sample's run does, operator by operator."""
    import torch

    torch.onnx.export(
        module,
        interface.sample,
        str(file),
        input_names=[spec.name for spec in interface.inputs],
        output_names=[spec.name for spec in interface.outputs],
        dynamic_axes={name: dict(axes) for name, axes in interface.axes.items()},
        opset_version=TRACER_OPSET,
        dynamo=False,
    )


def torch_export(module: Any, interface: Interface, file: Path) -> None:
    """Export what ``torch.export`` makes of the module's own code; its forward takes ``*values``."""
    import torch

    symbols = {symbol for axes in interface.axes.values() for symbol in axes.values()}
    dims = {symbol: torch.export.Dim(symbol, min=_LEAST.get(symbol)) for symbol in symbols}
    shapes = tuple({i: dims[symbol] for i, symbol in interface.axes[spec.name].items()} for spec in interface.inputs)

    torch.onnx.export(
        module,
        interface.sample,
        str(file),
        input_names=[spec.name for spec in interface.inputs],
        output_names=[spec.name for spec in interface.outputs],
        dynamic_shapes=(shapes,),
        opset_version=TORCH_EXPORT_OPSET,
        dynamo=True,
        verbose=False,
    )


EXPORTERS = (Exporter("tracer", TRACER_OPSET, trace), Exporter("torch.export", TORCH_EXPORT_OPSET, torch_export))


def check_interface(model: Any, interface: Interface) -> tuple[TensorSpec, ...]:
    """See that an exported model has the names, types and free axes that were asked for.

    Args:
        model: an ``onnx.ModelProto``.
        interface: what was asked for.

    Returns:
        The inputs that it reads.

    Raises:
        EngineFailed: it has others, or axes of one symbol got several.
    """
    found = tuple(map(_spec, model.graph.input)), tuple(map(_spec, model.graph.output))
    unread = interface.optional - {spec.name for spec in found[0]}
    wanted = tuple(spec for spec in interface.inputs if spec.name not in unread), interface.outputs
    if found != wanted:
        raise EngineFailed("inputs and outputs of the exported graph", found=found, wanted=wanted)
    params: dict[str, set[str]] = {}
    for value in (*model.graph.input, *model.graph.output):
        for index, symbol in interface.axes[value.name].items():
            params.setdefault(symbol, set()).add(value.type.tensor_type.shape.dim[index].dim_param)
    if any(len(names) != 1 for names in params.values()):
        raise EngineFailed("axes of the exported graph", found=params, wanted="one symbol each")
    return found[0]


def _spec(value: Any) -> TensorSpec:
    from onnx import TensorProto

    words = {TensorProto.INT64: "INT64", TensorProto.FLOAT: "FP32"}
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return TensorSpec(value.name, words.get(tensor.elem_type, TensorProto.DataType.Name(tensor.elem_type)), shape)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Exporters warn by the dozen about what the tests hold: sizes that a trace could have baked in."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
