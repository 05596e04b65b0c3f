"""Texts and arrays -> tensors, responses -> predictions."""

from dataclasses import replace

import numpy as np
import pytest

from nlpdeploy.bundle.errors import EngineFailed, InvalidInput, Unsupported
from nlpdeploy.bundle.specs import TensorSpec
from nlpdeploy.client.answers import (
    array_tensors,
    metadata_answers,
    output_names,
    prediction_outputs,
    read_labels,
    read_predictions,
    request_parameters,
    text_tensors,
)
from nlpdeploy.wire.codec_raw import NUMBERS
from nlpdeploy.wire.tensors import InferResponse, ModelMetadata, Tensor

RAW = "人\0".encode()
OUTPUTS = tuple(TensorSpec(name, "FP32", (-1,)) for name in ("label", "score", "scores", "logits", "truncated"))
METADATA = ModelMetadata("m", ("1",), "x", (), OUTPUTS, {"labels": '["no", "yes"]', "bundle_digest": "d1"})


def tensor(name, values, dtype="FP32"):
    return Tensor(name, dtype, np.array(values, dtype=object if dtype == "BYTES" else NUMBERS[dtype]))


def response(*outputs, **parameters):
    return InferResponse("m", "1", "", outputs, parameters)


WHOLE = response(
    tensor("score", [0.75, 0.5]),
    tensor("label", [b"yes", "否".encode()], "BYTES"),
    tensor("scores", [[0.25, 0.75], [0.5, 0.5]]),
    tensor("truncated", [False, True], "BOOL"),
    bundle_digest="d1",
    engine="e",
)


def test_a_response_becomes_one_prediction_a_row_whatever_the_order_of_its_outputs():
    first, second = read_predictions(WHOLE, 2, ("no", "yes"))
    assert (first.label, first.score, first.scores, first.truncated) == ("yes", 0.75, {"no": 0.25, "yes": 0.75}, False)
    assert (second.label, second.truncated, second.engine, second.digest) == ("否", True, "e", "d1")


def test_without_labels_scores_go_by_their_column():
    assert read_predictions(WHOLE, 2)[0].scores == {"0": 0.25, "1": 0.75}


def test_a_server_that_says_less_leaves_fields_empty():
    (only,) = read_predictions(response(tensor("score", [2.5])), 1)
    assert (only.label, only.scores, only.truncated, only.engine, only.digest) == (None, {}, False, "", "")


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        ([tensor("score", [0.5])], ()),
        ([tensor("score", [[0.5], [0.5]])], ()),
        ([tensor("label", [b"a", b"b"], "BYTES")], ()),
        ([tensor("score", [0.5, 0.5]), tensor("label", [1, 2])], ()),
        ([tensor("score", [0.5, 0.5]), tensor("scores", [0.5, 0.5])], ()),
        ([tensor("score", [0.5, 0.5]), tensor("scores", [[0.5], [0.5]])], ("no", "yes")),
    ],
    ids=["one row", "two axes", "no score", "label of numbers", "flat scores", "a label too many"],
)
def test_what_is_no_answer_to_two_rows_is_refused(outputs, labels):
    with pytest.raises(EngineFailed):
        read_predictions(response(*outputs), 2, labels)


def test_labels_are_those_of_the_bundle_that_answered():
    assert read_labels(METADATA, WHOLE) == ("no", "yes")
    other = replace(WHOLE, parameters={"bundle_digest": "d2"})
    assert not metadata_answers(METADATA, other)
    with pytest.raises(EngineFailed, match="d2"):
        read_labels(METADATA, other)
    assert metadata_answers(METADATA, replace(WHOLE, parameters={}))
    assert read_labels(replace(METADATA, properties={}), WHOLE) == ()
    with pytest.raises(EngineFailed, match="labels"):
        read_labels(replace(METADATA, properties={"labels": "no, yes"}), WHOLE)


def test_outputs_are_asked_for_as_far_as_the_model_has_them():
    assert prediction_outputs(METADATA, scores=False) == ("label", "truncated", "score")
    assert prediction_outputs(METADATA, scores=True) == ("label", "truncated", "score", "scores")
    plain = replace(METADATA, outputs=(TensorSpec("score", "FP32", (-1,)),))
    assert prediction_outputs(plain, scores=False) == ("score",)
    with pytest.raises(Unsupported, match="scores"):
        prediction_outputs(plain, scores=True)
    with pytest.raises(Unsupported, match="score"):
        prediction_outputs(replace(METADATA, outputs=()), scores=False)


def test_texts_become_bytes_one_text_as_a_row():
    (one,) = text_tensors("人", None)
    assert (one.name, one.dtype, one.data.tolist()) == ("text", "BYTES", ["人".encode()])
    first, second = text_tensors(["a", "b"], ("c", ""))
    assert (first.data.tolist(), second.name, second.data.tolist()) == ([b"a", b"b"], "text_pair", [b"c", b""])


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        (b"a", None), (None, None), (7, None), (["a", 7], None), (["a", None], None), ("\ud800", None), ({"a"}, None),
        ("a", ["b"]), (["a"], "b"), (["a", "b"], ["c"]), ("a", 7),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused(text, pair):
    with pytest.raises(InvalidInput):
        text_tensors(text, pair)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_each_dtype_of_numpy_goes_out_under_its_name(datatype):
    values = np.ones((2, 3), NUMBERS[datatype])
    (made,) = array_tensors({"x": values})
    assert (made.name, made.dtype, made.shape) == ("x", datatype, (2, 3))
    (swapped,) = array_tensors({"x": values.astype(values.dtype.newbyteorder(">"))})
    assert swapped.dtype == datatype


@pytest.mark.parametrize(
    "texts",
    [["a", "人\0"], ["a", RAW], np.array(["a", RAW], dtype=object), [b"a", RAW]],
)
def test_texts_in_arrays_keep_every_byte(texts):
    (made,) = array_tensors({"text": texts})
    assert (made.dtype, made.data.tolist()) == ("BYTES", [b"a", RAW])


@pytest.mark.parametrize(
    "values", [[[1, 2], [3]], np.array(["2026-01-01"], "datetime64[D]"), [1j], [None], [["a"], ["b", "c"]]]
)
def test_what_the_protocol_has_no_word_for_is_refused(values):
    with pytest.raises(InvalidInput, match="x"):
        array_tensors({"x": values})


def test_one_name_is_no_list_of_outputs():
    assert output_names(["a", "b"]) == ("a", "b")
    with pytest.raises(InvalidInput):
        output_names("label")


@pytest.mark.parametrize("priority", [-1, True, 1.0, "1"])
def test_a_priority_is_a_whole_number(priority):
    assert request_parameters(0) == {}
    assert request_parameters(2) == {"priority": 2}
    with pytest.raises(InvalidInput):
        request_parameters(priority)
