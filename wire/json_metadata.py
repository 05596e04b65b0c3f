"""Metadata of a server and of a model <-> JSON texts."""

from __future__ import annotations

from ..bundle.specs import TensorSpec
from .json_text import dump_json, parse_json, read_members
from .tensors import ModelMetadata, ServerMetadata


def encode_model_metadata(metadata: ModelMetadata) -> bytes:
    """The body of ``GET /v2/models/M``."""
    return dump_json(
        {
            "name": metadata.name,
            "versions": metadata.versions,
            "platform": metadata.platform,
            "inputs": [_spec_entry(spec) for spec in metadata.inputs],
            "outputs": [_spec_entry(spec) for spec in metadata.outputs],
            "properties": dict(metadata.properties),
        }
    )


def decode_model_metadata(content: bytes) -> ModelMetadata:
    """What a body of ``GET /v2/models/M`` says.

    Raises:
        InvalidInput: no such JSON.
    """
    answer = read_members("body", parse_json(content))
    inputs, outputs = (
        tuple(TensorSpec(entry.text("name"), entry.text("datatype"), entry.shape()) for entry in answer.objects(side))
        for side in ("inputs", "outputs")
    )
    properties = {name: str(value) for name, value in answer.members("properties", required=False).values.items()}
    versions = tuple(answer.texts("versions", required=False))
    return ModelMetadata(
        answer.text("name"), versions, answer.text("platform", default=""), inputs, outputs, properties
    )


def encode_server_metadata(metadata: ServerMetadata) -> bytes:
    """The body of ``GET /v2``."""
    return dump_json({"name": metadata.name, "version": metadata.version, "extensions": metadata.extensions})


def decode_server_metadata(content: bytes) -> ServerMetadata:
    """What a body of ``GET /v2`` says.

    Raises:
        InvalidInput: no such JSON.
    """
    answer = read_members("body", parse_json(content))
    return ServerMetadata(answer.text("name"), answer.text("version"), tuple(answer.texts("extensions")))


def _spec_entry(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.dtype, "shape": spec.shape}
