import threading

import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.runtime.text import TextEncoder
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
