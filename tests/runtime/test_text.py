import threading

import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.runtime.text import CHARACTERS_PER_TOKEN, TextEncoder
from support.tokenizers import write_tiny_tokenizer


@pytest.fixture
def encoder(tmp_path):
    return TextEncoder(write_tiny_tokenizer(tmp_path / "tokenizer.json"), max_length=8)


def test_a_text_becomes_ids_with_special_tokens(encoder):
    (row,) = encoder.encode(["Hello notebook"])
    assert row.input_ids.tolist() == [2, 9, 8, 3]
    assert row.token_type_ids.tolist() == [0, 0, 0, 0]
    assert row.input_ids.dtype == np.int64
    assert not row.truncated


def test_an_empty_text_has_its_special_tokens(encoder):
    (row,) = encoder.encode([""])
    assert row.input_ids.tolist() == [2, 3]


def test_a_long_text_is_cut_on_the_right_and_says_so(encoder):
    exact, long = encoder.encode(["hello " * 6, "hello " * 7])
    assert (len(exact), exact.truncated) == (8, False)
    assert (len(long), long.truncated) == (8, True)
    assert long.input_ids[-1] == 3


def test_a_pair_has_two_segments_and_the_longer_text_is_cut(encoder):
    short, long = encoder.encode(["hello", "hello"], ["world", "world " * 20])
    assert short.token_type_ids.tolist() == [0, 0, 0, 1, 1]
    assert len(long) == 8
    assert long.truncated
    assert long.token_type_ids.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_lists_of_differing_length_are_refused(encoder):
    with pytest.raises(InvalidInput, match="text_pair; found 1 texts; wanted 2"):
        encoder.encode(["a", "b"], ["a"])


def test_a_lone_surrogate_is_refused_with_one_line(encoder):
    with pytest.raises(InvalidInput, match="can't be encoded"):
        encoder.encode(["\ud83d"])


def test_a_broken_tokenizer_file_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"version": "1.0"}')
    with pytest.raises(InvalidInput, match=r"tokenizer\.json can't be read"):
        TextEncoder(path, 8)


def test_many_threads_encode_at_once(encoder):
    texts = ["hello world"] * 50 + ["note " * 30] * 50
    expected = [row.input_ids.tolist() for row in encoder.encode(texts)]
    results = []

    def work():
        results.append([row.input_ids.tolist() for row in encoder.encode(texts)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


LONG = {
    "prose": "hello world, notebook! " * 40,
    "no spaces": "人的" * 400,
    "spaces": " " * 2000 + "hello a" + " " * 2000 + "world " * 20,
    "one word": "x" * 2000 + " hello" * 20,
    "short at last": "\t" * 3000 + "note",
}


@pytest.mark.parametrize("kind", LONG)
def test_a_very_long_text_has_the_tokens_of_the_whole_of_it(kind, encoder):
    whole = encoder._tokenizer()
    text = LONG[kind]
    (row,) = encoder.encode([text])
    wanted = whole.encode(text)
    assert row.input_ids.tolist() == wanted.ids
    assert row.truncated is bool(wanted.overflowing)


@pytest.mark.parametrize("kind", LONG)
def test_a_pair_with_a_very_long_text_has_the_tokens_of_the_whole_of_it(kind, encoder):
    whole = encoder._tokenizer()
    rows = encoder.encode([LONG[kind], "note", LONG["prose"]], ["note", LONG[kind], LONG[kind]])
    for row, pair in zip(rows, [(LONG[kind], "note"), ("note", LONG[kind]), (LONG["prose"], LONG[kind])], strict=True):
        wanted = whole.encode(*pair)
        assert (row.input_ids.tolist(), row.token_type_ids.tolist()) == (wanted.ids, wanted.type_ids)
        assert row.truncated is bool(wanted.overflowing)


def test_a_very_long_text_is_not_read_to_its_end(encoder):
    read = []

    class Counting:
        def __init__(self, whole):
            self.whole = whole

        def encode(self, text):
            read.append(len(text))
            return self.whole.encode(text)

        def encode_batch_fast(self, texts):
            read.extend(map(len, texts))
            return self.whole.encode_batch_fast(texts)

    encoder._local.tokenizer = Counting(encoder._tokenizer())
    try:
        encoder.encode(["hello " * 100_000])
    finally:
        encoder._local.tokenizer = encoder._local.tokenizer.whole
    assert sum(read) <= 2 * CHARACTERS_PER_TOKEN * encoder.max_length
