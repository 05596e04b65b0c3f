"""Who may import whom. Relative, in-function and TYPE_CHECKING imports count."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("bundle", "wire", "runtime", "export", "serve", "handlers", "client", "loadtest", "cli")
ALLOWED = {
    "bundle": set(),
    "wire": {"bundle"},
    "runtime": {"bundle"},
    "export": {"bundle", "runtime"},
    "serve": {"bundle", "runtime", "wire"},
    "client": {"bundle", "wire"},
    "handlers": {"bundle", "runtime"},
    "loadtest": {"bundle", "wire"},
    "cli": {"bundle", "export", "serve", "handlers", "loadtest"},
}


def imported_modules(path: Path, root: Path = ROOT) -> set[str]:
    """Absolute names of all that a file imports, relative ones resolved from its place under ``nlpdeploy``."""
    package = ("nlpdeploy", *path.relative_to(root).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *filter(None, [node.module])))
            names |= {f"{stem}.{alias.name}" for alias in node.names}
    return names


def files(room: str, root: Path = ROOT) -> list[Path]:
    """Python files of a room; hidden folders hold what a benchmark installed or wrote."""
    found = (path for path in (root / room).rglob("*.py") if not path.is_symlink())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def arrows(room: str, root: Path = ROOT) -> dict[str, set[Path]]:
    """Rooms that a room imports, with the files that do."""
    found: dict[str, set[Path]] = {}
    for path in files(room, root):
        for name in imported_modules(path, root):
            parts = name.split(".")
            if parts[0] == "nlpdeploy" and len(parts) > 1 and parts[1] != room:
                found.setdefault(parts[1], set()).add(path.relative_to(root))
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_it_may(room):
    assert files(room)
    forbidden = {target: paths for target, paths in arrows(room).items() if target not in ALLOWED[room]}
    assert not forbidden


def test_the_reader_of_imports_sees_relative_in_function_and_type_checking_imports(tmp_path):
    source = (
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from ..serve.app import run\n"
        "def f():\n    from ..runtime import load\n    import nlpdeploy.wire.codec\n"
    )
    room = tmp_path / "bundle"
    room.mkdir()
    (room / "x.py").write_text(source)
    assert set(arrows("bundle", tmp_path)) == {"serve", "runtime", "wire"}


def test_every_top_level_package_is_a_room():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages == set(ROOMS)


def python_files() -> list[Path]:
    return [path for room in (*ROOMS, "tests", "benchmarks") for path in files(room)]


def test_no_file_imports_a_room_by_its_bare_name():
    bare = [
        (path.relative_to(ROOT), name)
        for path in python_files()
        for name in imported_modules(path)
        if name.split(".")[0] in ROOMS
    ]
    assert not bare


def test_no_room_is_called_utils_or_common():
    names = {path.stem for room in ROOMS for path in (ROOT / room).rglob("*")}
    assert not names & {"utils", "util", "common", "helpers", "misc"}
