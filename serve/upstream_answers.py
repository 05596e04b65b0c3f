"""What a TorchServe is asked for a model whose archive nlpdeploy packed, and what its answers say. Pure.

Such a model describes itself, and is asked in the Open Inference Protocol for just the outputs that are wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..bundle.errors import EngineFailed, InvalidInput
from ..bundle.specs import TensorSpec
from ..runtime.tasks import Scored
from ..runtime.text import Row
from ..wire.codec_json import decode_response, encode_request
from ..wire.tensors import InferRequest, Tensor
from .job import Question
from .upstream_description import Description

_NOTHING = np.empty(0, dtype=np.float32)


def ask_tensors(question: Question, part: slice) -> bytes:
    """The body that asks for a part of a question's texts: the outputs it wants, and what is said of every row."""
    columns = [("text", question.texts[part])]
    if question.pairs is not None:
        columns.append(("text_pair", question.pairs[part]))
    inputs = tuple(Tensor(name, "BYTES", _bytes(texts)) for name, texts in columns)
    outputs = tuple(dict.fromkeys((*question.outputs, "tokens", "truncated")))
    return encode_request(InferRequest("", inputs, outputs=outputs), binary=False).content


def read_tensors(body: bytes, described: Description, outputs: Sequence[str], count: int) -> list[tuple[Row, Scored]]:
    """Rows and their outputs from an inference response.

    Args:
        body: the answer.
        described: what the instance serves; an answer of another bundle is refused.
        outputs: names that were asked for.
        count: texts that were asked.

    Raises:
        EngineFailed: it is no such answer, of another bundle, of another shape, or not finite.
    """
    try:
        answer = decode_response(body)
    except InvalidInput as error:
        raise EngineFailed("answer of the upstream", found=error.line()) from None
    if answer.parameters.get("bundle_digest") != described.digest:
        raise OtherBundle("answer of the upstream", found="another bundle's", wanted=described.digest)
    found = {tensor.name: tensor for tensor in answer.outputs}
    model = described.model
    for name, spec in ((spec.name, spec) for spec in model.outputs()):
        if name in (*outputs, "tokens", "truncated"):
            _check(name, found.get(name), spec, count)
    rows = [_row(n, cut) for n, cut in zip(_list(found, "tokens"), _list(found, "truncated"), strict=True)]
    tops = _tops(_list(found, "label"), described.classes) if "label" in found else [0] * count
    singles = _list(found, "score") if "score" in found else [0.0] * count
    scores = found["scores"].data if "scores" in found else [_NOTHING] * count
    logits = found["logits"].data if "logits" in found else [_NOTHING] * count
    return [(row, Scored(*of)) for row, *of in zip(rows, logits, scores, tops, singles, strict=True)]


class OtherBundle(EngineFailed):
    """An instance answers for another bundle than it did."""


def _check(name: str, tensor: Tensor | None, spec: TensorSpec, count: int) -> None:
    wanted = f"{spec.dtype} {[count, *spec.shape[1:]]}"
    if tensor is None:
        raise EngineFailed(f"output {name} of the upstream", found="none", wanted=wanted)
    if tensor.dtype != spec.dtype or tensor.shape != (count, *spec.shape[1:]):
        raise EngineFailed(
            f"output {name} of the upstream", found=f"{tensor.dtype} {list(tensor.shape)}", wanted=wanted
        )
    if spec.dtype == "FP32" and not np.isfinite(tensor.data).all():
        raise EngineFailed("NaN or infinity in the upstream's answer", found=f"output {name}")


def _list(found: Mapping[str, Tensor], name: str) -> list[Any]:
    return list(found[name].data.tolist())


def _tops(labels: Sequence[bytes], classes: Mapping[bytes, int]) -> list[int]:
    try:
        return [classes[label] for label in labels]
    except KeyError:
        raise EngineFailed("label of the upstream's answer", found="one that it did not describe") from None


def _row(tokens: int, truncated: bool) -> Row:
    """A row of so many tokens, of which nothing else is known here."""
    if not 0 <= tokens <= 1_000_000:
        raise EngineFailed("tokens of the upstream's answer", found=tokens)
    nothing = np.broadcast_to(np.int64(0), (tokens,))
    return Row(nothing, nothing, truncated)


def _bytes(texts: Sequence[str]) -> Any:
    array = np.empty(len(texts), dtype=object)
    array[:] = [text.encode() for text in texts]
    return array
