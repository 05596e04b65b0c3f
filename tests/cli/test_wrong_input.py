"""Wrong input gets one line and status 2, at once, and leaves nothing behind."""

import json
import shutil
import signal
import socket

import pytest

from nlpdeploy.cli.main import main
from support.checkpoints import change_json, random_classifier
from support.cli import one_line
from support.tiny_bundle import publish_tiny_bundle


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return random_classifier(tmp_path_factory.mktemp("checkpoint") / "shop")


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture(scope="module")
def served_store(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    publish_tiny_bundle(root)
    return root


def refused(capsys, *arguments, status=2):
    """Run in this process; the one line on standard error."""
    assert main([str(argument) for argument in arguments]) == status
    streams = capsys.readouterr()
    assert streams.out == ""
    return one_line(streams.err)


def export_refused(capsys, store, *arguments, status=2):
    line = refused(capsys, "export", *arguments, "--store", store, status=status)
    assert not list(store.rglob("bundle.json"))
    return line


def test_no_such_folder(capsys, store, tmp_path):
    assert f"no checkpoint folder {tmp_path / 'absent'}" in export_refused(capsys, store, tmp_path / "absent")


def test_a_folder_without_config(capsys, store, tmp_path):
    assert "config.json" in export_refused(capsys, store, tmp_path)


def test_a_folder_without_weights(capsys, store, copy):
    (copy / "model.safetensors").unlink()
    assert "weights" in export_refused(capsys, store, copy)


def test_an_unknown_architecture(capsys, store, copy):
    change_json(copy / "config.json", model_type="gpt2", architectures=["GPT2ForSequenceClassification"])
    assert "gpt2" in export_refused(capsys, store, copy).lower()


def test_a_task_that_can_not_be_told(capsys, store, copy):
    change_json(copy / "config.json", architectures=["BertModel"])
    assert "--task" in export_refused(capsys, store, copy)


def test_an_unknown_task(capsys, store, checkpoint):
    assert "summarisation" in export_refused(capsys, store, checkpoint, "--task", "summarisation")


def test_an_unknown_engine(capsys, store, checkpoint):
    line = export_refused(capsys, store, checkpoint, "--engines", "onnx-fp32,onnx-fp64")
    assert "'onnx-fp64'" in line
    assert "onnx-int8" in line


def test_a_data_file_without_the_column(capsys, store, checkpoint, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("question,intent\nhello,refund\n")
    line = export_refused(capsys, store, checkpoint, "--data", data, "--text-column", "text")
    assert "'text'" in line
    assert "question, intent" in line


def test_labels_that_the_model_does_not_know(capsys, store, checkpoint, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("text,label\nhello,refund\nbye,parcel_lost\n")
    line = export_refused(capsys, store, checkpoint, "--data", data, "--text-column", "text", "--label-column", "label")
    assert "parcel_lost" in line


def test_columns_without_data(capsys, store, checkpoint):
    assert "--data" in export_refused(capsys, store, checkpoint, "--label-column", "label")


def test_a_name_that_is_none(capsys, store, checkpoint):
    assert "'../up'" in export_refused(capsys, store, checkpoint, "--name", "../up")


def test_a_store_that_is_a_file(capsys, checkpoint, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    line = refused(capsys, "export", checkpoint, "--store", blocked)
    assert str(blocked) in line


@pytest.mark.parametrize("arguments", [["predict", "intent", "hello"], ["models", "show", "intent"]])
def test_an_empty_store(capsys, store, arguments):
    line = refused(capsys, *arguments, "--store", store)
    assert "empty" in line
    assert "nlpdeploy export" in line


def test_an_empty_store_to_serve(capsys, store):
    assert main(["serve", "--store", str(store), "--http-port", "0", "--grpc-port", "0"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "empty store" in last
    assert "nlpdeploy export" in last


def test_an_unknown_name_names_the_known_ones(capsys, served_store):
    assert "tiny" in refused(capsys, "predict", "intent", "hello", "--store", served_store)


def test_an_unknown_version_names_the_known_ones(capsys, served_store):
    line = refused(capsys, "predict", "tiny:7", "hello", "--store", served_store)
    assert "version 7" in line
    assert "versions 1" in line


@pytest.mark.parametrize("version", ["0", "x", "-1", "1.5", ""])
def test_a_version_that_is_no_number(capsys, served_store, version):
    assert "version" in refused(capsys, "predict", f"tiny:{version}", "hello", "--store", served_store)


def test_an_unknown_engine_to_predict_with(capsys, served_store):
    assert "onnx-fp32" in refused(capsys, "predict", "tiny", "hello", "--engine", "nope", "--store", served_store)


def test_no_texts_to_predict(capsys, served_store):
    assert "at least one" in refused(capsys, "predict", "tiny", "--store", served_store)


def test_a_port_in_use(capsys, served_store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--store", str(served_store), "--http-port", str(port), "--grpc-port", "0"]) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a failed start leaves Ctrl-C as it was
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"127.0.0.1:{port}" in last
    assert "--http-port" in last


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-message-mib", "1e9"),
        ("--max-message-mib", "1e-9"),
        ("--max-message-mib", "nan"),
        ("--threads", "99999"),
        ("--max-connections", "0"),
        ("--max-connections", "4e3"),
        ("--max-header-kib", "0.5"),
        ("--max-header-kib", "much"),
        ("--max-queue-rows", "-1"),
        ("--max-queue-tokens", "0"),
        ("--slow-client", "60"),
        ("--slow-client", "1us"),
        ("--default-timeout", "soon"),
        ("--default-timeout", "0s"),
        ("--grace", "9999h"),
    ],
)
def test_a_setting_out_of_range(capsys, served_store, option, value):
    assert option in refused(capsys, "serve", "--store", served_store, option, value)


LOAD = ["loadtest", "run", "--url", "grpc://127.0.0.1:1", "--model", "tiny", "--rate", "10", "--seconds", "1"]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text\nhello\n")
    return path


@pytest.mark.parametrize("target", ["p95", "p95=45", "p0=1ms", "q95=45ms", "p95=-1ms", "p95=", "p95=45 parsecs"])
def test_a_bad_target(capsys, texts, target):
    line = refused(capsys, *LOAD, "--data", texts, "--target", target)
    assert target in line
    assert "p95=45ms" in line


def test_a_server_that_is_not_there(capsys, texts, tmp_path):
    run_dir = tmp_path / "run"
    line = refused(capsys, *LOAD, "--data", texts, "--target", "p95=45ms", "--run-dir", run_dir)
    assert "127.0.0.1:1" in line


def test_a_run_folder_that_is_not_empty(capsys, texts):
    line = refused(capsys, *LOAD, "--data", texts, "--target", "p95=45ms", "--run-dir", texts.parent)
    assert "--run-dir" in line


def test_a_run_folder_without_a_run_to_judge(capsys, tmp_path):
    assert str(tmp_path) in refused(capsys, "loadtest", "judge", tmp_path)


def test_models_delete_needs_a_version(capsys, served_store):
    assert "tiny:N" in refused(capsys, "models", "delete", "tiny", "--store", served_store)


def test_one_byte_changed_in_any_file_is_named_by_verify_and_predict(capsys, tmp_path):
    reference = publish_tiny_bundle(tmp_path / "store")
    for path in sorted(p for p in reference.path.rglob("*") if p.is_file()):
        original = path.read_bytes()
        changed = bytearray(original)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(bytes(changed))
        for command in (["models", "verify", "tiny"], ["predict", "tiny", "hello"]):
            assert path.name in refused(capsys, *command, "--store", tmp_path / "store")
        path.write_bytes(original)
    assert main(["models", "verify", "tiny", "--store", str(tmp_path / "store"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == "verified"


@pytest.mark.parametrize(
    "option", [["--target", "p95=45"], ["--rate", "fast"], ["--target", "p95=5s"]], ids=lambda option: option[1]
)
def test_the_demo_refuses_its_flags_before_it_trains(capsys, tmp_path, option):
    assert "wanted" in refused(capsys, "demo", "--dir", tmp_path / "demo", *option)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("command", [["models", "list"], ["predict", "tiny", "hello"]])
def test_a_file_as_the_store_is_no_empty_store(capsys, tmp_path, command):
    blocked = tmp_path / "file"
    blocked.write_text("")
    line = refused(capsys, *command, "--store", blocked)
    assert "Not a directory" in line
    assert str(blocked) in line


def test_a_file_as_the_work_folder_of_the_demo(capsys, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["demo", "--dir", str(blocked)]) == 2
    assert "--dir" in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_archive_into_no_folder(capsys, served_store, tmp_path):
    line = refused(capsys, "archive", "tiny", "--output", tmp_path / "absent" / "a.mar", "--store", served_store)
    assert "no such folder" in line
    assert "--output" in line


def test_a_load_test_of_no_url(capsys, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("text\nhello\n")
    arguments = ["--model", "m", "--data", data, "--rate", "10", "--seconds", "5", "--target", "p95=45ms"]
    assert "grpc://HOST:PORT" in refused(capsys, "loadtest", "run", "--url", "localhost", *arguments)


def test_a_host_that_is_another_machine(capsys, served_store):
    arguments = ["serve", "--store", str(served_store), "--host", "192.0.2.1", "--grpc-port", "0", "--http-port", "0"]
    assert main(arguments) == 2
    assert "--host" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_broken_manifest_is_named_with_its_folder(capsys, tmp_path):
    (tmp_path / "intent" / "1").mkdir(parents=True)
    manifest = tmp_path / "intent" / "1" / "bundle.json"
    manifest.write_text("{")
    assert str(manifest) in refused(capsys, "models", "show", "intent", "--store", tmp_path)
