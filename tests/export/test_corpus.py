"""Data files are read with their labels in the model's own terms, or refused with one line."""

import json

import numpy as np
import pytest

from nlpdeploy.bundle.digest import file_digest
from nlpdeploy.bundle.errors import InvalidInput, NotFound, Unsupported
from nlpdeploy.bundle.specs import Activation, ModelSpec, Task
from nlpdeploy.export.corpus import built_in_corpus, read_corpus
from support.shared import SHARED, needs_shared

LABELS = ("负面", "正面", "unsure")


def model_of(task=Task.CLASSIFICATION, *, labels=LABELS, pair=False):
    return ModelSpec(task, Activation.NONE, "test", labels, pair, 64, 0)


@pytest.fixture
def write(tmp_path):
    def write(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


class TestFormats:
    CSV = 'text,label\n"good, really",正面\n"two\nlines",负面\n'
    TSV = 'text\tlabel\ngood, really\t正面\n"two\nlines"\t负面\n'
    JSONL = "".join(
        json.dumps({"text": text, "label": label}) + "\n\n"
        for text, label in (("good, really", "正面"), ("two\nlines", "负面"))
    )

    def test_a_long_document_is_one_cell(self, write):
        document = "word " * 40_000
        assert read_corpus(write("a.csv", f"text\n{document}\n"), model_of()).texts == (document,)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize(("name", "content"), [("a.csv", CSV), ("a.tsv", TSV), ("a.jsonl", JSONL), ("A.CSV", CSV)])
    def test_tables_and_json_lines_say_the_same(self, write, name, content, encoding):
        path = write(name, content, encoding)
        corpus = read_corpus(path, model_of(), text_column="text", label_column="label")
        assert corpus.texts == ("good, really", "two\nlines")
        assert corpus.labels.tolist() == [1, 0]
        assert corpus.labels.dtype == np.int64
        assert (corpus.name, corpus.digest, corpus.notes) == (name, file_digest(path), ())

    def test_without_a_label_column_there_are_no_labels(self, write):
        assert read_corpus(write("a.csv", self.CSV), model_of()).labels is None

    def test_a_file_with_another_delimiter_than_its_suffix_says_is_read_with_a_note(self, write):
        corpus = read_corpus(write("a.csv", "text;label\ngood;正面\n"), model_of())
        assert corpus.notes == ("texts are the only column of a.csv: text;label",)

    def test_the_only_column_holds_the_texts(self, write):
        assert read_corpus(write("a.csv", "question\nwhere?\n"), model_of()).texts == ("where?",)

    def test_pairs_are_read(self, write):
        path = write("a.csv", "text,text_pair,other\na,b,c\n")
        assert read_corpus(path, model_of(pair=True)).pairs == ("b",)
        assert read_corpus(path, model_of(pair=True), pair_column="other").pairs == ("c",)
        with pytest.raises(InvalidInput, match="single texts"):
            read_corpus(path, model_of(), pair_column="text_pair")

    def test_empty_cells_are_left_out_with_a_note(self, write):
        corpus = read_corpus(write("a.csv", "text,label\na,正面\n ,正面\nb,\n"), model_of(), label_column="label")
        assert corpus.texts == ("a",)
        assert "2 of 3 rows" in corpus.notes[0]

    def test_a_limit_takes_rows_from_the_whole_file(self, write):
        rows = "".join(f"{i},{'负面' if i < 50 else '正面'}\n" for i in range(100))
        corpus = read_corpus(write("a.csv", "text,label\n" + rows), model_of(), label_column="label", limit=10)
        assert corpus.texts == tuple(str(i) for i in range(0, 100, 10))
        assert corpus.labels.tolist() == [0] * 5 + [1] * 5
        assert "10 of 100 rows" in corpus.notes[0]

    @needs_shared
    def test_real_files_are_read_whole(self):
        corpus = read_corpus(SHARED / "data/zh_reviews/test.csv", model_of(), label_column="label")
        assert len(corpus.texts) == 2000
        assert set(corpus.labels) == {0, 1}
        assert corpus.notes == ()


class TestLabels:
    def gold(self, write, values, model):
        lines = "".join(json.dumps({"text": "a", "label": value}) + "\n" for value in values)
        return read_corpus(write("a.jsonl", lines), model, label_column="label")

    def test_numbers_are_indices_where_no_name_matches(self, write):
        corpus = self.gold(write, [2, "0", 1.0], model_of())
        assert corpus.labels.tolist() == [2, 0, 1]
        assert "indices" in corpus.notes[0]

    def test_names_that_look_like_numbers_are_names(self, write):
        assert self.gold(write, ["1", "0", 2], model_of(labels=("2", "1", "0"))).labels.tolist() == [1, 2, 0]

    @pytest.mark.parametrize("values", [["正面", "好", "坏", "好"], [0, "好", "坏"], ["正面", "好", "坏"]])
    def test_unknown_labels_are_named_with_their_row(self, write, values):
        with pytest.raises(InvalidInput) as refused:
            self.gold(write, values, model_of())
        assert "好, 坏, first in line 2" in str(refused.value) or "0, 好, 坏, first in line 1" in str(refused.value)
        assert "正面" in str(refused.value)

    def test_an_index_beyond_the_head_is_unknown(self, write):
        with pytest.raises(InvalidInput, match="found 3, first in line 2"):
            self.gold(write, [0, 3], model_of())

    def test_sets_of_labels_in_any_form(self, write):
        model = model_of(Task.MULTI_LABEL, labels=("a", "b", "c; d"))
        corpus = self.gold(write, [["a", "b"], "a|b", "b, a", "c; d", '["c; d", "a"]', [], "", None, [0, 2]][:8], model)
        assert corpus.labels.dtype == np.bool_
        assert corpus.labels.astype(int).tolist() == [
            [1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0],
        ]  # fmt: skip

    def test_sets_of_indices(self, write):
        corpus = self.gold(write, [[0, 2], "1"], model_of(Task.MULTI_LABEL, labels=("a", "b", "c")))
        assert corpus.labels.astype(int).tolist() == [[1, 0, 1], [0, 1, 0]]

    def test_an_unknown_member_of_a_set_is_named(self, write):
        with pytest.raises(InvalidInput, match="found z, first in line 2"):
            self.gold(write, ["a", "a|z"], model_of(Task.MULTI_LABEL, labels=("a", "b")))

    def test_numbers_for_a_regression(self, write):
        model = model_of(Task.REGRESSION, labels=("score",))
        assert self.gold(write, [3, "2.5", -1e3], model).labels.tolist() == [3.0, 2.5, -1000.0]
        for wrong in ("good", "nan", "inf"):
            with pytest.raises(InvalidInput, match="line 2"):
                self.gold(write, [1, wrong], model)


class TestWrongFiles:
    @pytest.mark.parametrize(
        ("name", "content", "kind", "words"),
        [
            ("a.csv", "", InvalidInput, "no rows"),
            ("a.csv", "text,label\n", InvalidInput, "no rows"),
            ("a.csv", "text,label\n ,x\n", InvalidInput, "all empty"),
            ("a.csv", "body,label\na,x\n", NotFound, "columns body, label"),
            ("a.csv", "text,text\na,b\n", InvalidInput, "each name once"),
            ("a.csv", "text,label\na,b,c\n", InvalidInput, "row 2"),
            ("a.csv", "text,label\na\n", InvalidInput, "1 cells"),
            ("a.csv", 'text,label\n"a,b\n', InvalidInput, "line 2"),
            ("a.csv", "text\n好\n".encode("gb18030"), InvalidInput, "not UTF-8"),
            ("a.csv", "text\na\n".encode("utf-16"), InvalidInput, "not UTF-8"),
            ("a.jsonl", '{"text": "a"}\n{"text": \n', InvalidInput, "line 2"),
            ("a.jsonl", '["a"]\n', InvalidInput, "an object"),
            ("a.jsonl", '{"text": 7}\n', InvalidInput, "int"),
            ("a.jsonl", '{"text": "\\ud83d"}\n', InvalidInput, "surrogate"),
            ("a.jsonl", '{"body": "a", "id": 1}\n', NotFound, "columns body, id"),
            ("a.xlsx", b"PK", Unsupported, ".xlsx"),
        ],
    )
    def test_they_are_refused_with_one_line(self, write, name, content, kind, words):
        with pytest.raises(kind) as refused:
            read_corpus(write(name, content), model_of())
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(NotFound, match="no data file"):
            read_corpus(tmp_path / "none.csv", model_of())
        (tmp_path / "folder.csv").mkdir()
        with pytest.raises(InvalidInput, match="can't be read"):
            read_corpus(tmp_path / "folder.csv", model_of())

    def test_a_missing_label_column_is_named_beside_those_there(self, write):
        with pytest.raises(NotFound, match=r"'intent'.*columns text, label.*--label-column"):
            read_corpus(write("a.csv", "text,label\na,x\n"), model_of(), label_column="intent")


class TestBuiltIn:
    def test_sentences_vary_in_language_and_length(self):
        corpus = built_in_corpus(model_of())
        assert len(corpus.texts) >= 110
        assert len(set(corpus.texts)) == len(corpus.texts)
        assert corpus.labels is corpus.pairs is None
        lengths = sorted(len(text.split()) for text in corpus.texts if text.isascii())
        assert lengths[0] == 1
        assert lengths[-1] > 100
        assert sum(any("一" <= letter <= "鿿" for letter in text) for text in corpus.texts) > 30

    def test_pairs_put_different_sentences_side_by_side(self):
        corpus = built_in_corpus(model_of(pair=True))
        assert len(corpus.pairs) == len(corpus.texts)
        assert all(first != second for first, second in zip(corpus.texts, corpus.pairs, strict=True))
