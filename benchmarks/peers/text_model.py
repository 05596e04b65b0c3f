"""Text -> label and score, as a peer's own users would write it: tokenise, pad, run, softmax.

Runs inside the peers' environments, which have no nlpdeploy: it stands on numpy and ``tokenizers``, and on one runtime.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

Feed = dict[str, Any]
Run = Callable[[Feed], Any]
"""From a padded batch INT64 [rows, length] by input name to logits FP32 [rows, classes]."""


class TextModel:
    """One model with one engine; for one thread at a time.

    Args:
        settings: ``tokenizer``, ``max_length``, ``pad_id``, ``labels``, and ``engine`` with ``runtime``, ``file``,
            ``inputs`` and, for OpenVINO, ``precision``.
        threads: the engine's.
    """

    def __init__(self, settings: dict[str, Any], threads: int) -> None:
        self._labels: list[str] = settings["labels"]
        self._tokenizer = Tokenizer.from_str(Path(settings["tokenizer"]).read_text(encoding="utf-8"))
        self._tokenizer.enable_truncation(settings["max_length"])
        self._tokenizer.enable_padding(pad_id=settings["pad_id"])
        self._inputs: list[str] = settings["engine"]["inputs"]
        self._run = _RUNTIMES[settings["engine"]["runtime"]](settings["engine"], threads)

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Label and score of each text, all in one batch."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        feed = {name: np.array([getattr(e, columns[name]) for e in encodings], np.int64) for name in self._inputs}
        logits = self._run(feed)
        top = logits.argmax(axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = powers[np.arange(len(top)), top] / powers.sum(axis=1)
        return [(self._labels[k], float(score)) for k, score in zip(top.tolist(), scores.tolist(), strict=True)]


def read_settings(path: str) -> dict[str, Any]:
    """What the benchmark wrote for this peer."""
    settings: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return settings


def _openvino(engine: dict[str, Any], threads: int) -> Run:
    import openvino as ov

    properties = {
        "INFERENCE_PRECISION_HINT": engine["precision"],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # Several processes on one machine would all pin themselves to CPU 0.
        "ENABLE_CPU_PINNING": False,
    }
    request = ov.Core().compile_model(engine["file"], "CPU", properties).create_infer_request()

    def run(feed: Feed) -> Any:
        request.infer(feed, share_inputs=True, share_outputs=True)
        return np.array(request.get_output_tensor(0).data, np.float32)

    return run


def _onnxruntime(engine: dict[str, Any], threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes change with every batch
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the load client shares the cores
    session = onnxruntime.InferenceSession(engine["file"], options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(["logits"], feed)[0]


def _pytorch(engine: dict[str, Any], threads: int) -> Run:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(engine["file"], dtype=torch.float32).eval()

    def run(feed: Feed) -> Any:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(value) for name, value in feed.items()}).logits.numpy()

    return run


_RUNTIMES: dict[str, Callable[[dict[str, Any], int], Run]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "pytorch": _pytorch,
}
