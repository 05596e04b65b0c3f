"""PyTriton on a bundle's engines; run by the peer's own Python: ``pytriton_server.py SETTINGS``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from text_model import TextModel, read_settings


def main() -> None:
    """Serve until SIGTERM."""
    settings = read_settings(sys.argv[1])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=settings["http_port"],
        grpc_address="127.0.0.1",
        grpc_port=settings["grpc_port"],
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        for model in settings["models"]:
            threads, instances = settings["threads"], settings["instances"]
            triton.bind(
                model_name=model["name"],
                infer_func=[_infer(model, threads) for _ in range(instances)],
                inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
                outputs=[
                    Tensor(name="label", dtype=bytes, shape=(1,)),
                    Tensor(name="score", dtype=np.float32, shape=(1,)),
                ],
                # Batches grow while the engine is busy; a lone request waits for nobody.
                config=ModelConfig(
                    batching=True,
                    max_batch_size=settings["max_rows"],
                    batcher=DynamicBatcher(max_queue_delay_microseconds=settings["delay_us"]),
                ),
            )
        triton.serve()


def _infer(model: dict[str, Any], threads: int) -> Callable[..., Any]:
    answer = TextModel(model, threads)

    @batch
    def infer(text: Any) -> dict[str, Any]:
        answers = answer([value.decode("utf-8") for value in text[:, 0].tolist()])
        labels = np.array([[label.encode("utf-8")] for label, _ in answers], dtype=object)
        return {"label": labels, "score": np.array([[score] for _, score in answers], np.float32)}

    return infer


if __name__ == "__main__":
    main()
