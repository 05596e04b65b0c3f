"""Configuration, statistics and index -> protobuf messages and JSON texts; in JSON, numbers are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from .descriptions import IndexEntry, ModelConfig, ModelStatistics
from .json_text import dump_json, parse_json, read_members
from .oip import METHODS, Message


def model_config_message(config: ModelConfig) -> Message:
    """The ``ModelConfigResponse``."""
    plain = asdict(config)
    parameters = plain.pop("parameters")
    message = METHODS["ModelConfig"].response(config=plain)
    for name, parameter in parameters.items():  # protobuf 5 takes no dict for a map's messages
        message.config.parameters[name].string_value = parameter["string_value"]
    return message


def model_config_json(config: ModelConfig) -> bytes:
    """The body of ``GET …/config``."""
    return dump_json(asdict(config))


def statistics_message(statistics: Sequence[ModelStatistics]) -> Message:
    """The ``ModelStatisticsResponse``."""
    return METHODS["ModelStatistics"].response(model_stats=[asdict(one) for one in statistics])


def statistics_json(statistics: Sequence[ModelStatistics]) -> bytes:
    """The body of ``GET …/stats``."""
    return dump_json({"model_stats": [asdict(one) for one in statistics]})


def index_message(entries: Sequence[IndexEntry]) -> Message:
    """The ``RepositoryIndexResponse``."""
    return METHODS["RepositoryIndex"].response(models=[asdict(entry) for entry in entries])


def index_json(entries: Sequence[IndexEntry]) -> bytes:
    """The body that answers ``/v2/repository/index``: a list."""
    return dump_json([asdict(entry) for entry in entries])


def read_index_body(content: bytes) -> bool:
    """Whether a request for the index wants ready models only; an empty body, as some clients send, wants all.

    Raises:
        InvalidInput: no JSON object, or a ``ready`` that is no boolean.
    """
    return bool(content.strip()) and read_members("body", parse_json(content)).flag("ready", default=False)


def data_type(dtype: str) -> str:
    """A configuration's word for a datatype of the protocol: BYTES is ``TYPE_STRING``, FP32 is ``TYPE_FP32``."""
    return "TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}"
