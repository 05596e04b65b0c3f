"""The texts that an export is proven and timed on: the user's own data, or sentences that ship with the package."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.digest import file_digest
from ..bundle.errors import InvalidInput, NotFound, Unsupported
from ..bundle.specs import ModelSpec, Task
from .gold import gold_labels

SAMPLES = Path(__file__).with_name("sample_texts.tsv")
FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".ndjson": None}
"""Delimiter by suffix; None for a JSON object a line."""
USUAL_COLUMN = "text"
MOST_CHARACTERS = 2**31 - 1
"""In a cell: a long document is one, and the module's own limit of 131,072 is less."""


@dataclass(frozen=True)
class Corpus:
    """Texts in the order of the file.

    Attributes:
        name: the file's name.
        digest: SHA-256 of the file.
        texts: first texts, none of them empty.
        pairs: second texts, as many, where the model reads pairs.
        labels: what is right, where it is known. Classification: INT64 [n], indices of classes. Multi-label: BOOL
            [n, classes]. Regression: FP64 [n].
        notes: what was left out or taken by default, a sentence each.
    """

    name: str
    digest: str | None
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | npt.NDArray[np.float64] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """One row of a file.

    Attributes:
        place: where it is, for messages: ``line 7`` of a JSON file, ``row 7`` of a table (the header is row 1).
        cells: its values by column.
    """

    place: str
    cells: Mapping[str, Any]


def read_corpus(
    path: Path,
    model: ModelSpec,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    pair_column: str | None = None,
    limit: int | None = None,
) -> Corpus:
    """Read a CSV, TSV or JSON-lines file in UTF-8.

    Args:
        path: the file; its suffix tells the format, a table's first row names the columns.
        model: task, labels, and whether pairs are read.
        text_column: column of the texts; by default ``text``, or the only one there is.
        label_column: column of the right answers, if any.
        pair_column: column of the second texts; by default ``text_pair`` where the model reads pairs.
        limit: most rows; they are taken evenly from the whole file, which may be sorted by label.

    Returns:
        The rows that hold a text (both texts of a pair, and a label where one is asked for); the others are counted in
        a note. Without a label a row of a multi-label model has none of the classes.

    Raises:
        NotFound: no such file or column.
        InvalidInput: not UTF-8, damaged, without a single usable row, or with labels that the model doesn't know.
        Unsupported: another format.
    """
    records = list(_read_records(path))
    if not records:
        raise InvalidInput(f"data file {path}", found="no rows", wanted="at least one")
    notes = []
    if text_column is None:
        text_column = _find_column(path, records, None, USUAL_COLUMN, "--text-column")
        if text_column != USUAL_COLUMN:
            # A file with another delimiter than its suffix says has one column, too.
            notes.append(f"texts are the only column of {path.name}: {text_column}")
    else:
        _find_column(path, records, text_column, USUAL_COLUMN, "--text-column")
    columns = [text_column]
    if model.pair:
        columns.append(_find_column(path, records, pair_column, "text_pair", "--pair-column"))
    elif pair_column is not None:
        raise InvalidInput("--pair-column", found=pair_column, wanted="none, as the model reads single texts")
    if label_column is not None:
        _find_column(path, records, label_column, label_column, "--label-column")

    usable = [record for record in records if _has_texts(record, columns, path)]
    if label_column is not None and model.task is not Task.MULTI_LABEL:
        usable = [record for record in usable if record.cells.get(label_column) not in (None, "")]
    if not usable:
        raise InvalidInput(f"data file {path}", found=f"{len(records)} rows, all empty in {', '.join(columns)}")
    if len(usable) < len(records):
        notes.append(f"{len(records) - len(usable)} of {len(records)} rows of {path.name} were left out: an empty cell")
    if limit is not None and limit < len(usable):
        notes.append(f"{limit} of {len(usable)} rows of {path.name} were taken, evenly over the file")
        usable = [usable[i * len(usable) // limit] for i in range(limit)]
    labels = None
    if label_column is not None:
        rows = [(record.place, record.cells.get(label_column)) for record in usable]
        labels, label_notes = gold_labels(rows, model, f"{path.name}, column {label_column}")
        notes += label_notes
    return Corpus(
        name=path.name,
        digest=file_digest(path),
        texts=tuple(record.cells[text_column] for record in usable),
        pairs=tuple(record.cells[columns[1]] for record in usable) if model.pair else None,
        labels=labels,
        notes=tuple(notes),
    )


def built_in_corpus(model: ModelSpec) -> Corpus:
    """Customer-service sentences, English and Chinese, of one word to several lines; without labels.

    For a model of pairs each is put beside the one seven places further, so that short meets long.
    """
    records = list(_read_records(SAMPLES))
    texts = tuple(record.cells["text"] for record in records)
    pairs = texts[7:] + texts[:7] if model.pair else None
    note = "no data file was given: built-in sentences were used, and accuracy is not measured"
    return Corpus("built-in sentences", file_digest(SAMPLES), texts, pairs, None, (note,))


def _read_records(path: Path) -> Iterator[Record]:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise Unsupported(f"data file {path}", found=suffix or "no suffix", wanted=f"one of {', '.join(FORMATS)}")
    delimiter = FORMATS[suffix]
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield from _json_records(stream, path) if delimiter is None else _table_records(stream, path, delimiter)
    except FileNotFoundError:
        raise NotFound(f"no data file {path}") from None
    except OSError as error:
        raise InvalidInput(f"data file {path} can't be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"data file {path} is not UTF-8 ({error.reason})",
            found=f"byte 0x{error.object[error.start]:02x}",
            mend="convert it, e.g. `iconv -f GB18030 -t UTF-8`",
        ) from None


def _table_records(stream: Any, path: Path, delimiter: str) -> Iterator[Record]:
    # Strict: a stray quote would otherwise swallow the rows behind it without a word.
    csv.field_size_limit(MOST_CHARACTERS)
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise InvalidInput(f"columns of {path}", found=", ".join(header), wanted="each name once")
        for number, cells in enumerate(reader, start=2):
            if not cells:
                continue
            if len(cells) != len(header):
                raise InvalidInput(
                    f"row {number} of {path}",
                    found=f"{len(cells)} cells",
                    wanted=f"{len(header)}, as in the header",
                    mend="put cells that hold the delimiter in quotes",
                )
            yield Record(f"row {number}", dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise InvalidInput(f"data file {path}, line {reader.line_num} ({error})") from None


def _json_records(stream: Any, path: Path) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"line {number} of {path} is not JSON ({error})") from None
        if not isinstance(cells, dict):
            raise InvalidInput(f"line {number} of {path}", found=type(cells).__name__, wanted="an object")
        yield Record(f"line {number}", cells)


def _find_column(path: Path, records: list[Record], wanted: str | None, usual: str, option: str) -> str:
    """The column asked for, else the usual one, else the only one; it must be in every record."""
    columns = list(dict.fromkeys(name for record in records for name in record.cells))
    if wanted is None:
        wanted = columns[0] if len(columns) == 1 and option == "--text-column" else usual
    if wanted not in columns:
        raise NotFound(
            f"column {wanted!r} of {path}", found=f"columns {', '.join(columns)}", mend=f"name the column with {option}"
        )
    return wanted


def _has_texts(record: Record, columns: list[str], path: Path) -> bool:
    """Whether none of the record's texts is empty.

    Raises:
        InvalidInput: a text that is none.
    """
    for column in columns:
        text = record.cells.get(column)
        if text is None:
            return False
        if not isinstance(text, str):
            raise InvalidInput(f"{record.place} of {path}, {column}", found=type(text).__name__, wanted="a text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"{record.place} of {path}, {column}", found="half a surrogate pair") from None
        if not text.strip():
            return False
    return True
