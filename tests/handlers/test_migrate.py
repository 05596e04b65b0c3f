"""Archives as torch-model-archiver packs them -> bundles; nothing in them is run."""

import json
import shutil
import sys
import zipfile
from subprocess import run

import pytest

from nlpdeploy.bundle.errors import CorruptBundle, InvalidInput, NotFound, Unsupported
from nlpdeploy.bundle.store import Store
from nlpdeploy.handlers.archive import ArchiveRequest, pack, write_archive
from nlpdeploy.handlers.migrate import unpack_checkpoint
from support.checkpoints import change_json, random_classifier
from support.cli import nlpdeploy, one_line
from support.tiny_bundle import publish_tiny_bundle

LABELS = ("refund", "delivery", "account", "other")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return random_classifier(tmp_path_factory.mktemp("saved") / "checkpoint", labels=LABELS)


@pytest.fixture
def checkpoint(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


def archived(checkpoint, folder, *, name="support", labels=None, setup=None, nested=False):
    """Pack a checkpoint with the real archiver and a handler that leaves a trace wherever it runs."""
    extra = folder / "extra"
    extra.mkdir()
    if labels is not None:
        (extra / "index_to_name.json").write_text(json.dumps(labels))
    if setup is not None:
        (extra / "setup_config.json").write_text(json.dumps(setup))
    handler = folder / "handler.py"
    handler.write_text(f"open({str(folder / 'it-ran')!r}, 'w').close()\nclass Handler:\n    pass\n")
    files = [str(path) for path in extra.iterdir()]
    if nested:
        shutil.copytree(checkpoint, extra / "holder/Transformer_model")
        files.append(str(extra / "holder"))
    else:
        files += [str(path) for path in checkpoint.iterdir() if path.suffix != ".safetensors"]
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", "1.0",
               "--serialized-file", str(checkpoint / "model.safetensors"), "--handler", str(handler),
               "--extra-files", ",".join(files), "--export-path", str(folder)]  # fmt: skip
    run(command, check=True, timeout=120)
    return folder / f"{name}.mar"


def test_the_checkpoint_comes_out_as_it_was_packed(checkpoint, tmp_path):
    mar = archived(checkpoint, tmp_path, labels=dict(enumerate(LABELS)))
    found = unpack_checkpoint(mar, tmp_path / "out")
    assert found.name == "support"
    assert found.labels is None  # the checkpoint says the same
    assert {path.name: path.read_bytes() for path in found.checkpoint.iterdir()} == {
        path.name: path.read_bytes() for path in checkpoint.iterdir()
    }
    assert not (tmp_path / "it-ran").exists()


def test_a_checkpoint_in_a_folder_of_the_archive_is_found(checkpoint, tmp_path):
    mar = archived(checkpoint, tmp_path, nested=True)
    found = unpack_checkpoint(mar, tmp_path / "out")
    assert {path.name for path in found.checkpoint.iterdir()} == {path.name for path in checkpoint.iterdir()}


def test_labels_of_the_handler_stand_in_for_generic_ones(checkpoint, tmp_path):
    change_json(checkpoint / "config.json", id2label={str(i): f"LABEL_{i}" for i in range(4)}, label2id=None)
    mar = archived(checkpoint, tmp_path, labels={"mapping": {str(i): ["n0", name] for i, name in enumerate(LABELS)}})
    assert unpack_checkpoint(mar, tmp_path / "out").labels == LABELS


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"0": "delivery", "1": "refund", "2": "account", "3": "other"}, "class 0 is 'delivery' in index_to_name.json"),
        ({"0": "refund", "1": "delivery"}, "class 2 is 'nothing' in index_to_name.json and 'account' in config.json"),
        ({"0": "refund", "2": "account"}, "labels by index from 0"),
        (["refund"], "labels by index from 0"),
    ],
)
def test_labels_that_contradict_are_refused_by_name(labels, words, checkpoint, tmp_path):
    mar = archived(checkpoint, tmp_path, labels=labels)
    with pytest.raises(InvalidInput, match=words):
        unpack_checkpoint(mar, tmp_path / "out")
    assert unpack_checkpoint(mar, tmp_path / "out", labels_given=True).labels is None


def test_settings_of_torchserves_own_handler_are_told(checkpoint, tmp_path):
    mar = archived(
        checkpoint, tmp_path, setup={"max_length": "40", "do_lower_case": True, "mode": "sequence_classification"}
    )
    notes = unpack_checkpoint(mar, tmp_path / "out").notes
    assert "40 tokens" in notes[0]
    assert "do_lower_case" in notes[1]


def rewritten(mar, path, change):
    """The archive with entries changed: ``change(name, data)`` gives the new data, or None to leave it out."""
    with zipfile.ZipFile(mar) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return path


def test_an_archive_without_a_checkpoint_says_what_it_holds(checkpoint, tmp_path):
    mar = archived(checkpoint, tmp_path)
    no_config = rewritten(mar, tmp_path / "a.mar", lambda name, data: None if name == "config.json" else data)
    with pytest.raises(Unsupported, match=r"found model\.safetensors; wanted config\.json"):
        unpack_checkpoint(no_config, tmp_path / "out")
    traced = rewritten(mar, tmp_path / "b.mar", lambda name, data: None if name == "model.safetensors" else data)
    with zipfile.ZipFile(traced, "a") as opened:
        opened.writestr("traced_model.pt", b"TorchScript")
    with pytest.raises(Unsupported, match=r"traced_model\.pt"):
        unpack_checkpoint(traced, tmp_path / "out")


def test_weights_under_another_name_are_those_that_the_manifest_names(checkpoint, tmp_path):
    mar = archived(checkpoint, tmp_path)

    def renamed(name, data):
        return data.replace(b"model.safetensors", b"epoch3.safetensors") if name.startswith("MAR-INF") else data

    path = rewritten(mar, tmp_path / "a.mar", lambda n, d: None if n == "model.safetensors" else renamed(n, d))
    with zipfile.ZipFile(path, "a") as opened:
        opened.write(checkpoint / "model.safetensors", "epoch3.safetensors")
    found = unpack_checkpoint(path, tmp_path / "out")
    assert (found.checkpoint / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_nothing_is_written_outside_and_two_checkpoints_are_one_too_many(checkpoint, tmp_path):
    mar = archived(checkpoint, tmp_path)
    with zipfile.ZipFile(mar, "a") as opened:
        opened.writestr("../evil.json", "{}")
        opened.writestr("/tmp/evil.json", "{}")
        opened.writestr("sub/../../evil.txt", "x")
    out = tmp_path / "deep/out"
    unpack_checkpoint(mar, out)
    assert {path.name for path in out.iterdir()} == {path.name for path in checkpoint.iterdir()}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    with zipfile.ZipFile(mar, "a") as opened:
        opened.write(checkpoint / "config.json", "second/config.json")
        opened.write(checkpoint / "model.safetensors", "second/model.safetensors")
    with pytest.raises(InvalidInput, match="second; wanted one"):
        unpack_checkpoint(mar, tmp_path / "out")


def test_damaged_and_foreign_files_are_refused(checkpoint, tmp_path):
    mar = archived(checkpoint, tmp_path)
    raw = bytearray(mar.read_bytes())
    with zipfile.ZipFile(mar) as opened:
        entry = opened.getinfo("model.safetensors")
    raw[entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2] ^= 0x55
    (tmp_path / "damaged.mar").write_bytes(raw)
    with pytest.raises(CorruptBundle, match=r"model\.safetensors"):
        unpack_checkpoint(tmp_path / "damaged.mar", tmp_path / "out")
    (tmp_path / "text.mar").write_text("no zip")
    with pytest.raises(InvalidInput, match="zip"):
        unpack_checkpoint(tmp_path / "text.mar", tmp_path / "out2")
    with pytest.raises(NotFound, match=r"nowhere\.mar"):
        unpack_checkpoint(tmp_path / "nowhere.mar", tmp_path / "out2")
    with zipfile.ZipFile(tmp_path / "bare.mar", "w") as opened:
        opened.writestr("config.json", "{}")
    with pytest.raises(NotFound, match=r"MAR-INF/MANIFEST\.json"):
        unpack_checkpoint(tmp_path / "bare.mar", tmp_path / "out2")


def test_an_archive_of_a_bundle_has_nothing_to_migrate(tmp_path):
    reference = publish_tiny_bundle(tmp_path / "store")
    mar = write_archive(pack(ArchiveRequest(reference)), Store(tmp_path / "store"))
    with pytest.raises(Unsupported, match="no Transformers checkpoint"):
        unpack_checkpoint(mar, tmp_path / "out")


def test_the_command_publishes_a_bundle_that_answers_with_the_handlers_labels(checkpoint, tmp_path):
    change_json(checkpoint / "config.json", id2label={str(i): f"LABEL_{i}" for i in range(4)}, label2id=None)
    mar = archived(checkpoint, tmp_path, labels=dict(enumerate(LABELS)))
    store = tmp_path / "store"
    done = nlpdeploy(
        "migrate", mar, "--engines", "onnx-fp32", "--timing-seconds", 1, "--store", store, "--keep", tmp_path / "kept",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["bundle"], tuple(result["labels"])) == ("support/1", LABELS)
    assert (tmp_path / "kept/config.json").is_file()
    assert not (tmp_path / "it-ran").exists()
    answer = nlpdeploy("predict", "support", "where is my order", "--store", store, "--json")
    assert json.loads(answer.stdout)[0]["label"] in LABELS


def test_a_contradiction_ends_the_command_with_2_and_publishes_nothing(checkpoint, tmp_path):
    mar = archived(checkpoint, tmp_path, labels={"0": "x", "1": "delivery", "2": "account", "3": "other"})
    done = nlpdeploy("migrate", mar, "--store", tmp_path / "store")
    assert done.returncode == 2
    assert "'x' in index_to_name.json and 'refund' in config.json" in one_line(done.stderr)
    assert not (tmp_path / "store").exists()
