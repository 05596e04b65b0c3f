"""A table keeps each row on one line as long as one space between columns is enough for that."""

from nlpdeploy.cli.console import print_table
from nlpdeploy.cli.engine_table import HEADINGS

NUMBERS = ["bf16", "437.9 MB", "7.0e-02", "100.00%", "0.9185", "13.55", "132.13", "13.0 x", "reference"]


def lines(capsys, *ids):
    print_table(HEADINGS, [[name, *NUMBERS] for name in ids], left=(0, 1, 9))
    return [line.split() for line in capsys.readouterr().err.splitlines()[2:]]


def test_the_longest_engine_id_stays_on_one_line_with_its_numbers(capsys):
    (row,) = lines(capsys, "openvino-bf16-packed *")
    assert row == ["openvino-bf16-packed", "*", *" ".join(NUMBERS).split()]


def test_short_rows_have_two_spaces_between_columns(capsys):
    print_table(("name", "value"), [["a", "1"]])
    assert capsys.readouterr().err.splitlines()[2].startswith("a         1")
