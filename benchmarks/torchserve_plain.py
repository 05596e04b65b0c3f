"""A TorchServe handler as one writes it by hand over ONNX Runtime: the tokenizer's padding, a session as it comes.

Goes into an archive as it stands, with ``model.onnx``, ``tokenizer.json`` and ``settings.json`` beside it.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class PlainHandler:
    """Answers single texts: ``{"text": "…"}`` -> ``{"label": …, "score": …}``."""

    def initialize(self, context):
        """Load the model."""
        folder = Path(context.system_properties["model_dir"])
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.labels = settings["labels"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(settings["max_length"])
        self.tokenizer.enable_padding(pad_id=settings["pad_id"])
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self.session.get_inputs()]

    def handle(self, data, context):
        """One engine call for the whole batch."""
        encodings = self.tokenizer.encode_batch([item["body"]["text"] for item in data])
        columns = {
            "input_ids": [e.ids for e in encodings],
            "attention_mask": [e.attention_mask for e in encodings],
            "token_type_ids": [e.type_ids for e in encodings],
        }
        feed = {name: np.array(columns[name], dtype=np.int64) for name in self.inputs}
        logits = self.session.run(["logits"], feed)[0]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [{"label": self.labels[i], "score": float(row[i])} for i, row in zip(best, scores, strict=True)]
