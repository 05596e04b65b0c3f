"""A table keeps each row on one line as long as one space between columns is enough; below it: what is fused."""

from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.bundle.specs import EngineState, Layout
from nlpdeploy.cli.console import print_table
from nlpdeploy.cli.engine_table import HEADINGS, engine_json, fused_notes, print_engines
from support.bundles import example_manifest

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


def entry(name, **options):
    return EngineEntry(name, "onnxruntime", "fp32", Layout.PADDED, EngineState.READY, options=options)


def test_what_is_fused_is_said_once_with_the_engines_that_it_holds_for():
    whole, pieces = "attention 12 of 12, normalisation 24 of 24, Gelu 12 of 12", "attention 0 of 12"
    engines = [entry("a", fused=whole), entry("b", fused=whole), entry("c", fused=pieces), entry("d")]
    assert fused_notes(engines) == [f"fused in a, b: {whole}", f"fused in c: {pieces}"]
    assert [engine_json(engine)["fused"] for engine in engines] == [whole, whole, pieces, None]


def test_what_is_fused_stands_below_the_table(capsys):
    print_engines(example_manifest())
    assert "fused in onnx-fp32: 6" in capsys.readouterr().err.splitlines()
