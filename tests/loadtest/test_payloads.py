from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nlpdeploy.bundle.errors import InvalidInput, NotFound
from nlpdeploy.loadtest.payloads import Payloads, read_payloads
from support.shared import SHARED, needs_shared

TEXTS = ("Where is my card?", 'She said "no", twice', "两行\n一个单元格", "emoji 👩‍🚒 and \u2028 separators")


def write(folder: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_text(content, encoding=encoding, newline="")
    return path


def test_every_form_gives_the_same_texts_and_identity(tmp_path: Path) -> None:
    import csv
    import json

    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("id", "text"), *enumerate(TEXTS)])
    write(tmp_path, "t.jsonl", "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in TEXTS))
    read = [read_payloads(tmp_path / name) for name in ("t.csv", "t.tsv", "t.jsonl")]
    assert [payloads.texts for payloads in read] == [TEXTS] * 3
    assert len({payloads.sha256 for payloads in read}) == 1


def test_plain_text_is_one_text_a_line_without_blank_lines(tmp_path: Path) -> None:
    assert read_payloads(write(tmp_path, "t.txt", "one\r\n\n two \n")).texts == ("one", " two ")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read_payloads(write(tmp_path, "t.csv", "text,label\nhello,x\n", "utf-8-sig")).texts == ("hello",)


def test_the_only_column_needs_no_name(tmp_path: Path) -> None:
    assert read_payloads(write(tmp_path, "t.csv", "utterance\nhello\n")).texts == ("hello",)


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "utterance,label\nhello,x\n")
    with pytest.raises(NotFound, match=r"column 'text' .*found utterance, label.*--text-column"):
        read_payloads(path)
    with pytest.raises(NotFound, match="column 'nope'"):
        read_payloads(path, "nope")
    assert read_payloads(path, "utterance").texts == ("hello",)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("t.csv", b"text,label\n", "no texts"),
        ("t.csv", b"id,text\n1,a\n2\n", r"line 3.*found 1 columns"),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', "line 2"),
        ("t.jsonl", b'{"text": 3}\n', "line 1.*found int"),
        ("t.jsonl", b'{"text": "\\ud800"}\n', "surrogate"),
        ("t.txt", b"caf\xe9\n", "not UTF-8"),
        ("t.txt", b"", "no texts"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=match):
        read_payloads(tmp_path / name)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        read_payloads(tmp_path / "none.csv")


@given(texts=st.integers(1, 20), count=st.integers(0, 100), seed=st.integers(0, 2**32), worker=st.integers(0, 7))
def test_each_text_comes_once_before_any_comes_twice(texts: int, count: int, seed: int, worker: int) -> None:
    order = Payloads(("x",) * texts, "").order(count, seed=seed, worker=worker)
    assert len(order) == count
    for start in range(0, count, texts):
        chunk = order[start : start + texts]
        assert len(set(chunk.tolist())) == len(chunk)
        assert set(chunk.tolist()) <= set(range(texts))


def test_the_seed_alone_decides_the_order_and_workers_differ() -> None:
    payloads = Payloads(tuple("abcdefghij"), "")
    first = payloads.order(50, seed=3, worker=0)
    assert np.array_equal(first, payloads.order(50, seed=3, worker=0))
    assert not np.array_equal(first, payloads.order(50, seed=4, worker=0))
    assert not np.array_equal(first, payloads.order(50, seed=3, worker=1))


@needs_shared
@pytest.mark.shared
def test_real_data_is_read_whole() -> None:
    assert len(read_payloads(SHARED / "data/banking77/test.csv", "text").texts) == 3080
    assert all(text.strip() for text in read_payloads(SHARED / "data/zh_reviews/test.csv", "text").texts)
