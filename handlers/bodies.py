"""A request as TorchServe hands it over -> texts, and how they were asked for. Pure.

TorchServe decodes a body by its content type: ``text/*`` comes as str, ``application/json`` as what it parses to, all
else (and what could not be decoded) as bytes. Form fields and the entries of its gRPC ``input`` come under their own
names, a whole body under ``body``.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..bundle.errors import InvalidInput, NotFound, TooLarge

MAX_TEXTS = 4096
"""Most texts of one request, as in the server."""
TEXT_KEYS = ("text", "data")
PAIR_KEY = "text_pair"
_WANTED = (
    'text, a JSON string, {"text": …}, {"text": […]}, {"instances": […]} or tensors of the Open Inference Protocol'
)
_BOM = "\ufeff"


class Form(enum.Enum):
    """How a request asked, which decides how it is answered."""

    ONE = "one text"
    MANY = "a list of texts"
    PROTOCOL = "the Open Inference Protocol"


@dataclass(frozen=True)
class Question:
    """What one request asks.

    Attributes:
        texts: at least one.
        pairs: second texts, as many, where the request has them.
        form: how it asked.
        outputs: names of the outputs that it wants; empty for the task's default.
        id: the request's own id.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    form: Form
    outputs: tuple[str, ...] = ()
    id: str = ""


def read_question(item: Mapping[str, Any], headers: Mapping[str, Any]) -> Question:
    """What a request asks.

    Args:
        item: its parameters by name, as in the list that TorchServe gives to a handler.
        headers: the request's headers by name; a parameter's own, with its content type, under the parameter's name.

    Raises:
        InvalidInput: not UTF-8, not JSON where JSON was said, or none of the forms understood.
        TooLarge: more than ``MAX_TEXTS`` texts.
    """
    if "body" in item:
        return _question(_decoded("body", item["body"], headers), encoded=not _over_http(headers))
    fields = {name: _decoded(name, item[name], headers) for name in (*TEXT_KEYS, PAIR_KEY) if name in item}
    if not fields:
        found = ", ".join(sorted(map(str, item)))[:80] or "none"
        raise InvalidInput("fields of the request", found=found, wanted="data or text, or a body")
    first = next(iter(fields.values()))
    if len(fields) == 1 and not isinstance(first, str):
        return _question(first, encoded=False)
    return _question(fields, encoded=False)


def came_by_protocol_grpc(item: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """Whether TorchServe's own gRPC form of the Open Inference Protocol brought this request.

    Such a request has a JSON body that the frontend wrote itself, and no HTTP headers. The frontend parses the answer
    without a check and loses the worker over one that is no protocol answer, an error's for instance.
    """
    body = item.get("body")
    return isinstance(body, Mapping) and "inputs" in body and not _over_http(headers)


def asked_otherwise(headers: Mapping[str, Any]) -> str | None:
    """``describe`` or ``explain`` where the frontend asks for that instead of a prediction."""
    return next((name for name in ("describe", "explain") if str(headers.get(name)).lower() == "true"), None)


def _over_http(headers: Mapping[str, Any]) -> bool:
    # A gRPC request has its parameters' content types alone; the frontend adds to HTTP's own headers besides.
    return any(not isinstance(value, Mapping) for value in headers.values())


def _decoded(name: str, value: Any, headers: Mapping[str, Any]) -> Any:
    """A parameter as text or as what its JSON says."""
    if isinstance(value, str):
        return value.removeprefix(_BOM)
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        text = bytes(value).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(name, found=f"byte {value[error.start]:#04x} at {error.start}", wanted="UTF-8") from None
    own = headers.get(name)
    declared = str(own.get("content-type", "")) if isinstance(own, Mapping) else ""
    if "json" in declared:
        return _parsed(name, text)
    if not declared.startswith("text") and text.lstrip()[:1] == "{":
        try:
            return _parsed(name, text)
        except InvalidInput:
            return text  # nothing said that it is JSON, and a text may begin with a brace
    return text


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is not JSON ({error})") from None


def _question(value: Any, *, encoded: bool) -> Question:
    if isinstance(value, str):
        return Question((value,), None, Form.ONE)
    if isinstance(value, list):
        return _from_instances(value)
    if isinstance(value, Mapping):
        if "inputs" in value:
            return _from_protocol(value, encoded=encoded)
        if "instances" in value:
            return _from_instances(value["instances"])
        if any(key in value for key in TEXT_KEYS):
            return _from_object(value)
    found = f"an object with {', '.join(map(str, value))}"[:80] if isinstance(value, Mapping) else type(value).__name__
    raise InvalidInput("body", found=found, wanted=_WANTED)


def _from_object(value: Mapping[str, Any]) -> Question:
    text, pair = next(value[key] for key in TEXT_KEYS if key in value), value.get(PAIR_KEY)
    if isinstance(text, str):
        if pair is not None and not isinstance(pair, str):
            raise InvalidInput(PAIR_KEY, found=type(pair).__name__, wanted="a string, as text is")
        return Question((text,), None if pair is None else (pair,), Form.ONE)
    texts = _strings("text", text)
    return Question(texts, None if pair is None else _strings(PAIR_KEY, pair), Form.MANY)


def _from_instances(instances: Any) -> Question:
    """Strings, or objects of one text each; pairs in all of them or in none."""
    if not isinstance(instances, list):
        raise InvalidInput("instances", found=type(instances).__name__, wanted="a list")
    if all(isinstance(instance, str) for instance in instances):
        return Question(_strings("instances", instances), None, Form.MANY)
    _check_count("instances", len(instances))
    asked = [_question(instance, encoded=False) for instance in instances]
    if any(question.form is not Form.ONE for question in asked):
        raise InvalidInput("instances", found="a nested list", wanted="one text an instance")
    pairs = tuple(question.pairs[0] for question in asked if question.pairs)
    if pairs and len(pairs) != len(asked):
        raise InvalidInput(PAIR_KEY, found=f"in {len(pairs)} of {len(asked)} instances", wanted="in all or in none")
    return Question(tuple(question.texts[0] for question in asked), pairs or None, Form.MANY)


def _from_protocol(value: Mapping[str, Any], *, encoded: bool) -> Question:
    """An inference request of the Open Inference Protocol in its JSON form; with ``encoded`` BYTES are base64."""
    inputs = value["inputs"]
    if not isinstance(inputs, list) or not all(isinstance(tensor, Mapping) for tensor in inputs):
        raise InvalidInput("inputs", found=type(inputs).__name__, wanted="a list of tensors")
    tensors = {str(tensor.get("name")): tensor for tensor in inputs}
    unknown = tensors.keys() - {"text", PAIR_KEY}
    if unknown:
        raise InvalidInput("input tensor", found=sorted(unknown)[0], wanted=f"text, for pairs also {PAIR_KEY}")
    if "text" not in tensors:
        raise InvalidInput("input tensors", found="none named text", wanted="text")
    texts = _tensor_strings(tensors["text"], encoded=encoded)
    pairs = _tensor_strings(tensors[PAIR_KEY], encoded=encoded) if PAIR_KEY in tensors else None
    return Question(texts, pairs, Form.PROTOCOL, _output_names(value.get("outputs")), str(value.get("id") or ""))


def _output_names(outputs: Any) -> tuple[str, ...]:
    if outputs is None:
        return ()
    if not isinstance(outputs, list) or not all(
        isinstance(output, Mapping) and output.get("name") for output in outputs
    ):
        raise InvalidInput("outputs", found=type(outputs).__name__, wanted="a list of objects with a name")
    return tuple(str(output["name"]) for output in outputs)


def _tensor_strings(tensor: Mapping[str, Any], *, encoded: bool) -> tuple[str, ...]:
    name, datatype, shape, data = tensor["name"], tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
    if datatype != "BYTES":
        raise InvalidInput(f"datatype of {name}", found=datatype, wanted="BYTES")
    values = data if isinstance(data, list) else []
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if not isinstance(shape, list) or len(shape) != 1 or shape[0] != len(values):
        raise InvalidInput(
            f"tensor {name}",
            found=f"{len(values)} values for shape {shape}",
            wanted="shape [n] and n values in data",
            mend="TorchServe's gRPC drops raw contents: send typed ones, or ask `nlpdeploy serve`" if encoded else None,
        )
    strings = _strings(name, values)
    return tuple(_from_base64(name, text) for text in strings) if encoded else strings


def _from_base64(name: str, text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidInput(f"tensor {name} ({error})", wanted="UTF-8") from None


def _strings(name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise InvalidInput(name, found=type(values).__name__, wanted="a string or a list of strings")
    _check_count(name, len(values))
    odd = next((index for index, text in enumerate(values) if not isinstance(text, str)), None)
    if odd is not None:
        raise InvalidInput(f"{name}[{odd}]", found=type(values[odd]).__name__, wanted="a string")
    return tuple(values)


def _check_count(name: str, count: int) -> None:
    if not count:
        raise InvalidInput(name, found="no text", wanted="at least one")
    if count > MAX_TEXTS:
        raise TooLarge(f"texts in {name}", found=count, wanted=f"at most {MAX_TEXTS}")


def check_outputs(names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse outputs that the model doesn't have.

    Raises:
        NotFound: one of them is unknown.
    """
    for name in names:
        if name not in known:
            raise NotFound("output", found=name, wanted=f"one of {', '.join(known)}")
