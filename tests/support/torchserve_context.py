"""TorchServe's own worker parts without its frontend: a context, and requests decoded as a worker decodes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ts.context import Context
from ts.service import Service

HTTP_HEADERS = ({"name": b"Host", "value": b"127.0.0.1"},)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a request: a whole body, or a field of a form."""

    value: bytes
    content_type: str = ""
    name: str = "body"


@dataclass
class Answered:
    """What a handler answered, as a frontend would pass it on."""

    bodies: list[Any]
    statuses: list[int]
    content_types: list[str]
    metrics: list[tuple[str, float]] = field(default_factory=list)


class RecordedMetrics:
    """Takes the metrics of a worker."""

    def __init__(self) -> None:
        self.values: list[tuple[str, float]] = []

    def add_time(self, name: str, value: float, **_: Any) -> None:
        """A time."""
        self.values.append((name, value))

    def add_metric(self, name: str, value: float, *_: Any, **__: Any) -> None:
        """Any metric."""
        self.values.append((name, value))

    add_counter = add_time


def new_context(folder: Path, *, batch_size: int = 4, config: Mapping[str, Any] | None = None) -> Any:
    """TorchServe's context for an unpacked archive."""
    manifest = {"model": {"modelName": "tiny", "modelVersion": "3"}}
    return Context("tiny", str(folder), manifest, batch_size, None, "0.12.0", True, RecordedMetrics(), config or {})


def ask(
    handler: Any,
    context: Any,
    requests: Sequence[Sequence[Parameter]],
    *,
    http: bool = True,
    only: int | None = None,
    **headers: str,
) -> Answered:
    """Give requests to a handler through TorchServe's own code, and its answers back.

    ``headers`` are those of all requests, or of the one with the number ``only``.
    """
    sent = [{"name": name.encode(), "value": value.encode()} for name, value in headers.items()]
    batch = [
        {
            "requestId": str(index).encode(),
            "headers": [*(sent if only in (None, index) else []), *HTTP_HEADERS] if http else [],
            "parameters": [_decoded(parameter) for parameter in parameters],
        }
        for index, parameters in enumerate(requests)
    ]
    processors, data, _ = Service.retrieve_data_for_inference(batch)
    context.request_processor = processors
    context.metrics.values.clear()
    bodies = handler.handle(data, context)
    assert isinstance(bodies, list)
    assert len(bodies) == len(requests)
    return Answered(
        [json.loads(body) for body in bodies],
        [context.get_response_status(index)[0] for index in range(len(bodies))],
        [context.get_response_content_type(index) for index in range(len(bodies))],
        list(context.metrics.values),
    )


def _decoded(parameter: Parameter) -> dict[str, Any]:
    # As ts.protocol.otf_message_handler does; its own function reads from a socket and needs torch.
    value: Any = bytearray(parameter.value)
    try:
        if parameter.content_type == "application/json":
            value = json.loads(parameter.value.decode("utf-8"))
        elif parameter.content_type.startswith("text"):
            value = parameter.value.decode("utf-8")
    except ValueError:
        pass
    return {"name": parameter.name, "contentType": parameter.content_type, "value": value}
