"""Archives: the same bytes each time, whole, sealed, and enough for a worker that has never heard of nlpdeploy."""

import ast
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from nlpdeploy.bundle.digest import file_digest, verified_manifest
from nlpdeploy.bundle.errors import CorruptBundle, EngineUnavailable, InvalidInput, NotFound
from nlpdeploy.bundle.specs import EngineState
from nlpdeploy.bundle.store import Store
from nlpdeploy.handlers import archive
from nlpdeploy.handlers.archive import ArchiveRequest, pack, write_archive
from nlpdeploy.handlers.reference import ReferenceHandler
from nlpdeploy.handlers.settings import ModelSettings
from nlpdeploy.handlers.zipped import check_zip
from support.checkpoints import random_classifier
from support.cli import nlpdeploy, one_line
from support.tiny_bundle import publish_tiny_bundle
from support.torchserve_context import Parameter, ask, new_context


def two_engines(manifest):
    failed = dataclasses.replace(manifest.engines[0], id="onnx-int8", state=EngineState.FAILED, reason="too far")
    return dataclasses.replace(manifest, engines=(*manifest.engines, failed))


@pytest.fixture
def published(tmp_path):
    return publish_tiny_bundle(tmp_path / "store", change=two_engines)


@pytest.fixture
def mar(published):
    return write_archive(pack(ArchiveRequest(published)), Store(published.path.parents[1]))


def unpacked(mar, folder):
    with zipfile.ZipFile(mar) as opened:
        opened.extractall(folder)
    return folder


def test_two_archives_of_one_bundle_are_the_same_file(published, mar, tmp_path):
    shutil.copytree(tmp_path / "store", tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o700)
    again = pack(ArchiveRequest(Store(tmp_path / "elsewhere").resolve("tiny")))
    second = write_archive(again, Store(tmp_path / "elsewhere"), tmp_path / "second.mar")
    assert mar.name == "tiny-1.mar"
    assert second.read_bytes() == mar.read_bytes()


def test_other_settings_are_another_archive(published, mar, tmp_path):
    other = pack(ArchiveRequest(published, ModelSettings(batch_size=16)))
    assert write_archive(other, Store(tmp_path), tmp_path / "other.mar").read_bytes() != mar.read_bytes()


def test_folders_are_kept_and_files_of_one_name_never_meet(tmp_path):
    def pooling(manifest):
        return manifest

    store = Store(tmp_path / "store")
    first = publish_tiny_bundle(store.root, change=pooling)
    with store.staging("tiny") as staging:
        shutil.copytree(first.path, staging.path, dirs_exist_ok=True)
        (staging.path / "bundle.json").unlink()
        (staging.path / "config.json").write_text('{"model_type": "bert"}')
        (staging.path / "tokenizer/config.json").write_text('{"pooling": "mean"}')
        second = store.publish(staging, dataclasses.replace(store.manifest("tiny:1"), files={}, digest=""))
    mar = write_archive(pack(ArchiveRequest(second)), store)
    folder = unpacked(mar, tmp_path / "unpacked")
    assert (folder / "bundle/config.json").read_text() == '{"model_type": "bert"}'
    assert (folder / "bundle/tokenizer/config.json").read_text() == '{"pooling": "mean"}'
    manifest = verified_manifest(folder / "bundle")
    assert all(file_digest(folder / "bundle" / path) == digest for path, digest in manifest.files.items())
    check_zip(mar)


def test_the_bundle_is_narrowed_to_the_engine_and_says_what_it_came_from(published, mar, tmp_path):
    whole = verified_manifest(published.path)
    inside = verified_manifest(unpacked(mar, tmp_path / "unpacked") / "bundle")
    assert [entry.id for entry in inside.engines] == ["onnx-fp32"]
    assert inside.derived_from == whole.digest
    assert inside.golden == whole.golden


def test_torchserves_manifest_is_as_its_own_archiver_writes_it(mar):
    from model_archiver.manifest_components.manifest import Manifest
    from model_archiver.manifest_components.model import Model

    model = Model("tiny", None, handler="nlpdeploy_handler.py", model_version="1", config_file="model-config.yaml")
    wanted = json.loads(str(Manifest("python", model)))
    with zipfile.ZipFile(mar) as opened:
        found = json.loads(opened.read("MAR-INF/MANIFEST.json"))
        names = opened.namelist()
    assert found | {"createdOn": ""} == wanted | {"createdOn": ""}
    assert found["createdOn"] == "01/01/2026 00:00:00"
    assert {"nlpdeploy_handler.py", "model-config.yaml"} <= set(names)
    assert names == sorted(names)


def test_the_settings_are_read_by_a_yaml_parser_as_they_were_given(published, tmp_path):
    import yaml

    settings = ModelSettings(2, 16, 5, 30, 240, 50, threads=1)
    packed = pack(ArchiveRequest(published, settings))
    assert yaml.safe_load(packed.contents["model-config.yaml"]) == {
        "minWorkers": 2, "maxWorkers": 2, "batchSize": 16, "maxBatchDelay": 5, "responseTimeout": 30,
        "startupTimeout": 240, "jobQueueSize": 50, "nlpdeploy": {"engine": "onnx-fp32", "threads": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cores", "threads", "workers"), [(2, 1, 2), (2, 2, 1), (8, 2, 4), (16, 1, 4), (4, 3, 1), (None, None, 1)]
)
def test_workers_are_as_many_as_the_engines_best_threads_fitted_into_the_cores(cores, threads, workers, tmp_path):
    def measured(manifest):
        options = {"cores": cores, "lone_threads": threads}
        return dataclasses.replace(manifest, engines=(dataclasses.replace(manifest.engines[0], options=options),))

    reference = publish_tiny_bundle(tmp_path / "store", change=measured)
    assert pack(ArchiveRequest(reference)).settings.for_torchserve()["maxWorkers"] == workers
    assert pack(ArchiveRequest(reference, ModelSettings(workers=3))).settings.workers == 3


@pytest.mark.parametrize("place", ["data", "name", "table", "code"])
def test_one_changed_byte_is_found_and_named(place, mar):
    raw = bytearray(mar.read_bytes())
    with zipfile.ZipFile(mar) as opened:
        entry = {
            "data": "bundle/engines/onnx-fp32/model.onnx",
            "name": "model-config.yaml",
            "table": "MAR-INF/digests.json",
            "code": "nlpdeploy_vendored/handlers/handler.py",
        }[place]
        offset = opened.getinfo(entry).header_offset
    raw[offset + 30 + (0 if place == "name" else len(entry) + 20)] ^= 1
    mar.write_bytes(raw)
    with pytest.raises(CorruptBundle, match=entry):
        check_zip(mar)


def test_a_file_packed_in_afterwards_is_found(mar):
    with zipfile.ZipFile(mar, "a") as opened:
        opened.writestr("sitecustomize.py", "print('mine')")
    with pytest.raises(CorruptBundle, match=r"extra: sitecustomize\.py"):
        check_zip(mar)


def test_no_archive_of_a_corrupt_bundle(published):
    (published.path / "tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(CorruptBundle, match=r"tokenizer/tokenizer\.json"):
        pack(ArchiveRequest(published))


def test_an_engine_that_is_not_ready_is_refused(published):
    with pytest.raises(EngineUnavailable, match="too far"):
        pack(ArchiveRequest(published, engine="onnx-int8"))
    with pytest.raises(NotFound, match="openvino"):
        pack(ArchiveRequest(published, engine="openvino-f32"))


def test_a_writer_that_fails_leaves_the_archive_that_was_there(published, mar, monkeypatch):
    before = mar.read_bytes()

    def full(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "sync", full)
    with pytest.raises(KeyboardInterrupt):
        write_archive(pack(ArchiveRequest(published, ModelSettings(batch_size=2))), Store(mar.parent))
    assert mar.read_bytes() == before
    assert {path.name for path in mar.parent.iterdir()} == {"tiny", mar.name, ".staging"}
    assert not list((mar.parent / ".staging").iterdir())


def test_vendored_code_imports_by_relative_names_alone(mar, tmp_path):
    folder = unpacked(mar, tmp_path / "unpacked")
    for path in (folder / "nlpdeploy_vendored").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            assert not [name for name in names if name.split(".")[0] == "nlpdeploy"], path


ALONE = """
import inspect, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"nlpdeploy", "torch", "transformers", "grpc", "google", "yaml", "openvino"}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Refuse())
import nlpdeploy_handler as module
from ts.context import Context, RequestProcessor
(only,) = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
context = Context("tiny", sys.argv[1], {"model": {}}, 4, None, "0.12.0")
handler = only()
handler.initialize(context)
context.request_processor = [RequestProcessor({"Host": "here"})]
print(handler.handle([{"body": "hello"}], context)[0].decode())
"""


def test_the_vendored_archive_answers_where_nlpdeploy_is_absent(mar, tmp_path):
    folder = unpacked(mar, tmp_path / "unpacked")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder)], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert json.loads(done.stdout or "null") == {"label": "hello", "score": pytest.approx(0.99, abs=0.05)}, done.stderr


def test_without_vendoring_the_code_stays_out(published):
    packed = pack(ArchiveRequest(published, vendor=False))
    assert not [path for path in packed.contents if path.startswith("nlpdeploy_vendored")]
    assert b"from nlpdeploy.handlers.handler import BundleHandler" in packed.contents["nlpdeploy_handler.py"]


@pytest.fixture
def reference(tmp_path):
    """A checkpoint, and a bundle that says it came from it."""
    checkpoint = random_classifier(tmp_path / "checkpoint")
    (checkpoint / "optimizer.pt").write_bytes(b"what only training needs")

    def from_checkpoint(manifest):
        weights = {"model.safetensors": file_digest(checkpoint / "model.safetensors")}
        return dataclasses.replace(manifest, source=dataclasses.replace(manifest.source, weights=weights))

    return publish_tiny_bundle(tmp_path / "store", change=from_checkpoint), checkpoint


def test_the_reference_answers_as_transformers_does(reference, tmp_path):
    from transformers import pipeline

    published, checkpoint = reference
    packed = pack(ArchiveRequest(published, checkpoint=checkpoint))
    mar = write_archive(packed, Store(tmp_path / "store"))
    assert mar.name == "tiny-reference-1.mar"
    assert "checkpoint/optimizer.pt" not in packed.contents
    assert b"import ReferenceHandler" in packed.contents["nlpdeploy_handler.py"]
    folder = unpacked(mar, tmp_path / "unpacked")
    context = new_context(folder)
    handler = ReferenceHandler()
    handler.initialize(context)
    texts = ["where is my order", "I want a refund please", "note"]
    asked = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [3], "data": texts}],
             "outputs": [{"name": "scores"}]}  # fmt: skip
    (answer,) = ask(handler, context, [[Parameter(json.dumps(asked).encode(), "application/json")]]).bodies
    classify = pipeline("text-classification", model=str(checkpoint), top_k=None)
    labels = ("refund", "delivery", "account", "other")
    want = []
    for text in texts:
        by_label = {found["label"]: found["score"] for found in classify([text], truncation=True, max_length=16)[0]}
        want += [by_label[label] for label in labels]
    assert answer["outputs"][0]["data"] == pytest.approx(want, abs=1e-6)
    assert answer["parameters"]["engine"] == "torch-fp32"


def test_another_checkpoint_is_no_reference(reference, tmp_path):
    published, _ = reference
    other = random_classifier(tmp_path / "other", seed=1)
    with pytest.raises(InvalidInput, match=r"model\.safetensors"):
        pack(ArchiveRequest(published, checkpoint=other))
    with pytest.raises(NotFound, match="nowhere"):
        pack(ArchiveRequest(published, checkpoint=tmp_path / "nowhere"))
    with pytest.raises(InvalidInput, match="--engine"):
        pack(ArchiveRequest(published, checkpoint=other, engine="onnx-fp32"))


def test_the_command_says_what_it_packed(published, tmp_path):
    done = nlpdeploy("archive", "tiny", "--store", tmp_path / "store", "--batch-size", 4, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["archive"] == str(tmp_path / "store/tiny-1.mar")
    assert result["sha256"] == file_digest(tmp_path / "store/tiny-1.mar")
    assert result["settings"]["batchSize"] == 4
    assert result["bundle"] == "tiny/1"
    check_zip(tmp_path / "store/tiny-1.mar")
    listed = nlpdeploy("models", "list", "--store", tmp_path / "store", "--json")
    assert [model["bundle"] for model in json.loads(listed.stdout)["models"]] == ["tiny/1"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-batch-delay", 0), ("--startup-timeout", 60), ("--workers", 0), ("--batch-size", 0), ("--queue-size", -1)],
)
def test_a_setting_that_torchserve_would_replace_is_refused(option, value, published, tmp_path):
    done = nlpdeploy("archive", "tiny", "--store", tmp_path / "store", option, value)
    assert done.returncode == 2
    assert f"{option}; found {value}" in one_line(done.stderr)
    assert not list((tmp_path / "store").glob("*.mar"))
