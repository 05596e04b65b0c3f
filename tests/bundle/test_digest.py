"""A bundle folder against its manifest: changed, missing and extra files, links, newer schemas."""

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from nlpdeploy.bundle.digest import file_digest, folder_digests, read_manifest, verified_manifest
from nlpdeploy.bundle.errors import CorruptBundle, NotFound, Unsupported
from nlpdeploy.bundle.manifest import MANIFEST_NAME
from nlpdeploy.bundle.store import Store
from support.bundles import FILES, example_manifest, publish


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return publish(Store(tmp_path / "store")).path


def test_published_bundle_verifies_and_lists_every_file(bundle: Path) -> None:
    manifest = verified_manifest(bundle)
    assert manifest.files == {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_changed_byte_names_the_file(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    for position in (0, len(data) // 2, len(data) - 1):
        data[position] ^= 1
        (bundle / name).write_bytes(data)
        with pytest.raises(CorruptBundle) as caught:
            verified_manifest(bundle)
        assert (caught.value.changed, caught.value.missing, caught.value.extra) == ((name,), (), ())
        assert f"changed: {name}" in str(caught.value)
        data[position] ^= 1
    (bundle / name).write_bytes(data)
    verified_manifest(bundle)


@pytest.mark.parametrize("needle", [b"onnx-fp32", b"512", b"  ", b"\n", "正".encode()])
def test_one_changed_byte_of_the_manifest_names_it(bundle: Path, needle: bytes) -> None:
    path = bundle / "bundle.json"
    data = bytearray(path.read_bytes())
    data[data.index(needle)] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptBundle, match=r"changed: bundle\.json"):
        verified_manifest(bundle)


def test_extra_missing_and_changed_files_are_told_apart(bundle: Path) -> None:
    (bundle / "engines/onnx-fp32/notes.txt").write_text("new")
    (bundle / "config.json").unlink()
    (bundle / "evidence/parity.json").write_text("[]")
    with pytest.raises(CorruptBundle) as caught:
        verified_manifest(bundle)
    assert caught.value.extra == ("engines/onnx-fp32/notes.txt",)
    assert caught.value.missing == ("config.json",)
    assert caught.value.changed == ("evidence/parity.json",)


def test_report_for_people_is_outside_the_hashed_set(bundle: Path) -> None:
    (bundle / "evidence/report.html").write_text("<p>hello</p>")
    verified_manifest(bundle)


@pytest.mark.parametrize("kind", ["file", "folder", "dangling", "pipe"])
def test_anything_but_plain_files_and_folders_is_refused_by_name(bundle: Path, kind: str) -> None:
    odd = bundle / "tokenizer/odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to({"file": bundle / "config.json", "folder": bundle.parent, "dangling": "nowhere"}[kind])
    with pytest.raises(CorruptBundle, match="only plain files and folders are allowed") as caught:
        verified_manifest(bundle)
    assert caught.value.extra == ("tokenizer/odd",)


def test_file_replaced_by_a_link_to_equal_content_is_refused(bundle: Path, tmp_path: Path) -> None:
    moved = (bundle / "config.json").rename(tmp_path / "config.json")
    (bundle / "config.json").symlink_to(moved)
    with pytest.raises(CorruptBundle, match=r"extra: config\.json"):
        verified_manifest(bundle)


def test_manifest_behind_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    moved = (bundle / "bundle.json").rename(tmp_path / "bundle.json")
    (bundle / "bundle.json").symlink_to(moved)
    with pytest.raises(CorruptBundle, match=r"extra: bundle\.json"):
        verified_manifest(bundle)


def test_folder_without_manifest_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(NotFound, match=r"bundle\.json is missing"):
            read_manifest(place)


def test_newer_schema_is_refused_before_its_files_are_judged(bundle: Path) -> None:
    (bundle / "bundle.json").write_text('{"schema": 2}\n')
    with pytest.raises(Unsupported, match="upgrade nlpdeploy"):
        verified_manifest(bundle)


def test_digests_are_sha256_by_posix_path(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/空 c").write_bytes(b"abc")
    wanted = hashlib.sha256(b"abc").hexdigest()
    assert file_digest(tmp_path / "a/b/空 c") == wanted
    assert folder_digests(tmp_path) == {"a/b/空 c": wanted}


def test_an_engine_whose_file_is_not_among_the_hashed_ones_is_refused(tmp_path: Path) -> None:
    manifest = example_manifest()
    entry = dataclasses.replace(manifest.engines[0], file="../../elsewhere/model.onnx")
    manifest = dataclasses.replace(manifest, engines=(entry, *manifest.engines[1:])).sealed()
    (tmp_path / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    with pytest.raises(CorruptBundle, match=r"missing: \.\./\.\./elsewhere/model\.onnx"):
        verified_manifest(tmp_path)
