"""What a request may be: each fault is named, with what was found and what was wanted."""

from typing import Any

import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.serve.requests import read_body, read_priority, read_request, read_timeout
from nlpdeploy.serve.ticket import Priority
from nlpdeploy.wire.tensors import InferRequest, Tensor
from support.engines import tiny_model
from support.tokenizers import TINY_VOCABULARY

MODEL = tiny_model()
PAIR = tiny_model(pair=True)
VOCABULARY = len(TINY_VOCABULARY)


def texts(*values: bytes, name: str = "text", shape: tuple[int, ...] | None = None) -> Tensor:
    data = np.array(values, dtype=object)
    return Tensor(name, "BYTES", data if shape is None else data.reshape(shape))


def ids(values: Any, name: str = "input_ids", dtype: str = "INT64") -> Tensor:
    return Tensor(name, dtype, np.array(values, dtype=np.int64))


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_texts_come_as_a_list_or_as_a_column(shape: tuple[int, ...]) -> None:
    question = read_request(InferRequest("m", (texts(b"hello", "世界".encode(), shape=shape),)), MODEL, VOCABULARY)
    assert list(question.texts) == ["hello", "世界"]
    assert question.outputs == ("label", "score")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "inputs; found none; wanted text"),
        ((texts(b"a", name="prompt"),), "found prompt; wanted text"),
        ((texts(b"a"), texts(b"b")), "one name twice"),
        ((texts(b"a"), texts(b"b", name="text_pair")), "wanted text"),
        ((texts(b"a", b"b", shape=(1, 2)),), r"found \[1, 2\]; wanted \[n\] or \[n, 1\]"),
        ((Tensor("text", "FP32", np.zeros(1, np.float32)),), "dtype of input text; found FP32; wanted BYTES"),
        ((texts(b"fine", b"\xff\xfe"),), r"text\[1\]; found byte 0xff at 0; wanted UTF-8"),
        ((ids([2, 3]),), r"found \[2\]; wanted \[n, length\]"),
        ((ids([[2, 3]], dtype="INT32"),), "found INT32; wanted INT64"),
        ((ids([[2, 99]]),), "input_ids of row 0; found 99; wanted 0 to 15"),
        ((ids([[2, -1]]),), "found -1; wanted 0 to 15"),
        ((ids([[1] * 17]),), "tokens of row 0; found 17; wanted 1 to 16"),
        ((ids([[2, 3]]), ids([[0, 0]], "attention_mask")), "tokens of row 0; found 0"),
        ((ids([[2, 3]]), ids([[0, 1]], "attention_mask")), "a 1 after a 0"),
        ((ids([[2, 3]]), ids([[1, 2]], "attention_mask")), "found 2; wanted 0 to 1"),
        ((ids([[2, 3]]), ids([[1]], "attention_mask")), r"found \[1, 1\]; wanted \[1, 2\]"),
        ((ids([[2, 3]]), ids([[0, 2]], "token_type_ids")), "found 2; wanted 0 to 1"),
        ((ids([[2, 3]]), texts(b"a")), "wanted input_ids"),
    ],
)
def test_a_wrong_input_is_named(inputs: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_request(InferRequest("m", inputs), MODEL, VOCABULARY)


def test_pairs_must_be_as_many() -> None:
    inputs = (texts(b"a", b"b"), texts(b"c", name="text_pair"))
    with pytest.raises(InvalidInput, match="found 1 texts; wanted 2, as many as text"):
        read_request(InferRequest("m", inputs), PAIR, VOCABULARY)


def test_an_unknown_output_is_answered_with_the_known_ones() -> None:
    request = InferRequest("m", (texts(b"a"),), outputs=("label", "embedding"))
    with pytest.raises(InvalidInput, match="found embedding; wanted one of label, score, scores, logits, tokens"):
        read_request(request, MODEL, VOCABULARY)


def test_tokens_are_cut_by_the_mask_and_ask_for_logits() -> None:
    inputs = (ids([[2, 9, 3, 0], [2, 10, 15, 3]]), ids([[1, 1, 1, 0], [1, 1, 1, 1]], "attention_mask"))
    question = read_request(InferRequest("m", inputs), MODEL, VOCABULARY)
    assert question.rows is not None
    assert [row.input_ids.tolist() for row in question.rows] == [[2, 9, 3], [2, 10, 15, 3]]
    assert question.outputs == ("logits",)
    assert len(question) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (["hello"], "body; found list"),
        (None, "body; found NoneType"),
        ({}, "inputs; found none; wanted text"),
        ({"text": "a", "words": 1}, "found text, words"),
        ({"text": 5}, "text; found int; wanted a string or a list of strings"),
        ({"text": ["a", 5]}, r"text\[1\]; found int; wanted a string"),
        ({"text": "a", "text_pair": "b"}, "wanted text"),
    ],
)
def test_a_wrong_body_is_named(body: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_body(body, MODEL)


def test_a_body_tells_one_text_from_a_list_of_one() -> None:
    assert [read_body({"text": text}, MODEL)[1] for text in ("a", ["a"])] == [True, False]
    question, single = read_body({"text": ["a"], "text_pair": ["b"]}, PAIR)
    assert (list(question.texts), list(question.pairs or ()), single) == (["a"], ["b"], False)
    with pytest.raises(InvalidInput, match="text_pair; found list; wanted a string"):
        read_body({"text": "a", "text_pair": ["b"]}, PAIR)


def test_the_timeout_is_in_microseconds_and_0_is_none() -> None:
    assert read_timeout({"timeout": 200_000}) == pytest.approx(0.2)
    assert read_timeout({"timeout": 0}) == read_timeout({}) == float("inf")
    for wrong in ("soon", -1, 1.5, True, 2**64, 10**400):
        with pytest.raises(InvalidInput, match="parameter timeout"):
            read_timeout({"timeout": wrong})


def test_priority_1_goes_first_and_all_else_is_normal() -> None:
    assert read_priority({"priority": 1}) is Priority.HIGH
    for normal in ({}, {"priority": 0}, {"priority": 2}, {"priority": 2**63}):
        assert read_priority(normal) is Priority.NORMAL
    for wrong in ("high", -1, 1.0, True):
        with pytest.raises(InvalidInput, match="parameter priority"):
            read_priority({"priority": wrong})
