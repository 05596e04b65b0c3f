"""The answers a server would give, in this process: for ``nlpdeploy predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime import load
from ..runtime.tasks import decode


def answer_here(
    bundle: Path, texts: Sequence[str], pairs: Sequence[str] | None = None, *, engine: str | None = None
) -> list[dict[str, Any]]:
    """All outputs of the task for each text, as JSON's own types.

    Args:
        bundle: a bundle's folder; it is verified and its golden samples are replayed.
        texts: texts, or first texts of pairs.
        pairs: second texts.
        engine: id of an engine; by default the bundle's.

    Returns:
        A dict a text: ``label`` (not for regression), ``score``, ``scores`` by label, ``logits``, ``tokens``,
        ``truncated``, ``engine``.

    Raises:
        The errors of :func:`nlpdeploy.runtime.load` and of the predictor.
    """
    predictor = load(bundle, engine=engine)
    rows = predictor.encode(texts, pairs)
    outputs = decode(predictor.logits(rows), predictor.model)
    answers = []
    for index, row in enumerate(rows):
        answer: dict[str, Any] = {name: values[index].tolist() for name, values in outputs.items() if name != "label"}
        if "label" in outputs:
            answer = {"label": outputs["label"][index], **answer}
        if "scores" in answer:
            answer["scores"] = dict(zip(predictor.model.labels, answer["scores"], strict=True))
        answers.append({**answer, "tokens": len(row), "truncated": row.truncated, "engine": predictor.engine.id})
    return answers
