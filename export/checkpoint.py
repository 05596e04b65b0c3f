"""Reading a checkpoint folder: everything that can be wrong with it is found here, before anything is exported."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.digest import file_digest
from ..bundle.errors import InvalidInput, NotFound, Unsupported
from ..bundle.manifest import Source
from ..bundle.specs import ModelSpec
from .architectures import Architecture, architecture_of, build_model, model_config
from .labels import decide_activation, decide_task, labels_for_head, read_labels
from .tokenizer import has_tokenizer, read_tokenizer
from .weights import Tensors, WeightSet, check_tensors, find_weights, open_weights, same_values, weight_names

PACKAGES = ("nlpdeploy", "torch", "transformers", "tokenizers", "safetensors")
A_CHECKPOINT = "the folder that save_pretrained or the Trainer wrote: config.json, weights and tokenizer"
CHECKPOINT_FOLDER = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A fine-tuned classifier on disk, read and found whole.

    Attributes:
        path: the folder that was really read; of a Trainer's output folder it may be a ``checkpoint-N`` inside.
        config: ``config.json``.
        weights: the files that hold the tensors loaded.
        model: task, output function, labels, limits.
        source: digests, architecture, versions, notes, for the manifest.
        tokenizer_json: the tokenizer in the form of the ``tokenizers`` library, without padding, cut at ``max_length``.
        inputs: names of what the model's forward is fed, ``input_ids`` first.
        notes: what was taken by default or deserves a warning, a sentence each.
    """

    path: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    model: ModelSpec
    source: Source
    tokenizer_json: str
    inputs: tuple[str, ...]
    notes: tuple[str, ...]


def read_checkpoint(
    path: Path,
    *,
    task: str | None = None,
    activation: str | None = None,
    weights: str | None = None,
    labels: Path | None = None,
    pair: bool = False,
) -> Checkpoint:
    """Read a Transformers classification folder and check it against itself.

    Args:
        path: a folder with ``config.json``, a Trainer's output folder, or a weights file inside such a folder.
        task: ``classification``, ``multi-label`` or ``regression`` instead of what ``problem_type`` says.
        activation: ``softmax``, ``sigmoid`` or ``none`` instead of the task's own.
        weights: name of the weights file to load, where there are several that differ.
        labels: text file of labels, one a line, instead of those in ``config.json``.
        pair: the model reads pairs of texts.

    Raises:
        NotFound: no folder, no ``config.json``, no weights, no tokenizer.
        InvalidInput: a file is damaged, or files contradict each other.
        Unsupported: another architecture, head or kind of checkpoint.
    """
    folder, weights, notes = _resolve(path, weights)
    config = _read_config(folder)
    architecture = architecture_of(config, task_given=task is not None)

    chosen, tensors, expected, weight_notes = _choose_weights(folder, config, architecture, weights)
    rows = int(tensors[architecture.head].shape[0])
    given = read_labels(labels) if labels is not None else None
    names, label_notes = labels_for_head(config, rows, given)
    unused = check_tensors(chosen.file, tensors, expected)

    kind = decide_task(config, rows, task)
    function, why, function_notes = decide_activation(config, kind, rows, activation, task_given=task is not None)

    settings = model_config(architecture, config, rows)
    inputs = architecture.input_names(settings)
    holder, holder_notes = _tokenizer_folder(folder)
    tokenizer = read_tokenizer(
        holder,
        settings,
        positions=architecture.usable_positions(settings),
        token_types="token_type_ids" in inputs,
    )
    notes += weight_notes + label_notes + function_notes + holder_notes + list(tokenizer.notes)
    notes += _tensor_notes(tensors, expected, unused)
    return Checkpoint(
        path=folder,
        config=config,
        weights=chosen.shards,
        model=ModelSpec(
            task=kind,
            activation=function,
            activation_source=why,
            labels=names,
            pair=pair,
            max_length=tokenizer.max_length,
            pad_id=tokenizer.pad_id,
        ),
        source=Source(
            path=str(path),
            weights={file.name: file_digest(file) for file in chosen.shards},
            config=file_digest(folder / "config.json"),
            architecture=architecture.class_name,
            model_type=architecture.model_type,
            parameters=sum(tensor.numel() for tensor in expected.values()),
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
            notes=tuple(notes),
        ),
        tokenizer_json=tokenizer.text,
        inputs=inputs,
        notes=tuple(notes),
    )


def load_torch(checkpoint: Checkpoint, *, attention: str = "eager") -> Any:
    """The model as a PyTorch module: fp32, in eval mode, every tensor from the checkpoint's files.

    Args:
        checkpoint: as read.
        attention: ``eager`` or ``sdpa``.

    Returns:
        A Transformers ``*ForSequenceClassification``; its forward takes ``checkpoint.inputs``, INT64 [rows, length],
        and answers an object with ``logits`` [rows, classes].

    Raises:
        InvalidInput: a tensor holds a NaN or an infinity, or the files changed since they were read.
        Unsupported: the architecture doesn't have that kind of attention.
    """
    import torch

    architecture = architecture_of(checkpoint.config, task_given=True)
    config = model_config(architecture, checkpoint.config, len(checkpoint.model.labels))
    model = build_model(architecture, config, attention=attention)
    own = model.state_dict()
    files = WeightSet(checkpoint.weights[0], checkpoint.weights)
    tensors, _ = open_weights(files, own, architecture.head)
    check_tensors(files.file, tensors, own)
    for name, tensor in own.items():
        if not torch.isfinite(tensors[name]).all():
            raise InvalidInput(f"{files.file}: {name} holds NaN or infinity", mend="take an earlier checkpoint")
        tensor.copy_(tensors[name])
    return model.requires_grad_(False).eval()


def _resolve(path: Path, weights: str | None) -> tuple[Path, str | None, list[str]]:
    """The folder to read, the weights file asked for, and what to say about the choice."""
    if path.is_file():
        return path.parent, weights or path.name, []
    if not path.is_dir():
        raise NotFound(f"no checkpoint folder {path}", wanted=A_CHECKPOINT)
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise Unsupported(
            f"{path} holds an adapter without its base model",
            mend="merge it first: model.merge_and_unload().save_pretrained(FOLDER)",
        )
    whole = (path / "config.json").is_file() and (weights is not None or weight_names(path))
    steps = {int(m[1]): p for p in path.iterdir() if p.is_dir() and (m := CHECKPOINT_FOLDER.fullmatch(p.name))}
    if whole or not steps:
        return path, weights, []
    last = steps[max(steps)]
    best = _best_checkpoint(last)
    if best is not None and (path / best).is_dir():
        return path / best, weights, [f"{path} holds no model of its own: {best}, the best by its metric, was read"]
    return last, weights, [f"{path} holds no model of its own: {last.name}, the last one, was read"]


def _best_checkpoint(folder: Path) -> str | None:
    """The folder name that the Trainer recorded as its best so far."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        best = state["best_model_checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Path(best).name if isinstance(best, str) else None


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise NotFound(f"{folder} is no checkpoint: it holds no config.json", wanted=A_CHECKPOINT) from None
    except OSError as error:
        raise InvalidInput(f"{file} can't be read ({error.strerror})") from None
    except ValueError as error:
        raise InvalidInput(f"{file} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InvalidInput(f"{file}", found=type(config).__name__, wanted="an object")
    if "quantization_config" in config:
        raise Unsupported(f"{file} describes quantised weights", wanted="fp32, bf16 or fp16 weights")
    return config


def _choose_weights(
    folder: Path, config: Mapping[str, Any], architecture: Architecture, wanted: str | None
) -> tuple[WeightSet, Tensors, Tensors, list[str]]:
    """The weight set to load, its tensors, the model's own, and notes; several sets must agree with each other."""
    sets = find_weights(folder, wanted)
    # The number of classes is the weights' to tell; no other tensor depends on it.
    names = build_model(
        architecture, model_config(architecture, config, 2), attention="eager", device="meta"
    ).state_dict()
    chosen = sets[0]
    tensors, prefix = open_weights(chosen, names, architecture.head)
    rows = tensors[architecture.head].shape
    if len(rows) != 2:
        raise InvalidInput(f"{chosen.file}: shape of {architecture.head}", found=list(rows), wanted="[classes, hidden]")
    settings = model_config(architecture, config, int(rows[0]))
    expected = build_model(architecture, settings, attention="eager", device="meta").state_dict()
    notes = [f"the prefix {prefix!r} was taken off the tensors' names"] if prefix else []
    for other in sets[1:]:
        if not same_values(tensors, open_weights(other, names, architecture.head)[0], names):
            raise InvalidInput(
                f"{folder} holds two sets of weights that differ",
                found=f"{chosen.file.name} and {other.file.name}",
                mend=f"choose with --weights {chosen.file.name} or --weights {other.file.name}",
            )
        notes.append(f"{other.file.name} holds the same weights as {chosen.file.name}, which was loaded")
    return chosen, tensors, expected, notes


def _tokenizer_folder(folder: Path) -> tuple[Path, list[str]]:
    """Where the tokenizer is: a Trainer that wasn't given it leaves it beside its ``checkpoint-N`` folders."""
    beside = folder.resolve().parent
    if not has_tokenizer(folder) and CHECKPOINT_FOLDER.fullmatch(folder.resolve().name) and has_tokenizer(beside):
        return beside, [f"{folder.name} holds no tokenizer: the one of {beside} was read"]
    return folder, []


def _tensor_notes(tensors: Tensors, expected: Tensors, unused: list[str]) -> list[str]:
    kinds = sorted({str(tensors[name].dtype).removeprefix("torch.") for name in expected})
    notes = []
    if kinds != ["float32"]:
        notes.append(f"weights are stored in {', '.join(kinds)} and were widened to float32")
    if unused:
        notes.append(f"{len(unused)} tensors that take no part in the answers were left out, e.g. {unused[0]}")
    return notes
