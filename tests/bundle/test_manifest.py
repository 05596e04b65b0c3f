"""The manifest on disk: the way there and back, and what a changed byte does."""

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlpdeploy.bundle.errors import CorruptBundle, InvalidInput, NotFound, Unsupported
from nlpdeploy.bundle.manifest import Manifest, from_plain, to_plain
from nlpdeploy.bundle.specs import ModelSpec
from support.bundles import example_manifest

MODELS = st.builds(
    ModelSpec,
    labels=st.lists(st.text(), min_size=1, max_size=3).map(tuple),
    max_length=st.integers(1, 10**6),
)
MANIFESTS = st.builds(Manifest, model=MODELS, schema=st.just(1))


def without_digest(manifest: Manifest, **changes: Any) -> bytes:
    return dataclasses.replace(manifest, **changes).sealed().to_bytes()


def test_full_example_survives_the_way_to_disk_and_back() -> None:
    sealed = example_manifest().sealed()
    read = Manifest.from_bytes(sealed.to_bytes())
    assert read.to_bytes() == sealed.to_bytes()
    assert read.model == sealed.model
    assert read.engines[0] == sealed.engines[0]
    assert read.golden == sealed.golden
    assert len(read.digest) == 64


def test_non_finite_floats_survive() -> None:
    parity = Manifest.from_bytes(example_manifest().sealed().to_bytes()).engines[1].parity
    assert parity is not None
    assert parity.max_abs_error == math.inf
    assert math.isnan(parity.mean_abs_error)
    assert parity.cosine == -math.inf
    assert parity.cases[0].deviation.max_abs == math.inf


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(MANIFESTS)
def test_any_manifest_survives_the_way_to_disk_and_back(manifest: Manifest) -> None:
    raw = manifest.sealed().to_bytes()
    assert Manifest.from_bytes(raw).to_bytes() == raw


def test_any_changed_byte_anywhere_is_found() -> None:
    raw = example_manifest().sealed().to_bytes()
    schema_digit = raw.index(b'"schema": 1') + len(b'"schema": ')
    assert any(byte in b" \n" for byte in raw)  # strings, digits, whitespace and punctuation are all there
    for position, byte in enumerate(raw):
        # Another letter or digit everywhere; now and then another whitespace and a byte that breaks UTF-8.
        others = {byte ^ 1, ord("\t") if byte == ord(" ") else ord(" "), 0xFF} if position % 10 == 0 else {byte ^ 1}
        for other in others:
            changed = raw[:position] + bytes([other]) + raw[position + 1 :]
            if position == schema_digit and chr(other).isdecimal() and other > byte:
                continue  # that is a newer schema
            with pytest.raises(CorruptBundle) as caught:
                Manifest.from_bytes(changed)
            assert caught.value.changed == ("bundle.json",)


@pytest.mark.parametrize("cut", [0, 1, -1, -2])
def test_truncated_manifest_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptBundle, match=r"bundle\.json"):
        Manifest.from_bytes(example_manifest().sealed().to_bytes()[:cut])


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"1", b'"schema"', b"{}", b"\xff\xfe", b"[" * 100_000])
def test_something_else_in_place_of_a_manifest_is_corrupt(raw: bytes) -> None:
    with pytest.raises(CorruptBundle, match=r"bundle\.json"):
        Manifest.from_bytes(raw)


def test_same_values_in_another_layout_are_refused() -> None:
    plain = json.loads(example_manifest().sealed().to_bytes())
    with pytest.raises(CorruptBundle, match="not in the form it was written in"):
        Manifest.from_bytes(json.dumps(plain).encode())


def test_newer_schema_is_refused_with_a_sentence() -> None:
    raw = without_digest(example_manifest(), schema=2)
    with pytest.raises(Unsupported) as caught:
        Manifest.from_bytes(raw)
    line = (
        "bundle.json was written by a newer nlpdeploy; found schema 2; wanted at most 1; upgrade nlpdeploy to read it"
    )
    assert str(caught.value) == line


def test_newer_schema_is_refused_whatever_else_it_holds() -> None:
    with pytest.raises(Unsupported, match="schema 7"):
        Manifest.from_bytes(b'{"schema": 7, "tasks": ["translation"]}\n')


def test_identity_follows_content_and_not_the_order_of_files() -> None:
    manifest = example_manifest()
    one = dataclasses.replace(manifest, files={"a": "1", "b": "2"}).identity()
    assert dataclasses.replace(manifest, files={"b": "2", "a": "1"}).identity() == one
    assert dataclasses.replace(manifest, files={"a": "2", "b": "1"}).identity() != one
    assert dataclasses.replace(manifest, files={"a": "1", "b": "2"}, created="later").identity() != one


def test_wrong_type_is_refused_with_its_path() -> None:
    plain = to_plain(example_manifest())
    plain["engines"][0]["latency"]["samples"] = "many"
    with pytest.raises(InvalidInput, match=r"Manifest\.engines\[0\]\.latency\.samples; found str; wanted int"):
        from_plain(Manifest, plain)


def test_truth_value_is_no_number() -> None:
    plain = to_plain(example_manifest())
    plain["model"]["pad_id"] = True
    with pytest.raises(InvalidInput, match=r"Manifest\.model\.pad_id; found bool"):
        from_plain(Manifest, plain)


@pytest.mark.parametrize("change", ["add", "drop"])
def test_unknown_and_missing_fields_are_refused_by_name(change: str) -> None:
    plain = to_plain(example_manifest())
    if change == "add":
        plain["model"]["colour"] = "red"
    else:
        del plain["model"]["labels"]
    with pytest.raises(InvalidInput, match=f"fields {'colour' if change == 'add' else 'labels'}"):
        from_plain(Manifest, plain)


def test_unknown_engine_is_answered_with_the_known_ones() -> None:
    manifest = example_manifest()
    assert manifest.engine().id == "onnx-fp32"
    assert manifest.engine("onnx-int8").state == "failed"
    with pytest.raises(NotFound, match="found openvino-f32; wanted one of onnx-fp32, onnx-int8"):
        manifest.engine("openvino-f32")
