"""Checkpoint -> fp32 ONNX graph: which exporter, which names, which axes are free. Knows no runtime's engine files."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.errors import EngineFailed
from ..bundle.specs import TensorSpec
from .architectures import ARCHITECTURES
from .checkpoint import Checkpoint
from .passes.files import save_model
from .passes.fuse import Fusion, fuse

if TYPE_CHECKING:
    import torch

TRACER_OPSET = 17
TORCH_EXPORT_OPSET = 20
OUTPUT = "logits"


@dataclass(frozen=True)
class Graph:
    """An fp32 ONNX graph of a classifier.

    Attributes:
        file: the ONNX file; weights over 2 GB lie beside it as external data.
        inputs: INT64 [-1, -1] each.
        outputs: ``logits`` FP32 [-1, classes].
        layers: transformer layers.
        hidden_size: width of the residual stream.
        heads: attention heads of a layer.
        model_type: as in ``config.json``.
        opset: of the default ONNX domain.
        exporter: which exporter made it, and why that one.
        fused: the same graph with ONNX Runtime's fused operators.
        fusion: how much of it is fused.
        checkpoint: what it was made from, for engines that are made from PyTorch.
    """

    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: int
    hidden_size: int
    heads: int
    model_type: str
    opset: int
    exporter: str
    fused: Path
    fusion: Fusion
    checkpoint: Checkpoint


@dataclass(frozen=True)
class _Exporter:
    name: str
    opset: int
    export: Callable[[Any, tuple[str, ...], tuple[Any, ...], Path], None]


def export_graph(module: torch.nn.Module, checkpoint: Checkpoint, folder: Path) -> Graph:
    """Export with the exporter whose graph ONNX Runtime can fuse wholly.

    The tracer comes first: its graph is the one that the fusions of ONNX Runtime's transformer optimizer were written
    for. Only where it raises, or where its graph isn't fused wholly, ``torch.export`` is paid for too.

    Args:
        module: a Transformers sequence classifier in eval mode with eager attention (its matrix products and softmax
            are what fusion recognises).
        checkpoint: tells the inputs, the classes and the usable length.
        folder: an existing folder for the files.

    Raises:
        EngineFailed: no exporter can export it, with what each said.
    """
    graphs: list[Graph] = []
    failures: list[str] = []
    for exporter in EXPORTERS:
        try:
            graph = _export_with(exporter, module, checkpoint, folder)
        except Exception as error:  # noqa: BLE001 - exporters raise whatever the model's own code trips over
            failures.append(f"{exporter.name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            continue
        graphs.append(graph)
        if graph.fusion.whole:
            break
    if not graphs:
        raise EngineFailed("the graph can't be exported", found=" | ".join(failures))
    return max(graphs, key=lambda graph: graph.fusion.fused_nodes)  # the first of equals


def export_standard(module: torch.nn.Module, checkpoint: Checkpoint, file: Path) -> int:
    """Export standard operators alone, layer normalisation and Gelu whole: what strongly typed builders want.

    Args:
        module: a Transformers sequence classifier in eval mode with eager attention; other kinds of attention come out
            as twice the layers.
        checkpoint: tells the inputs, the classes and the usable length.
        file: where the fp32 graph goes; its folder exists. Weights over 2 GB lie beside it as external data.

    Returns:
        The opset of the default domain.

    Raises:
        EngineFailed: it can't be exported, or inputs and outputs are not those that were asked for.
    """
    import onnx

    raw = file.with_name(f"{file.stem}-raw") / "model.onnx"
    raw.parent.mkdir()
    try:
        with silence():
            _torch_export(_only_logits(module, checkpoint.inputs), checkpoint.inputs, _sample(checkpoint), raw)
        model = onnx.load(str(raw))
    except Exception as error:  # noqa: BLE001 - exporters raise whatever the model's own code trips over
        line = (str(error).splitlines() or [""])[0]
        raise EngineFailed("the graph can't be exported", found=f"{type(error).__name__}: {line}") from None
    finally:
        shutil.rmtree(raw.parent)
    inputs, outputs = _specs(model)
    _check_interface(inputs, outputs, model, checkpoint)
    save_model(model, file)
    onnx.checker.check_model(str(file))
    return next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))


def _export_with(exporter: _Exporter, module: Any, checkpoint: Checkpoint, folder: Path) -> Graph:
    import onnx

    config = module.config
    raw = folder / exporter.name / "raw" / "model.onnx"
    raw.parent.mkdir(parents=True)
    with silence():
        exporter.export(_only_logits(module, checkpoint.inputs), checkpoint.inputs, _sample(checkpoint), raw)
    model = onnx.load(str(raw))
    shutil.rmtree(raw.parent)
    inputs, outputs = _specs(model)
    _check_interface(inputs, outputs, model, checkpoint)
    file = folder / exporter.name / "model.onnx"
    save_model(model, file)
    onnx.checker.check_model(str(file))
    fused = folder / exporter.name / "fused.onnx"
    layers, hidden_size, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    fusible = ARCHITECTURES[config.model_type].fusible
    fusion = fuse(file, fused, layers=layers, hidden_size=hidden_size, heads=heads, fusible=fusible)
    return Graph(
        file=file,
        inputs=inputs,
        outputs=outputs,
        layers=layers,
        hidden_size=hidden_size,
        heads=heads,
        model_type=config.model_type,
        opset=next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")),
        exporter=f"{exporter.name}: {fusion}",
        fused=fused,
        fusion=fusion,
        checkpoint=checkpoint,
    )


def _only_logits(module: Any, names: tuple[str, ...]) -> Any:
    """The module as a function of its inputs in order that gives logits alone."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.model(**dict(zip(names, values, strict=True))).logits
            return answer

    # The exporters put back the mode that they found, into the module inside too.
    return Logits().eval()


def _sample(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Two rows, the second one padded: shapes for a trace, whose sizes mustn't matter."""
    import torch

    length = max(2, min(8, checkpoint.model.max_length))
    values = {name: torch.zeros((2, length), dtype=torch.int64) for name in checkpoint.inputs}
    values["attention_mask"] = torch.ones((2, length), dtype=torch.int64)
    values["attention_mask"][1, length // 2 :] = 0
    values["input_ids"] += 1
    values["input_ids"][1, length // 2 :] = checkpoint.model.pad_id
    return tuple(values[name] for name in checkpoint.inputs)


def _trace(module: Any, names: tuple[str, ...], sample: tuple[Any, ...], file: Path) -> None:
    import torch

    torch.onnx.export(
        module,
        sample,
        str(file),
        input_names=list(names),
        output_names=[OUTPUT],
        dynamic_axes={**{name: {0: "batch", 1: "length"} for name in names}, OUTPUT: {0: "batch"}},
        opset_version=TRACER_OPSET,
        dynamo=False,
    )


def _torch_export(module: Any, names: tuple[str, ...], sample: tuple[Any, ...], file: Path) -> None:
    import torch

    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)}
    torch.onnx.export(
        module,
        sample,
        str(file),
        input_names=list(names),
        output_names=[OUTPUT],
        dynamic_shapes=(tuple(axes for _ in names),),
        opset_version=TORCH_EXPORT_OPSET,
        dynamo=True,
        verbose=False,
    )


EXPORTERS = (_Exporter("tracer", TRACER_OPSET, _trace), _Exporter("torch.export", TORCH_EXPORT_OPSET, _torch_export))


def _specs(model: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    from onnx import TensorProto

    words = {TensorProto.INT64: "INT64", TensorProto.FLOAT: "FP32"}

    def spec(value: Any) -> TensorSpec:
        tensor = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        return TensorSpec(value.name, words.get(tensor.elem_type, TensorProto.DataType.Name(tensor.elem_type)), shape)

    return tuple(map(spec, model.graph.input)), tuple(map(spec, model.graph.output))


def _check_interface(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], model: Any, checkpoint: Checkpoint
) -> None:
    """The names, types and free axes that were asked for; one symbol for the batch in all of them."""
    wanted = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in checkpoint.inputs)
    logits = (TensorSpec(OUTPUT, "FP32", (-1, len(checkpoint.model.labels))),)
    if (inputs, outputs) != (wanted, logits):
        raise EngineFailed("inputs and outputs of the exported graph", found=(inputs, outputs), wanted=(wanted, logits))
    batch = {value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)}
    length = {value.type.tensor_type.shape.dim[1].dim_param for value in model.graph.input}
    if len(batch) != 1 or len(length) != 1:
        raise EngineFailed("axes of the exported graph", found=f"{batch}, {length}", wanted="one symbol each")


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
