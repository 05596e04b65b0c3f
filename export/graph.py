"""Checkpoint -> fp32 ONNX graphs, as checkpoints read texts and packed: the exporter whose graph is fused best.

Knows no runtime's engine files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.errors import EngineFailed
from ..bundle.specs import TensorSpec
from ..runtime.text import Row
from .architectures import ARCHITECTURES
from .checkpoint import Checkpoint
from .exporters import EXPORTERS, Exporter, Interface, check_interface, silence, torch_export
from .packed import PackedModel, traced_rows
from .passes.files import save_model
from .passes.fuse import Fusion, fuse

if TYPE_CHECKING:
    import torch

OUTPUT = "logits"


@dataclass(frozen=True)
class Graph:
    """An fp32 ONNX graph of a classifier.

    Attributes:
        file: the ONNX file; weights over 2 GB lie beside it as external data.
        inputs: INT64 [-1, -1] each; of a packed graph as in ``PackedModel``.
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
    interface = _interface(checkpoint)
    return _best(_only_logits(module, checkpoint.inputs), module.config, interface, checkpoint, folder)


def export_packed(packed: PackedModel, rows: Sequence[Row], checkpoint: Checkpoint, folder: Path) -> Graph:
    """:func:`export_graph` for a packed classifier.

    Args:
        packed: made of a classifier with eager attention.
        rows: real rows, at least one.
        checkpoint: what it was made from.
        folder: an existing folder for the files.

    Raises:
        EngineFailed: no exporter can export it, with what each said.
    """
    texts, tokens = {0: "texts"}, {1: "tokens"}
    axes = {spec.name: tokens if len(spec.shape) == 2 else texts for spec in packed.inputs}
    sample = packed.tensors(traced_rows(rows), checkpoint.model.pad_id)
    # DeBERTa counts the distance of two tokens, not where they stand.
    unread = frozenset({"position_ids"})
    interface = Interface(packed.inputs, packed.outputs, {**axes, OUTPUT: texts}, sample, optional=unread)
    module = _of_values(packed.module, lambda values: packed.module(*values))
    return _best(module, packed.module.base.config, interface, checkpoint, folder)


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
    interface = _interface(checkpoint)
    try:
        with silence():
            torch_export(_only_logits(module, checkpoint.inputs), interface, raw)
        model = onnx.load(str(raw))
    except Exception as error:  # noqa: BLE001 - exporters raise whatever the model's own code trips over
        line = (str(error).splitlines() or [""])[0]
        raise EngineFailed("the graph can't be exported", found=f"{type(error).__name__}: {line}") from None
    finally:
        shutil.rmtree(raw.parent)
    check_interface(model, interface)
    save_model(model, file)
    onnx.checker.check_model(str(file))
    return _opset(model)


def _best(module: Any, config: Any, interface: Interface, checkpoint: Checkpoint, folder: Path) -> Graph:
    graphs: list[Graph] = []
    failures: list[str] = []
    for exporter in EXPORTERS:
        try:
            graph = _export_with(exporter, module, config, interface, checkpoint, folder)
        except Exception as error:  # noqa: BLE001 - exporters raise whatever the model's own code trips over
            failures.append(f"{exporter.name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            continue
        graphs.append(graph)
        if graph.fusion.whole:
            break
    if not graphs:
        raise EngineFailed("the graph can't be exported", found=" | ".join(failures))
    return max(graphs, key=lambda graph: graph.fusion.fused_nodes)  # the first of equals


def _export_with(
    exporter: Exporter, module: Any, config: Any, interface: Interface, checkpoint: Checkpoint, folder: Path
) -> Graph:
    import onnx

    raw = folder / exporter.name / "raw" / "model.onnx"
    raw.parent.mkdir(parents=True)
    with silence():
        exporter.export(module, interface, raw)
    model = onnx.load(str(raw))
    shutil.rmtree(raw.parent)
    inputs = check_interface(model, interface)
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
        outputs=interface.outputs,
        layers=layers,
        hidden_size=hidden_size,
        heads=heads,
        model_type=config.model_type,
        opset=_opset(model),
        exporter=f"{exporter.name}: {fusion}",
        fused=fused,
        fusion=fusion,
        checkpoint=checkpoint,
    )


def _opset(model: Any) -> int:
    return next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))


def _only_logits(module: Any, names: tuple[str, ...]) -> Any:
    """The module as a function of its inputs in order that gives logits alone."""
    return _of_values(module, lambda values: module(**dict(zip(names, values, strict=True))).logits)


def _of_values(module: Any, answer: Callable[[tuple[Any, ...]], Any]) -> Any:
    """A module around another one, whose forward takes all inputs alike, as ``*values``."""
    import torch

    class Values(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *values: torch.Tensor) -> Any:
            return answer(values)

    # The exporters put back the mode that they found, into the module inside too.
    return Values().eval()


def _interface(checkpoint: Checkpoint) -> Interface:
    """Two rows, the second one padded; batch and length are free."""
    import torch

    length = max(2, min(8, checkpoint.model.max_length))
    values = {name: torch.zeros((2, length), dtype=torch.int64) for name in checkpoint.inputs}
    values["attention_mask"] = torch.ones((2, length), dtype=torch.int64)
    values["attention_mask"][1, length // 2 :] = 0
    values["input_ids"] += 1
    values["input_ids"][1, length // 2 :] = checkpoint.model.pad_id
    return Interface(
        tuple(TensorSpec(name, "INT64", (-1, -1)) for name in checkpoint.inputs),
        (TensorSpec(OUTPUT, "FP32", (-1, len(checkpoint.model.labels))),),
        {**{name: {0: "batch", 1: "length"} for name in checkpoint.inputs}, OUTPUT: {0: "batch"}},
        tuple(values[name] for name in checkpoint.inputs),
    )
