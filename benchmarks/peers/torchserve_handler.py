"""A TorchServe handler: the untouched checkpoint in eager PyTorch. Travels in the archive with ``text_model.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from text_model import TextModel, read_settings


class EagerHandler:
    """``{"text": "…"}`` or ``{"text": ["…", …]}`` in, JSON as our own ``/predict`` out."""

    def initialize(self, context: Any) -> None:
        """Load the model that the archive's settings name."""
        settings = read_settings(str(Path(context.system_properties["model_dir"]) / "settings.json"))
        self._answer = TextModel(settings["model"], settings["threads"])

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """One engine call for all requests of a batch."""
        requests = [_texts(item.get("body") or item.get("data")) for item in data]
        answers = iter(self._answer([text for texts in requests for text in texts]))
        return [_body([next(answers) for _ in texts]) for texts in requests]


def _texts(body: Any) -> list[str]:
    """TorchServe hands JSON over parsed, other types as bytes."""
    text = (json.loads(body) if isinstance(body, (bytes, bytearray)) else body)["text"]
    return [text] if isinstance(text, str) else text


def _body(answers: list[tuple[str, float]]) -> str:
    plain = [{"label": label, "score": score} for label, score in answers]
    return json.dumps(plain[0] if len(plain) == 1 else {"predictions": plain}, ensure_ascii=False)
