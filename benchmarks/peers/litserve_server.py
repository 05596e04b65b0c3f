"""LitServe on a bundle's engines; run by the peer's own Python: ``litserve_server.py SETTINGS``."""

from __future__ import annotations

import sys
from typing import Any

import litserve
from text_model import TextModel, read_settings


class TextApi(litserve.LitAPI):  # type: ignore[misc]
    """``{"text": "…"}`` or ``{"text": ["…", …]}`` in, the answers of each text out."""

    def __init__(self, model: dict[str, Any], settings: dict[str, Any]) -> None:
        super().__init__(
            max_batch_size=settings["max_rows"],
            batch_timeout=settings["delay_us"] / 1e6,
            api_path=f"/{model['name']}/predict",
        )
        self._model = model
        self._threads = settings["threads"]

    def setup(self, device: str) -> None:
        """Load, in the worker's process."""
        self._answer = TextModel(self._model, self._threads)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads an annotation as the body's schema
        """The texts of a request."""
        text = request["text"]
        return [text] if isinstance(text, str) else text

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """Requests of a batch stay apart until the model has them."""
        return inputs

    def predict(self, requests: list[list[str]]) -> list[list[tuple[str, float]]]:
        """All texts of all requests in one engine call."""
        answers = iter(self._answer([text for texts in requests for text in texts]))
        return [[next(answers) for _ in texts] for texts in requests]

    def unbatch(self, output: list[list[tuple[str, float]]]) -> list[list[tuple[str, float]]]:
        """One list of answers a request."""
        return output

    def encode_response(self, output: list[tuple[str, float]]) -> dict[str, Any]:
        """As our own ``/predict`` answers."""
        answers = [{"label": label, "score": score} for label, score in output]
        return answers[0] if len(answers) == 1 else {"predictions": answers}


def main() -> None:
    """Serve until SIGTERM."""
    settings = read_settings(sys.argv[1])
    server = litserve.LitServer(
        [TextApi(model, settings) for model in settings["models"]],
        accelerator="cpu",
        workers_per_device=settings["instances"],
        timeout=60,
        fast_queue=settings["fast_queue"],
    )
    server.run(
        host="127.0.0.1",
        port=settings["http_port"],
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
