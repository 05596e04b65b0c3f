import csv
import hashlib
import json
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import InvalidInput, NotFound
from nlpdeploy.loadtest.payloads import read_payloads
from support.shared import SHARED, needs_shared

TEXTS = ("Where is my card?", 'She said "no", twice', "两行\n一个单元格", "emoji 👩‍🚒 and \u2028 separators")


def write(folder: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_text(content, encoding=encoding, newline="")
    return path


def test_every_form_gives_the_same_texts(tmp_path: Path) -> None:
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("id", "text"), *enumerate(TEXTS)])
    write(tmp_path, "t.jsonl", "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in TEXTS))
    for name in ("t.csv", "t.tsv", "t.jsonl"):
        assert read_payloads(tmp_path / name).texts == TEXTS


def test_plain_text_is_one_text_a_line_without_blank_lines(tmp_path: Path) -> None:
    assert read_payloads(write(tmp_path, "t.txt", "one\r\n\n two \n")).texts == ("one", " two ")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read_payloads(write(tmp_path, "t.csv", "text,label\nhello,x\n", "utf-8-sig")).texts == ("hello",)


def test_a_stray_quote_is_refused_rather_than_swallowing_the_rows_behind_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        read_payloads(write(tmp_path, "t.csv", 'text\n"good" really\nnext\nlast"\n'))


def test_the_only_column_needs_no_name(tmp_path: Path) -> None:
    payloads = read_payloads(write(tmp_path, "t.csv", "utterance\nhello\n"))
    assert (payloads.texts, payloads.source.text_column) == (("hello",), "utterance")


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
        ("t.jsonl", b'"bare"\n', "line 1.*found str"),
        ("t.jsonl", b"\n", "no texts"),
        ("t.jsonl", b'{"text": 3}\n', "line 1.*found int"),
        ("t.jsonl", b'{"text": "\\ud800"}\n', "surrogate"),
        ("t.json", b'{"text": "a"}', "found dict.*jsonl"),
        ("t.json", b'[{"text": "a"}, 3]', "item 2.*found int"),
        ("t.json", b'[{"data": {"text": null}}]', "item 1.*NoneType"),
        ("t.json", b"[", "wanted JSON"),
        ("t.json", b"[]", "no texts"),
        ("t.txt", b"caf\xe9\n", "not UTF-8"),
        ("t.txt", b"", "no texts"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=match):
        read_payloads(tmp_path / name)


def test_of_prodigys_annotations_the_accepted_ones_are_sent(tmp_path: Path) -> None:
    said = [("kept", "accept"), ("wrong", "reject"), ("skipped", "ignore"), ("kept too", "accept")]
    marks = {"_input_hash": 1, "_task_hash": 2, "_view_id": "choice"}
    lines = [json.dumps({"text": text, "meta": {"n": 1}, "answer": answer, **marks}) for text, answer in said]
    path = write(tmp_path, "t.jsonl", "\n".join(lines))
    assert read_payloads(path).texts == ("kept", "kept too")
    assert read_payloads(path).source.rows == 2
    # An answer of other data's is a column like any other.
    other = write(tmp_path, "qa.jsonl", '{"text": "Is it so?", "answer": "reject"}')
    assert read_payloads(other).texts == ("Is it so?",)
    none = write(tmp_path, "none.jsonl", lines[1])
    with pytest.raises(InvalidInput, match="no texts"):
        read_payloads(none)


def test_label_studios_exports_are_read_in_both_their_forms(tmp_path: Path) -> None:
    full = [
        {"id": number, "data": {"text": text, "other": text[::-1]}, "annotations": [{"id": 1, "result": []}]}
        for number, text in enumerate(TEXTS)
    ]
    least = [{"id": number, "text": text, "choice": "card", "annotator": 1} for number, text in enumerate(TEXTS)]
    for name, content in (("full.json", full), ("min.json", least)):
        assert read_payloads(write(tmp_path, name, json.dumps(content, indent=1))).texts == TEXTS
    assert read_payloads(tmp_path / "full.json", "text", "other").pairs == tuple(text[::-1] for text in TEXTS)
    with pytest.raises(NotFound, match="column 'question'"):
        read_payloads(tmp_path / "full.json", "question")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        read_payloads(tmp_path / "none.csv")


def test_pairs_come_from_two_columns(tmp_path: Path) -> None:
    payloads = read_payloads(write(tmp_path, "t.csv", "text,label,other\na,x,b\nc,y,d\n"), "text", "other")
    assert (payloads.texts, payloads.pairs) == (("a", "c"), ("b", "d"))
    with pytest.raises(InvalidInput, match="plain text"):
        read_payloads(write(tmp_path, "t.txt", "a\n"), None, "other")


def test_the_source_names_the_files_own_sha256(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "text\nhello\n")
    source = read_payloads(path).source
    assert (source.path, source.rows, source.text_column) == (str(path), 1, "text")
    assert source.digest == hashlib.sha256(b"text\nhello\n").hexdigest()


@needs_shared
@pytest.mark.shared
def test_real_data_is_read_whole() -> None:
    assert len(read_payloads(SHARED / "data/banking77/test.csv", "text").texts) == 3080
    assert all(text.strip() for text in read_payloads(SHARED / "data/zh_reviews/test.csv", "text").texts)
