"""A classifier that reads all texts of a batch from one row without padding, made of the checkpoint's own layers.

The row is ``[1, T]``: one text behind the other, positions that start anew with each, and the number of the text that
each token belongs to. Attention gets a block-diagonal mask, a token sees its own text alone; the encoder's output at
each text's first token then goes through the model's own pooler and head. No padding is computed, and one text never
enters another's sums (Krell et al. 2021, https://arxiv.org/abs/2107.02027, do so in training).

Nothing of the architectures is written down anew, and nothing is taken on trust: the packed module must answer as the
checkpoint does for each text alone, or there is no packed engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.errors import Unsupported
from ..bundle.specs import Layout, TensorSpec
from ..runtime.batching import lay_out
from ..runtime.tasks import Floats
from ..runtime.text import Row
from .grid import evenly
from .limits import limits, logit_spread

if TYPE_CHECKING:
    import torch

CHECKED_ROWS = 48
BLOCKED = -1e4
"""Added to the scores between texts: exp(-1e4) is 0 in every precision, and the sum stays finite in fp16 too."""


@dataclass(frozen=True)
class PackedModel:
    """A packed classifier in PyTorch.

    Attributes:
        module: its forward takes the tensors of ``inputs`` in order and answers logits [texts, classes].
        inputs: ``input_ids``, ``position_ids``, ``segment_ids`` INT64 [1, -1], ``first_tokens`` INT64 [-1], and
            ``token_type_ids`` INT64 [1, -1] where the model has several types.
        outputs: ``logits`` FP32 [-1, classes].
        note: what was found when it was held against the checkpoint, in words.
    """

    module: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    note: str = ""

    def tensors(self, rows: Sequence[Row], pad_id: int) -> tuple[torch.Tensor, ...]:
        """Rows packed into one, as the tensors of ``inputs`` in order."""
        import torch

        feed = lay_out(rows, Layout.PACKED, self.inputs, pad_id)
        return tuple(torch.from_numpy(feed[spec.name]) for spec in self.inputs)

    def logits(self, rows: Sequence[Row], pad_id: int) -> Floats:
        """Logits [rows, classes] of rows that are packed into one."""
        import torch

        with torch.inference_mode():
            answer = self.module(*self.tensors(rows, pad_id))
        return np.asarray(answer.numpy(), dtype=np.float32)

    def products(self, rows: Sequence[Row], pad_id: int, *, narrowest: int) -> int:
        """How many products with a linear layer's weights one call computes from its texts; for what must be in int8.

        Layers that share their weights, as ALBERT's do, count each time. What a layer makes of the model's own tensors,
        as DeBERTa's of its relative positions, doesn't count: converters compute it beforehand, once and for all.

        Args:
            rows: real rows, at least one.
            pad_id: of the model.
            narrowest: least size of both axes of the weights.
        """
        import torch

        count = 0

        def seen(layer: Any, given: tuple[Any, ...], result: Any) -> None:
            nonlocal count
            count += given[0].requires_grad

        linear = (layer for layer in self.module.modules() if isinstance(layer, torch.nn.Linear))
        handles = [layer.register_forward_hook(seen) for layer in linear if min(layer.weight.shape) >= narrowest]
        # No weight asks for gradients, so whatever does has come from the embedded tokens. Cloned, since a model may
        # add to them in place.
        words = self.module.base.get_input_embeddings()
        handles.append(words.register_forward_hook(lambda layer, given, result: result.requires_grad_().clone()))
        try:
            with torch.enable_grad():
                self.module(*self.tensors(rows, pad_id))
        finally:
            for handle in handles:
                handle.remove()
        return count


def pack(model: Any, *, token_types: bool) -> PackedModel:
    """Make a packed classifier of a Transformers sequence classifier, which is taken apart for it.

    Args:
        model: in eval mode; it can't be used any more.
        token_types: whether it is fed ``token_type_ids``.

    Raises:
        Unsupported: a layer that reads neighbours across the border of two texts.
    """
    config = model.config
    if getattr(config, "conv_kernel_size", 0):
        raise Unsupported(
            f"packed rows of {config.model_type}", found="a convolution over neighbouring tokens", wanted="none"
        )
    names = ["input_ids", "position_ids", "segment_ids"] + (["token_type_ids"] if token_types else [])
    inputs = tuple(TensorSpec(name, "INT64", (1, -1)) for name in names)
    return PackedModel(
        _packed_module(model),
        (*inputs, TensorSpec("first_tokens", "INT64", (-1,))),
        (TensorSpec("logits", "FP32", (-1, int(config.num_labels))),),
    )


def checked_pack(model: Any, rows: Sequence[Row], pad_id: int, *, token_types: bool) -> PackedModel:
    """:func:`pack`, after which real texts in one row are held against each of them alone in the model as it was.

    Args:
        model: as for :func:`pack`.
        rows: real rows, at least one.
        pad_id: of the model.
        token_types: as for :func:`pack`.

    Raises:
        Unsupported: the architecture can't be packed, or its packed answers differ by more than fp32 rounding.
    """
    sample = evenly(sorted(rows, key=len), CHECKED_ROWS)
    # Short and long ones side by side, so that every border between texts is tried with unlike neighbours.
    sample = [row for pair in zip(sample, reversed(sample), strict=True) for row in pair][: len(sample)]
    want = np.concatenate([_alone(model, row, token_types) for row in sample])
    packed = pack(model, token_types=token_types)
    try:
        got = packed.logits(sample, pad_id)
    except Exception as error:  # noqa: BLE001  (a model's own code may trip over a mask that it doesn't expect)
        line = (str(error).splitlines() or [""])[0]
        raise Unsupported(
            f"packed rows of {model.config.model_type}", found=f"{type(error).__name__}: {line}", wanted="logits"
        ) from None
    allowed = limits("fp32", spread=logit_spread(want), noise_floor=0.0).tolerance
    difference = float(np.abs(got - want).max())
    if not difference <= allowed:
        raise Unsupported(
            f"packed rows of {model.config.model_type} answer otherwise than each text alone",
            found=f"a difference of {difference:.3g}",
            wanted=f"at most {allowed:.3g}",
        )
    note = f"{len(sample)} texts in one row differ from each alone by at most {difference:.2g} in PyTorch"
    return PackedModel(packed.module, packed.inputs, packed.outputs, note)


def traced_rows(rows: Sequence[Row]) -> list[Row]:
    """What a packed module is traced with, of at least one real row: three, whose number and length mustn't matter."""
    return (list(rows) * 3)[:3]


def _alone(model: Any, row: Row, token_types: bool) -> Floats:
    import torch

    feed = {"input_ids": row.input_ids, "attention_mask": np.ones(len(row), dtype=np.int64)}
    if token_types:
        feed["token_type_ids"] = row.token_type_ids
    with torch.inference_mode():
        logits = model(**{name: torch.from_numpy(value[None]) for name, value in feed.items()}).logits
    return np.asarray(logits.numpy(), dtype=np.float32)


def _packed_module(model: Any) -> Any:
    import torch

    base = getattr(model, model.base_model_prefix)
    offset = _position_offset(base)
    mask_of = _MASKS.get(model.config.model_type, _additive)
    pool = _mean_tokens if getattr(model.config, "classifier_pooling", "cls") == "mean" else _first_tokens
    if mask_of is _boolean:
        _leave_embeddings_unmasked(base)
    stub = _stub(base)
    setattr(model, model.base_model_prefix, stub)

    class Packed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = base
            self.model = model

        def forward(
            self,
            input_ids: torch.Tensor,
            position_ids: torch.Tensor,
            segment_ids: torch.Tensor,
            *others: torch.Tensor,
        ) -> torch.Tensor:
            *types, first_tokens = others
            same = segment_ids.unsqueeze(-1) == segment_ids.unsqueeze(-2)
            hidden = self.base(
                input_ids=input_ids,
                attention_mask=mask_of(same.unsqueeze(1), position_ids, self.base.config),
                position_ids=position_ids + offset,
                **({"token_type_ids": types[0]} if types else {}),
            )[0]
            stub.texts = pool(hidden[0], segment_ids[0], first_tokens).unsqueeze(1)
            # What is passed is not read: the stub stands for the encoder, and the head asks for its output alone.
            answer: torch.Tensor = self.model(input_ids=first_tokens.unsqueeze(1)).logits
            return answer

    return Packed().requires_grad_(False).eval()


def _stub(base: Any) -> Any:
    """Stands in the encoder's place when the model's own forward runs its head: answers the texts that it was given."""
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    pooler, activation = getattr(base, "pooler", None), getattr(base, "pooler_activation", None)
    if pooler is not None:
        base.pooler = None

    class Stub(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pooler = pooler
            self.texts: Any = None

        def forward(self, *_: Any, **__: Any) -> Any:
            texts, self.texts = self.texts, None
            pooled = None
            if self.pooler is not None:  # ALBERT's is a bare linear layer, others take the first token themselves
                pooled = activation(self.pooler(texts[:, 0])) if activation is not None else self.pooler(texts)
            return BaseModelOutputWithPooling(last_hidden_state=texts, pooler_output=pooled)

    return Stub()


def _leave_embeddings_unmasked(base: Any) -> None:
    """DeBERTa multiplies the embeddings by a mask [rows, length]; without padding there is nothing to blank out."""
    base.embeddings.register_forward_pre_hook(
        lambda module, given, named: (given, {**named, "mask": None}), with_kwargs=True
    )


def _position_offset(base: Any) -> int:
    """The position number of a row's first token, as the model itself gives it: RoBERTa's is 2.

    Models without learned positions (rotary, relative) have none.
    """
    import torch

    found = [
        module
        for name, module in base.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    ]
    if not found:
        return 0
    seen: list[Any] = []
    handle = found[0].register_forward_hook(lambda module, given, result: seen.append(given[0]))
    try:
        ids = torch.full((1, 4), _ordinary_id(base.config), dtype=torch.int64)
        with torch.inference_mode():
            base(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        handle.remove()
    return int(seen[0].reshape(-1)[0])


def _ordinary_id(config: Any) -> int:
    return next(i for i in range(config.vocab_size) if i != config.pad_token_id)


def _first_tokens(hidden: torch.Tensor, segments: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """[T, width] -> [texts, width]: what stands at each text's first token."""
    return hidden.index_select(0, first)


def _mean_tokens(hidden: torch.Tensor, segments: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """[T, width] -> [texts, width]: the mean of each text's tokens."""
    mine = (segments.unsqueeze(0) == segments.index_select(0, first).unsqueeze(1)).to(hidden.dtype)
    return (mine @ hidden) / mine.sum(1, keepdim=True)


def _additive(same: torch.Tensor, positions: torch.Tensor, config: Any) -> Any:
    """[1, 1, T, T]: 0 within a text, ``BLOCKED`` between texts; a boolean mask is added as 0 and 1 by eager layers."""
    return (~same).float() * BLOCKED


def _windowed(same: torch.Tensor, positions: torch.Tensor, config: Any) -> Any:
    """ModernBERT: every third layer sees the whole text, the others so many tokens to each side."""
    near = (positions.unsqueeze(-1) - positions.unsqueeze(-2)).abs() <= config.sliding_window
    return {
        "full_attention": _additive(same, positions, config),
        "sliding_attention": _additive(same & near.unsqueeze(1), positions, config),
    }


def _boolean(same: torch.Tensor, positions: torch.Tensor, config: Any) -> Any:
    return same


_MASKS: dict[str, Callable[[torch.Tensor, torch.Tensor, Any], Any]] = {
    "modernbert": _windowed,
    "deberta-v2": _boolean,
}
"""How a model type wants the mask, where it isn't the usual one."""
