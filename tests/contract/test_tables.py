"""The tables from error kind to status are complete."""

from nlpdeploy.bundle import errors
from nlpdeploy.cli import exits


def kinds() -> set[type[errors.NlpdeployError]]:
    found, queue = set(), [errors.NlpdeployError]
    while queue:
        kind = queue.pop()
        found |= set(kind.__subclasses__())
        queue += kind.__subclasses__()
    return {kind for kind in found if kind.__module__ == errors.__name__}


def test_every_error_kind_has_an_exit_status():
    assert set(exits.STATUS) == kinds()


def test_the_tree_in_the_docstring_names_every_kind():
    assert all(kind.__name__ in errors.__doc__ for kind in kinds())


def test_an_error_is_one_line_with_what_found_wanted_and_how_to_mend():
    error = errors.InvalidInput("label list\nof config.json", found=2, wanted=14, mend="give --weights FILE")
    assert error.line() == "label list of config.json; found 2; wanted 14; give --weights FILE"


def test_corrupt_bundle_tells_extra_missing_and_changed_apart():
    error = errors.CorruptBundle("bundle m/1", extra=("x",), missing=("y",), changed=("z", "w"))
    assert "changed: z w" in error.line()
    assert "missing: y" in error.line()
    assert "extra: x" in error.line()
