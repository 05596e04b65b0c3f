"""Weight files of a checkpoint folder: which there are, what is in them, whether two of them agree.

Pickles are opened with PyTorch's weights-only reader; files of the training state (optimizer, scheduler, random
generators, training arguments) are never opened.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.errors import InvalidInput, NotFound, Unsupported

CANDIDATES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""File names in the order in which Transformers tries them."""

HARMLESS = re.compile(
    r"(^|\.)(position_ids|token_type_ids)$"  # buffers that older versions saved
    r"|(^|\.)pooler\."  # where the classifier has no pooler; where it has one, its tensors are expected
    r"|^(cls|lm_head|vocab_transform|vocab_layer_norm|vocab_projector|discriminator_predictions|generator_\w+)\."
    r"|^(loss\w*|criterion|class_weights?|\w*metrics?)(\.|$)"  # of the training loop
)
"""Tensors that a file may hold beside the model's own, as they take no part in its answers."""

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class WeightSet:
    """One complete set of weights: a file, or an index with its shards.

    Attributes:
        file: the file that names the set.
        shards: the files that hold tensors.
    """

    file: Path
    shards: tuple[Path, ...]


def find_weights(folder: Path, wanted: str | None) -> tuple[WeightSet, ...]:
    """The weight sets of a folder, the preferred one first; with ``wanted`` exactly that one.

    Raises:
        NotFound: no weights, or not the wanted file.
        InvalidInput: an index that lists missing files or is no index.
        Unsupported: only weights of another framework, or an adapter without its base.
    """
    if wanted is not None:
        file = folder / wanted
        if not file.is_file():
            raise NotFound(f"weights file {file}", wanted=f"one of {', '.join(weight_names(folder)) or 'none there'}")
        return (_weight_set(file),)
    names = weight_names(folder)
    if not names:
        _refuse_without_weights(folder)
    return tuple(_weight_set(folder / name) for name in names)


def weight_names(folder: Path) -> list[str]:
    """Names of the weight sets in a folder; a training framework's ``.ckpt`` counts only where nothing else is."""
    names = [name for name in CANDIDATES if (folder / name).is_file()]
    return names or sorted(path.name for path in folder.glob("*.ckpt") if path.is_file())


def _refuse_without_weights(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise Unsupported(
            f"{folder} holds an adapter without its base model",
            mend="merge it first: model.merge_and_unload().save_pretrained(FOLDER)",
        )
    foreign = sorted(p.name for p in folder.iterdir() if p.suffix in (".h5", ".msgpack", ".onnx", ".gguf"))
    if foreign:
        raise Unsupported(f"weights of {folder}", found=", ".join(foreign), wanted="PyTorch weights")
    raise NotFound(f"{folder} is no checkpoint: it holds no weights", wanted=f"one of {', '.join(CANDIDATES)}")


def _weight_set(file: Path) -> WeightSet:
    if not file.name.endswith(".index.json"):
        return WeightSet(file, (file,))
    try:
        names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{file} is no index of shards ({error})") from None
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise InvalidInput(f"{file} lists shards outside its folder", found=", ".join(map(str, outside)))
    missing = [name for name in names if not (file.parent / name).is_file()]
    if missing:
        raise InvalidInput(f"{file} lists shards that are missing", found=", ".join(missing), mend="copy them too")
    return WeightSet(file, tuple(file.parent / name for name in names))


def open_weights(weights: WeightSet, needed: Iterable[str], head: str) -> tuple[dict[str, Any], str]:
    """The tensors of a set by the model's own names. They are mapped, not read, until they are used.

    Args:
        weights: the set.
        needed: names of the tensors that the model has.
        head: the one among them by which a prefix is recognised.

    Returns:
        The tensors, and the prefix that was taken off their names (``model.`` of a training framework, ``module.`` of
        DataParallel), mostly empty.

    Raises:
        InvalidInput: a file is truncated, corrupt, no weights file, or a needed tensor is missing.
    """
    tensors: dict[str, Any] = {}
    for shard in weights.shards:
        tensors |= _open_file(shard)
    tensors = {_modern_name(name): tensor for name, tensor in tensors.items()}
    needed = set(needed)
    prefixes = {name.removesuffix(head) for name in tensors if name.endswith(head)} or {""}
    prefix = min(prefixes, key=lambda p: (sum(p + name not in tensors for name in needed), len(p)))
    missing = sorted(name for name in needed if prefix + name not in tensors)
    if missing:
        raise InvalidInput(
            f"{weights.file} lacks {_some(missing)}, which would be filled with random numbers",
            wanted=f"all {len(needed)} tensors of the model",
            mend="export the fine-tuned checkpoint, not the pretrained one, and check that saving it came to its end",
        )
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}, prefix


def check_tensors(file: Path, tensors: Tensors, expected: Tensors) -> list[str]:
    """Compare a file's tensors with the model's own names and shapes.

    Returns:
        Names of tensors in the file that take no part in the answers.

    Raises:
        InvalidInput: a shape differs, or the file holds tensors that the model would leave out.
    """
    for name, tensor in expected.items():
        if tuple(tensors[name].shape) != tuple(tensor.shape):
            raise InvalidInput(
                f"{file}: shape of {name}",
                found=list(tensors[name].shape),
                wanted=f"{list(tensor.shape)}, as config.json says",
                mend="use the config.json that was saved with these weights",
            )
    others = sorted(tensors.keys() - expected.keys())
    needed = [name for name in others if not HARMLESS.search(name)]
    if needed:
        raise InvalidInput(
            f"{file} holds tensors that this model would leave out, so its answers would differ",
            found=_some(needed),
            mend="use the config.json that was saved with these weights; merge adapters first",
        )
    return others


def same_values(first: Tensors, second: Tensors, names: Iterable[str]) -> bool:
    """Whether both files hold the same numbers under these names."""
    import torch

    return all(
        tuple(first[name].shape) == tuple(second[name].shape)
        and torch.equal(first[name].to(torch.float32), second[name].to(torch.float32))
        for name in names
    )


def _refused_part(error: pickle.UnpicklingError) -> str:
    """What PyTorch met that is no tensor, without its advice to read the file as code."""
    told = re.search(r"Weights\w*Unpickler error: *(\S[^\n]*)", str(error))
    return told[1] if told else "it holds more than tensors, or is no pickle of PyTorch's"


def _open_file(file: Path) -> dict[str, Any]:
    import safetensors.torch
    import torch

    with file.open("rb") as stream:
        if stream.read(24).startswith(b"version https://git-lfs"):
            raise InvalidInput(f"{file} is a Git LFS pointer, not the file itself", mend="run `git lfs pull`")
    try:
        if file.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(file))
        zipped = zipfile.is_zipfile(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign pickle's protocol; what can't be read is said below
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise InvalidInput(
            f"{file} can't be read with weights alone ({_refused_part(error)})",
            mend="save the bare state_dict, or safetensors: model.save_pretrained(FOLDER)",
        ) from None
    except Exception as error:  # noqa: BLE001  (the readers raise what they like on a damaged file)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInput(
            f"weights file {file} is damaged or truncated ({reason})", mend="copy it again and compare its size"
        ) from None
    return _state_dict(file, loaded)


def _state_dict(file: Path, loaded: Any) -> dict[str, Any]:
    import torch

    inner = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(inner, Mapping) or not all(isinstance(value, torch.Tensor) for value in inner.values()):
        raise InvalidInput(f"{file} is no state_dict", found=type(loaded).__name__, wanted="tensors by name")
    return {str(name): tensor for name, tensor in inner.items()}


def _modern_name(name: str) -> str:
    """TensorFlow's names of a LayerNorm's tensors, as the first BERT files have them, in PyTorch's words."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
