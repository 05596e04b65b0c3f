"""What is known of a request by its size alone."""

from nlpdeploy.serve.floors import LEAST_SEEN, WINDOW, TokenFloors


def test_nothing_is_said_of_a_size_before_some_requests_of_it_were_seen():
    floors = TokenFloors()
    for tokens in range(20, 20 + LEAST_SEEN - 1):
        floors.see("predict", 100, tokens)
        assert floors.floor("predict", 100) == 1
    floors.see("predict", 100, 30)
    assert floors.floor("predict", 100) == 20


def test_forms_and_sizes_are_apart_and_like_sizes_are_one():
    floors = TokenFloors()
    for _ in range(LEAST_SEEN):
        floors.see("predict", 100, 20)
    assert floors.floor("predict", 101) == 20
    assert floors.floor("infer", 100) == floors.floor("predict", 150) == floors.floor("predict", 0) == 1


def test_a_smaller_one_counts_at_once_and_is_forgotten_after_two_windows_at_most():
    floors = TokenFloors()
    for _ in range(WINDOW):
        floors.see("predict", 100, 20)
    floors.see("predict", 100, 3)
    assert floors.floor("predict", 100) == 3
    for _ in range(2 * WINDOW):
        floors.see("predict", 100, 20)
    assert floors.floor("predict", 100) == 20


def test_sizes_are_bounded_in_number():
    floors = TokenFloors()
    for size in range(1 << 14):
        floors.see("predict", size, 5)
    assert len(floors._seen) < 150
