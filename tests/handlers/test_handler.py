"""The handler with TorchServe's own worker code around it, over a real small bundle."""

import json
import shutil

import numpy as np
import pytest

from nlpdeploy.bundle import errors
from nlpdeploy.bundle.specs import Task
from nlpdeploy.handlers import replies
from nlpdeploy.handlers.bodies import MAX_TEXTS
from nlpdeploy.handlers.handler import FAILED_MARK, BundleHandler
from nlpdeploy.handlers.metrics import BATCH, ENCODE, INFER, TOKENS
from nlpdeploy.handlers.sealed import SEALS_NAME, seals
from nlpdeploy.runtime import load
from nlpdeploy.wire import status
from support.engines import LABELS, TinyEngine, tiny_model, tiny_predictor
from support.tiny_bundle import publish_tiny_bundle
from support.torchserve_context import Parameter, ask, new_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An unpacked archive: a bundle and the table of digests."""
    root = tmp_path_factory.mktemp("store")
    archive = tmp_path_factory.mktemp("unpacked")
    shutil.copytree(publish_tiny_bundle(root).path, archive / "bundle")
    seal(archive)
    return archive


def seal(archive):
    files = {path.relative_to(archive).as_posix(): path for path in archive.rglob("*") if path.is_file()}
    files.pop(SEALS_NAME, None)
    (archive / SEALS_NAME).parent.mkdir(exist_ok=True)
    (archive / SEALS_NAME).write_bytes(seals(files))


@pytest.fixture
def context(folder):
    return new_context(folder)


@pytest.fixture
def handler(context):
    handler = BundleHandler()
    handler.initialize(context)
    return handler


def plain(text):
    return [Parameter(text.encode(), "text/plain")]


def body(value):
    return [Parameter(json.dumps(value).encode(), "application/json")]


def tensors(*texts, name="text", datatype="BYTES", shape=None, **more):
    tensor = {"name": name, "datatype": datatype, "shape": shape or [len(texts)], "data": list(texts)}
    return {"inputs": [tensor], **more}


def test_every_request_of_a_batch_gets_its_own_answer_in_order(handler, context):
    answered = ask(handler, context, [plain("hello"), plain("world"), plain("note")])
    assert [answer["label"] for answer in answered.bodies] == ["hello", "world", "note"]
    assert answered.statuses == [200, 200, 200]
    assert answered.content_types == ["application/json"] * 3


@pytest.mark.parametrize(
    "request_",
    [
        [Parameter(b"hello", "text/plain")],
        [Parameter(b"hello")],
        [Parameter(b'{"text": "hello"}', "application/json")],
        [Parameter(b'{"text": "hello"}')],
        [Parameter(b'"hello"', "application/json")],
        [Parameter(b"hello", name="data")],
        [Parameter(b"hello", name="text")],
        [Parameter(b'{"text": "hello"}', name="data")],
        [Parameter(b"\xef\xbb\xbfhello", "text/plain")],
        [Parameter(b'\xef\xbb\xbf{"text": "hello"}', "application/json")],
    ],
)
def test_a_body_means_the_same_in_every_encoding(request_, handler, context):
    expected = ask(handler, context, [plain("hello")]).bodies[0]
    answered = ask(handler, context, [request_])
    assert answered.statuses == [200]
    assert answered.bodies[0]["label"] == "hello"
    assert answered.bodies[0]["score"] == pytest.approx(expected["score"], abs=1e-6)


def test_bytes_that_are_no_utf8_fail_their_own_request_alone(handler, context):
    answered = ask(handler, context, [plain("hello"), [Parameter(b"\xff\xfe", "text/plain")], plain("world")])
    assert answered.statuses == [200, 400, 200]
    assert answered.bodies[0]["label"] == "hello"
    assert answered.bodies[2]["label"] == "world"
    assert answered.bodies[1] == {
        "error": "body; found byte 0xff at 0; wanted UTF-8", "code": 400, "type": "InvalidInput",
    }  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        {"text": ["hello", "world"]},
        ["hello", "world"],
        {"instances": ["hello", "world"]},
        {"instances": [{"text": "hello"}, {"data": "world"}]},
    ],
)
def test_a_list_of_texts_is_answered_with_a_list(value, handler, context):
    (answer,) = ask(handler, context, [body(value)]).bodies
    assert [prediction["label"] for prediction in answer["predictions"]] == ["hello", "world"]
    assert set(answer) == {"predictions"}


def test_the_open_inference_protocol_is_answered_in_its_own_form(handler, context, folder):
    asked = tensors("hello", "world", id="r7", outputs=[{"name": "scores"}, {"name": "label"}, {"name": "tokens"}])
    (answer,) = ask(handler, context, [body(asked)]).bodies
    predictor = load(folder / "bundle")
    want = [list(found.scores.values()) for found in predictor(["hello", "world"])]
    assert answer["id"] == "r7"
    assert (answer["model_name"], answer["model_version"]) == ("tiny", "3")
    assert answer["parameters"] == {"bundle_digest": predictor.manifest.digest, "engine": "onnx-fp32"}
    scores, labels, tokens = answer["outputs"]
    assert (scores["name"], scores["datatype"], scores["shape"]) == ("scores", "FP32", [2, len(LABELS)])
    np.testing.assert_allclose(np.reshape(scores["data"], scores["shape"]), want, atol=1e-6)
    assert labels == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["hello", "world"]}
    assert tokens["data"] == [3, 3]


def test_an_answer_says_how_many_texts_were_cut(handler, context):
    (answer,) = ask(handler, context, [body(tensors("hello " * 100, "world"))]).bodies
    assert answer["parameters"]["truncated_rows"] == 1


def test_the_same_by_the_frontends_grpc_has_base64_in_and_an_answer_whatever_happens(handler, context):
    good, wrong, empty = tensors("aGVsbG8="), tensors("hello?"), tensors(shape=[1])
    answered = ask(handler, context, [body(asked) for asked in (good, wrong, empty)], http=False)
    assert answered.bodies[0]["outputs"][0]["data"] == ["hello"]
    for answer in answered.bodies[1:]:
        assert set(answer) >= {"id", "model_name", "model_version", "outputs"}
        assert answer["outputs"][0]["name"] == "error"
        assert answer["parameters"] == {"code": 400}
    assert "drops raw contents" in answered.bodies[2]["outputs"][0]["data"][0]


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ([], 400, "fields of the request; found none"),
        ([Parameter(b"hello", name="other")], 400, "found other"),
        ([Parameter(b"{", "application/json")], 400, "not JSON"),
        (body(7), 400, "found int"),
        (body(None), 400, "found NoneType"),
        (body({"txt": "hello"}), 400, "an object with txt"),
        (body({"text": 7}), 400, "found int"),
        (body({"text": []}), 400, "no text"),
        (body({"text": ["hello", None]}), 400, "text[1]"),
        (body({"text": "hello\ud800"}), 400, "UTF-8"),
        (body({"text": "hello", "text_pair": "world"}), 400, "text_pair"),
        (body({"instances": "hello"}), 400, "wanted a list"),
        (body({"instances": [["hello"]]}), 400, "nested"),
        (body({"instances": [{"text": "a", "text_pair": "b"}, "c"]}), 400, "1 of 2 instances"),
        (body(["a"] * (MAX_TEXTS + 1)), 413, str(MAX_TEXTS)),
        (body({"inputs": "hello"}), 400, "list of tensors"),
        (body({"inputs": []}), 400, "none named text"),
        (body(tensors("hello", name="input_ids")), 400, "input_ids"),
        (body(tensors("hello", datatype="FP32")), 400, "FP32"),
        (body(tensors("hello", shape=[2])), 400, "1 values for shape [2]"),
        (body(tensors("hello", outputs=[{"name": "feeling"}])), 404, "feeling"),
        (body(tensors("hello", outputs=["label"])), 400, "outputs"),
    ],
)
def test_what_is_not_understood_is_refused_by_name_and_spoils_nothing(request_, status, words, handler, context):
    answered = ask(handler, context, [plain("hello"), request_, plain("world")])
    assert answered.statuses == [200, status, 200]
    assert words in answered.bodies[1]["error"]
    assert [answered.bodies[0]["label"], answered.bodies[2]["label"]] == ["hello", "world"]


def test_a_description_says_what_is_served(handler, context, folder):
    (answer,) = ask(handler, context, [[]], describe="True").bodies
    assert answer["bundle_digest"] == load(folder / "bundle").manifest.digest
    assert (answer["engine"], answer["labels"]) == ("onnx-fp32", list(LABELS))
    assert answer["outputs"][:2] == ["label", "score"]


def test_a_description_has_all_that_a_front_needs_to_know_the_model(handler, context, folder):
    manifest = load(folder / "bundle").manifest
    (answer,) = ask(handler, context, [[]], describe="True").bodies
    assert (answer["nlpdeploy"], answer["version"]) == (replies.DESCRIPTION, "3")
    assert (answer["task"], answer["activation"]) == (str(manifest.model.task), str(manifest.model.activation))
    assert (answer["pair"], answer["max_length"]) == (manifest.model.pair, manifest.model.max_length)
    assert (answer["runtime"], answer["precision"], answer["layout"]) == ("onnxruntime", "fp32", "padded")
    assert (answer["workers"], answer["batch_size"]) == (1, 4)


def test_a_description_asked_for_in_a_batch_disturbs_no_other_request(handler, context):
    answered = ask(handler, context, [plain("hello"), plain(""), plain("world")], only=1, describe="true")
    assert answered.statuses == [200, 200, 200]
    assert [answered.bodies[0]["label"], answered.bodies[2]["label"]] == ["hello", "world"]
    assert answered.bodies[1]["nlpdeploy"] == replies.DESCRIPTION


def test_explanations_are_not_served(handler, context):
    answered = ask(handler, context, [plain("hello")], explain="True")
    assert answered.statuses == [501]
    assert ask(handler, context, [plain("hello")], explain="False").statuses == [200]


def test_a_text_may_begin_with_a_brace(handler, context):
    answered = ask(handler, context, [[Parameter(b"{hello} hello")], [Parameter(b'{"text": "world"}', "text/plain")]])
    assert answered.statuses == [200, 200]
    assert answered.bodies[0]["label"] == "hello"


def test_a_pair_model_wants_pairs_in_every_form(tmp_path, context):
    handler = BundleHandler()
    handler.serve_with(tiny_predictor(tmp_path, model=tiny_model(pair=True)), context)
    asked = [
        body({"text": "hello", "text_pair": "a"}),
        body({"text": ["hello", "world"], "text_pair": ["a", "a"]}),
        body({"instances": [{"text": "note", "text_pair": "a"}]}),
        [Parameter(b"world", name="text"), Parameter(b"a", name="text_pair")],
        plain("hello"),
        body({"text": ["hello"], "text_pair": ["a", "b"]}),
    ]
    answered = ask(handler, context, asked)
    assert answered.statuses == [200, 200, 200, 200, 400, 400]
    assert answered.bodies[0]["label"] == "hello"
    assert [p["label"] for p in answered.bodies[1]["predictions"]] == ["hello", "world"]
    assert answered.bodies[3]["label"] == "world"


def test_regression_has_a_score_and_no_label(tmp_path, context):
    handler = BundleHandler()
    handler.serve_with(tiny_predictor(tmp_path, model=tiny_model(task=Task.REGRESSION)), context)
    (answer,) = ask(handler, context, [plain("hello")]).bodies
    assert set(answer) == {"score"}


def test_a_row_that_comes_out_as_nan_is_an_error_of_its_request_alone(tmp_path, context):
    handler = BundleHandler()
    handler.serve_with(tiny_predictor(tmp_path, TinyEngine(nan_word="note")), context)
    answered = ask(handler, context, [plain("hello"), plain("note"), body(["world", "note"]), plain("world")])
    assert answered.statuses == [200, 500, 500, 200]
    assert "NaN" in answered.bodies[1]["error"]
    assert [answered.bodies[0]["label"], answered.bodies[3]["label"]] == ["hello", "world"]


def test_an_engine_that_raises_for_one_text_answers_the_others_and_tells_nothing_of_its_insides(tmp_path, context):
    handler = BundleHandler()
    handler.serve_with(tiny_predictor(tmp_path, TinyEngine(raise_word="note")), context)
    answered = ask(handler, context, [plain("hello"), plain("note")])
    assert answered.statuses == [200, 500]
    assert "dance" not in answered.bodies[1]["error"]


def test_texts_of_a_batch_run_together_as_the_planner_says(tmp_path, context):
    engine = TinyEngine()
    handler = BundleHandler()
    handler.serve_with(tiny_predictor(tmp_path, engine), context)
    ask(handler, context, [plain("hello"), body(["world", "note a"]), plain("a")])
    assert [len(batch) for batch in engine.batches] == [4]


def test_a_batch_is_reported_to_torchserves_metrics(handler, context):
    answered = ask(handler, context, [plain("hello"), body(["world", "note"])])
    values = dict(answered.metrics)
    assert set(values) == {ENCODE, INFER, TOKENS, BATCH}
    assert values[BATCH] == 3
    assert values[TOKENS] == 9
    assert values[INFER] > 0


def test_threads_are_the_cores_over_the_workers(folder, monkeypatch):
    import nlpdeploy.handlers.handler as module

    given = []
    monkeypatch.setattr(module, "usable_cores", lambda: 6)
    monkeypatch.setattr(module, "load", lambda *a, **options: given.append(options["threads"]) or load(*a, **options))
    for config in ({}, {"maxWorkers": 2}, {"maxWorkers": 8}, {"maxWorkers": 2, "nlpdeploy": {"threads": 1}}):
        BundleHandler().initialize(new_context(folder, config=config))
    assert given == [6, 3, 1, 1]


def test_an_engine_that_the_bundle_lacks_stops_the_start(folder, caplog):
    with pytest.raises(RuntimeError, match="openvino-f32"):
        BundleHandler().initialize(new_context(folder, config={"nlpdeploy": {"engine": "openvino-f32"}}))
    assert FAILED_MARK in caplog.text


@pytest.mark.parametrize("name", ["bundle/engines/onnx-fp32/model.onnx", "bundle/tokenizer/tokenizer.json", SEALS_NAME])
def test_one_changed_byte_stops_the_start_and_the_log_names_the_file(name, folder, tmp_path, caplog):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(RuntimeError, match="not what was packed"):
        BundleHandler().initialize(new_context(copy))
    assert FAILED_MARK in caplog.text
    assert name in caplog.text


def test_a_missing_file_stops_the_start_and_pythons_caches_do_not(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__/handler.cpython-311.pyc").write_bytes(b"cache")
    BundleHandler().initialize(new_context(copy))
    (copy / "bundle/tokenizer/tokenizer.json").unlink()
    with pytest.raises(RuntimeError, match=r"missing: bundle/tokenizer/tokenizer\.json"):
        BundleHandler().initialize(new_context(copy))


def test_golden_samples_are_replayed_before_ready(tmp_path, caplog):
    import dataclasses

    def lie(manifest):
        first = manifest.golden[0]
        wrong = dataclasses.replace(first, logits=tuple(value + 1 for value in first.logits))
        return dataclasses.replace(manifest, golden=(wrong, *manifest.golden[1:]))

    archive = tmp_path / "unpacked"
    shutil.copytree(publish_tiny_bundle(tmp_path / "store", change=lie).path, archive / "bundle")
    seal(archive)
    with pytest.raises(RuntimeError, match="onnx-fp32"):
        BundleHandler().initialize(new_context(archive))
    assert "golden samples" in caplog.text


def test_the_statuses_are_the_servers():
    assert {kind: found.http for kind, found in status.STATUS.items()} == replies.STATUS


def test_an_error_of_any_kind_has_a_status():
    class Odd(errors.InvalidInput):
        pass

    assert replies.status_of(Odd("x")) == 400
