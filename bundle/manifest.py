"""``bundle.json``: what is in a bundle, what it came from, and which engines may serve.

The file is written in one canonical form (sorted keys, UTF-8, two spaces, one newline at the end), so that a changed
byte of the manifest itself shows just as one of any other file does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from .errors import CorruptBundle, InvalidInput, NotFound, Unsupported
from .evidence import Accuracy, Latency, LatencyCurve, ParityResult
from .specs import EngineState, Layout, ModelSpec, TensorSpec

SCHEMA_VERSION = 1
MANIFEST_NAME = "bundle.json"
REPORT_NAME = "evidence/report.html"
"""The one file outside the hashed set: a page for people, written last."""

T = TypeVar("T")
Option = str | int | float | bool | None


@dataclass(frozen=True)
class Source:
    """Where the bundle's numbers start.

    Attributes:
        path: the checkpoint folder as given.
        weights: SHA-256 by file name of the weight files that were really loaded.
        config: SHA-256 of ``config.json``.
        architecture: e.g. ``BertForSequenceClassification``.
        model_type: e.g. ``bert``.
        parameters: number of parameters.
        versions: package name to version of what exported it.
        notes: what the export had to say of checkpoint, data and machine: defaults taken, warnings.
    """

    path: str
    weights: Mapping[str, str]
    config: str
    architecture: str
    model_type: str
    parameters: int
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoldenSample:
    """A real row with the reference's answer; replayed by every load of an engine.

    Attributes:
        text: first text.
        text_pair: second text of a pair.
        input_ids: token ids, special tokens included.
        token_type_ids: segment of each token.
        logits: the fp32 reference's logits, one a class.
    """

    text: str
    text_pair: str | None
    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    logits: tuple[float, ...]


@dataclass(frozen=True)
class EngineEntry:
    """One engine of the bundle, built or not.

    Attributes:
        id: e.g. ``onnx-int8``.
        runtime: name in ``runtime/catalogue``, e.g. ``onnxruntime``.
        precision: ``fp32``, ``bf16``, ``fp16``, ``int8``.
        layout: how the planner must lay out rows.
        state: ready, failed, skipped or unproven.
        reason: why it is not ready, with the number that failed.
        file: path of the model file inside the bundle; None where nothing was built.
        inputs: the graph's own inputs; exactly these are fed.
        outputs: the graph's own outputs.
        options: build and run options, e.g. quantisation scheme or execution hints.
        valid_for: what the engine is valid on: ``isa`` class, ``gpu``, versions.
        size_bytes: size of its files.
        parity: the verdict; its cases in full stand in ``evidence``.
        accuracy: on labelled data, if there was any.
        latency: measured speed.
        curve: for the scheduler.
    """

    id: str
    runtime: str
    precision: str
    layout: Layout
    state: EngineState
    reason: str | None = None
    file: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    valid_for: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    parity: ParityResult | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    curve: LatencyCurve | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything a reader needs to load, ask and judge a bundle.

    Attributes:
        name: model name, as in the store.
        model: task, labels, limits.
        source: the checkpoint.
        engines: all engines that were asked for, in the order of the table.
        default_engine: id of the one that serves unless told otherwise.
        reference_accuracy: the checkpoint's own, where labelled data was given.
        reference_latency: the checkpoint's own in eager PyTorch; its ``speedup`` is 1.
        golden: samples that a load replays.
        created: ISO 8601 time, UTC.
        derived_from: digest of the bundle that this one was derived from.
        files: SHA-256 by path of every file but this one and the report.
        schema: version of this form.
        digest: the bundle's identity: SHA-256 over the sorted (path, SHA-256) pairs of ``files`` and of this manifest
            without its digest.
    """

    name: str
    model: ModelSpec
    source: Source
    engines: tuple[EngineEntry, ...]
    default_engine: str
    golden: tuple[GoldenSample, ...]
    created: str
    reference_accuracy: Accuracy | None = None
    reference_latency: Latency | None = None
    derived_from: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION
    digest: str = ""

    def sealed(self) -> Manifest:
        """The same manifest with its digest."""
        return dataclasses.replace(self, digest=self.identity())

    def identity(self) -> str:
        """SHA-256 over the sorted (path, SHA-256) pairs, this manifest's own body among them; hexadecimal."""
        body = dataclasses.replace(self, digest="").to_bytes()
        pairs = {**self.files, MANIFEST_NAME: hashlib.sha256(body).hexdigest()}
        lines = "".join(f"{pairs[path]}  {path}\n" for path in sorted(pairs))
        return hashlib.sha256(lines.encode()).hexdigest()

    def engine(self, engine_id: str | None = None) -> EngineEntry:
        """The entry of that id, or of the default engine.

        Raises:
            NotFound: no engine of that id.
        """
        wanted = engine_id or self.default_engine
        for entry in self.engines:
            if entry.id == wanted:
                return entry
        known = ", ".join(entry.id for entry in self.engines)
        raise NotFound(f"engine of bundle {self.name}", found=wanted, wanted=f"one of {known}")

    def to_bytes(self) -> bytes:
        """The canonical form on disk."""
        text = json.dumps(to_plain(self), ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
        return (text + "\n").encode()

    @classmethod
    def from_bytes(cls, raw: bytes, file: object = MANIFEST_NAME) -> Manifest:
        """Read a manifest; messages name ``file``.

        Raises:
            CorruptBundle: not JSON, not in canonical form, or a field is missing or of another type.
            Unsupported: written by a newer nlpdeploy.
        """
        try:
            plain = json.loads(raw)
            schema = plain["schema"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptBundle(f"{file} is no manifest ({error})", changed=(MANIFEST_NAME,)) from None
        if not isinstance(schema, int) or schema > SCHEMA_VERSION:
            raise Unsupported(
                f"{file} was written by a newer nlpdeploy",
                found=f"schema {schema}",
                wanted=f"at most {SCHEMA_VERSION}",
                mend="upgrade nlpdeploy to read it",
            )
        try:
            manifest = from_plain(cls, plain)
        except InvalidInput as error:
            raise CorruptBundle(f"{file}: {error}", changed=(MANIFEST_NAME,)) from None
        if manifest.to_bytes() != raw or manifest.identity() != manifest.digest:
            raise CorruptBundle(f"{file} is not in the form it was written in", changed=(MANIFEST_NAME,))
        return manifest


def to_plain(value: Any) -> Any:
    """A dataclass, mapping, tuple, enum or scalar as JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # JSON has no word for it; a failed engine's error can be infinite
    return value


def from_plain(wanted: type[T], plain: Any) -> T:
    """The inverse of :func:`to_plain`, guided by type hints; what doesn't fit is refused, not coerced.

    Raises:
        InvalidInput: a field is missing, unknown or of another type; the message has its path.
    """
    result: T = _read(wanted, plain, wanted.__name__)
    return result


def _read(wanted: Any, plain: Any, path: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin is None:
        return _read_leaf(wanted, plain, path)
    arguments = typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, plain, path)
    if origin is tuple:
        return _read_tuple(arguments, _of(plain, list, path), path)
    entries = _of(plain, dict, path)
    return {key: _read(arguments[1], item, f"{path}.{key}") for key, item in entries.items()}


def _read_leaf(wanted: Any, plain: Any, path: str) -> Any:
    if dataclasses.is_dataclass(wanted):
        return _read_dataclass(wanted, plain, path)
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        try:
            return wanted(plain)
        except ValueError:
            words = ", ".join(str(member.value) for member in wanted)
            raise InvalidInput(path, found=plain, wanted=f"one of {words}") from None
    if wanted is float and (plain in ("inf", "-inf", "nan") or type(plain) is int):
        return float(plain)
    return _of(plain, wanted, path)


def _read_union(arguments: tuple[Any, ...], plain: Any, path: str) -> Any:
    if plain is None and type(None) in arguments:
        return None
    members = [member for member in arguments if member is not type(None)]
    if len(members) == 1:
        return _read(members[0], plain, path)
    if type(plain) in members:
        return plain
    raise InvalidInput(path, found=type(plain).__name__, wanted=" or ".join(str(member) for member in members))


def _read_tuple(arguments: tuple[Any, ...], plain: list[Any], path: str) -> tuple[Any, ...]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_read(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(plain))
    if len(arguments) != len(plain):
        raise InvalidInput(path, found=f"{len(plain)} items", wanted=len(arguments))
    return tuple(_read(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(arguments, plain, strict=True)))


def _read_dataclass(wanted: Any, plain: Any, path: str) -> Any:
    entries = _of(plain, dict, path)
    hints = typing.get_type_hints(wanted)
    names = {f.name for f in dataclasses.fields(wanted)}
    if set(entries) != names:
        odd = sorted(set(entries) ^ names)
        raise InvalidInput(f"{path}: fields {', '.join(odd)}", wanted="exactly the fields of this schema")
    return wanted(**{name: _read(hints[name], entries[name], f"{path}.{name}") for name in entries})


def _of(plain: Any, wanted: type, path: str) -> Any:
    fits = isinstance(plain, wanted) and (wanted is bool or not isinstance(plain, bool))
    if not fits:
        raise InvalidInput(path, found=type(plain).__name__, wanted=wanted.__name__)
    return plain
