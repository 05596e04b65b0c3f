"""The texts that are sent, read once from a file.

Knows tables, JSON lines (Prodigy's too), JSON lists (Label Studio's exports) and plain text; knows nothing of servers
nor of the order of sending.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.digest import file_digest
from ..bundle.errors import InvalidInput, NotFound
from .plan import DataFile

DEFAULT_COLUMN = "text"
_CELL_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Payloads:
    """Texts and where they come from.

    Attributes:
        texts: as in the file, in its order; a sample's payload is an index into them.
        pairs: the second texts of pair tasks, in the same order; empty otherwise.
        source: the file, its SHA-256 and the columns, as the plan keeps them.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...]
    source: DataFile


def read_payloads(path: Path, column: str | None = None, pair_column: str | None = None) -> Payloads:
    """Read ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` or, with any other ending, plain text with one text a line.

    Of Prodigy's annotations those that were rejected or ignored are left out; of Label Studio's tasks the texts stand
    in their ``data``.

    Args:
        path: the file, UTF-8 (with or without a byte order mark).
        column: of the table, or the key of the JSON objects; by default ``text``, or the only column there is.
        pair_column: of the second text, for pair tasks; a table or JSON objects only.

    Raises:
        NotFound: no such file or column.
        InvalidInput: not UTF-8, not that form, or no texts in it.
    """
    if not path.is_file():
        raise NotFound(f"data file {path}", found="no such file", mend="give a file with --data")
    columns, *rows = read_columns(path, [column] if pair_column is None else [column, pair_column])
    if not rows:
        raise InvalidInput(f"data file {path}", found="no texts", wanted="at least one")
    source = DataFile(str(path), file_digest(path), len(rows), columns[0], pair_column)
    texts = tuple(row[0] for row in rows)
    return Payloads(texts, tuple(row[1] for row in rows) if pair_column else (), source)


def read_columns(path: Path, wanted: list[str | None], default: str = DEFAULT_COLUMN) -> list[list[str]]:
    """Columns of a table, keys of JSON lines, or lines of text: their names, then the rows.

    Args:
        path: a file that is there.
        wanted: names; None for the default one, or the only one.
        default: what a column is called that nobody names.

    Raises:
        NotFound: no such column.
        InvalidInput: not UTF-8, or not that form.
    """
    try:
        columns, *rows = _read_rows(path, wanted, default)
        for row in rows:
            "".join(row).encode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"data file {path}", found=f"bytes that are not UTF-8 at {error.start}", wanted="UTF-8"
        ) from error
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"data file {path}", found="half of a surrogate pair in a text", wanted="whole characters"
        ) from error
    except csv.Error as error:
        raise InvalidInput(f"data file {path}", found=str(error), wanted="a table with a header line") from error
    return [columns, *rows]


def _read_rows(path: Path, wanted: list[str | None], default: str) -> Iterator[list[str]]:
    """The columns' names, then the rows."""
    suffix = path.suffix.lower()
    # Lines come from the file, never from str.splitlines, which also splits at U+2028 and the like inside a text.
    with path.open(encoding="utf-8-sig", newline="" if suffix in (".csv", ".tsv") else None) as file:
        if suffix in (".csv", ".tsv"):
            yield from _from_table(path, file, "\t" if suffix == ".tsv" else ",", wanted, default)
        elif suffix in (".jsonl", ".ndjson"):
            yield from _from_json_lines(path, file, wanted, default)
        elif suffix == ".json":
            yield from _from_json_list(path, file.read(), wanted, default)
        elif len(wanted) > 1:
            raise InvalidInput(
                f"data file {path}", found="plain text", wanted="a table or JSON lines for pairs of texts"
            )
        else:
            yield [default]
            yield from ([line.rstrip("\n")] for line in file if line.strip())


def _from_table(
    path: Path, lines: Iterable[str], delimiter: str, wanted: list[str | None], default: str
) -> Iterator[list[str]]:
    csv.field_size_limit(_CELL_LIMIT)
    # Strict: a stray quote would otherwise swallow the rows behind it without a word.
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    header = next(rows, [])
    indices = [header.index(_choose(path, header, column, default)) for column in wanted]
    yield [header[index] for index in indices]
    for row in rows:
        if not row:
            continue
        if max(indices) >= len(row):
            raise InvalidInput(
                f"data file {path}, line {rows.line_num}", found=f"{len(row)} columns", wanted=f"{len(header)}"
            )
        yield [row[index] for index in indices]


def _from_json_lines(path: Path, lines: Iterable[str], wanted: list[str | None], default: str) -> Iterator[list[str]]:
    def objects() -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"data file {path}, line {number}"
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise InvalidInput(where, found=str(error), wanted="JSON") from error
            if not _left_out_in_prodigy(value):
                yield where, value

    return _from_objects(path, objects(), wanted, default)


def _left_out_in_prodigy(value: Any) -> bool:
    # Other data may have an "answer" as well; the hash is what every annotation of Prodigy's carries beside it.
    return isinstance(value, dict) and "_task_hash" in value and value.get("answer") in ("reject", "ignore")


def _from_json_list(path: Path, text: str, wanted: list[str | None], default: str) -> Iterator[list[str]]:
    """A list of objects, or Label Studio's tasks, each with an object of its own under ``data``."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"data file {path}", found=str(error), wanted="JSON") from error
    if not isinstance(values, list):
        mend = "give JSON lines the ending .jsonl"
        raise InvalidInput(f"data file {path}", found=type(values).__name__, wanted="a list of objects", mend=mend)
    own = [value["data"] if _is_label_studio_task(value) else value for value in values]
    objects = ((f"data file {path}, item {number}", value) for number, value in enumerate(own, 1))
    return _from_objects(path, objects, wanted, default)


def _is_label_studio_task(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("data"), dict)


def _from_objects(
    path: Path, objects: Iterable[tuple[str, Any]], wanted: list[str | None], default: str
) -> Iterator[list[str]]:
    names: list[str] = []
    for where, value in objects:
        if not isinstance(value, dict):
            raise InvalidInput(where, found=type(value).__name__, wanted="an object")
        if not names:
            names = [_choose(path, list(value), column, default) for column in wanted]
            yield names
        row: list[Any] = [value.get(name) for name in names]
        if not all(isinstance(text, str) for text in row):
            raise InvalidInput(where, found=", ".join(type(text).__name__ for text in row), wanted="texts")
        yield row
    if not names:
        yield [default]


def _choose(path: Path, columns: list[str], column: str | None, default: str) -> str:
    if column is None and len(columns) == 1:
        return columns[0]
    wanted = column or default
    if wanted not in columns:
        raise NotFound(
            f"column {wanted!r} of {path}",
            found=", ".join(columns) or "no columns",
            mend="name the column of the texts with --text-column",
        )
    return wanted
