"""The texts that are sent: read once from a file, in an order drawn from a seed.

Knows the file forms CSV, TSV, JSON lines and plain text; knows nothing of servers.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bundle.errors import InvalidInput, NotFound

DEFAULT_COLUMN = "text"
_ORDER = 0x7061_796C  # keeps the order's random stream apart from the arrivals', which share the seed
_CELL_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Payloads:
    """Texts and their identity.

    Attributes:
        texts: as in the file, in its order.
        sha256: in hex, over the texts (UTF-8, each with its length before it), whatever the file form.
    """

    texts: tuple[str, ...]
    sha256: str

    def order(self, count: int, *, seed: int, worker: int) -> npt.NDArray[np.int64]:
        """Which text each of ``count`` requests of a worker takes: int64 ``[count]``.

        Each text comes once before any comes twice; every pass is a new shuffle. The same seed gives the same order.
        """
        random = np.random.default_rng([seed, worker, _ORDER])
        passes = -(-count // len(self.texts))
        order = [random.permutation(len(self.texts)) for _ in range(passes)]
        return np.concatenate([np.empty(0, np.int64), *order])[:count]


def read_payloads(path: Path, column: str | None = None) -> Payloads:
    """Read ``.csv``, ``.tsv``, ``.jsonl`` or, with any other ending, plain text with one text a line.

    Args:
        path: the file, UTF-8 (with or without a byte order mark).
        column: of the table, or the key of the JSON objects; by default ``text``, or the only column there is.

    Raises:
        NotFound: no such file or column.
        InvalidInput: not UTF-8, not that form, or no texts in it.
    """
    if not path.is_file():
        raise NotFound(f"data file {path}", found="no such file", mend="give a file with --data")
    suffix = path.suffix.lower()
    try:
        # Splitting must leave a lone \r or U+2028 inside a text alone: newline="" and files, never str.splitlines.
        with path.open(encoding="utf-8-sig", newline="" if suffix in (".csv", ".tsv") else None) as file:
            if suffix in (".csv", ".tsv"):
                texts = list(_from_table(path, file, "\t" if suffix == ".tsv" else ",", column))
            elif suffix in (".jsonl", ".ndjson"):
                texts = list(_from_json_lines(path, file, column))
            else:
                texts = [line.rstrip("\n") for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"data file {path}", found=f"bytes that are not UTF-8 at {error.start}", wanted="UTF-8"
        ) from error
    except csv.Error as error:
        raise InvalidInput(f"data file {path}", found=str(error), wanted="a table with a header line") from error
    if not texts:
        raise InvalidInput(f"data file {path}", found="no texts", wanted="at least one")
    try:
        return Payloads(tuple(texts), _identity(texts))
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"data file {path}", found="half of a surrogate pair in a text", wanted="whole characters"
        ) from error


def _from_table(path: Path, lines: Iterable[str], delimiter: str, column: str | None) -> Iterator[str]:
    csv.field_size_limit(_CELL_LIMIT)
    rows = csv.reader(lines, delimiter=delimiter)
    header = next(rows, [])
    index = header.index(_choose(path, header, column))
    for row in rows:
        if not row:
            continue
        if index >= len(row):
            raise InvalidInput(
                f"data file {path}, line {rows.line_num}", found=f"{len(row)} columns", wanted=f"{len(header)}"
            )
        yield row[index]


def _from_json_lines(path: Path, lines: Iterable[str], column: str | None) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"data file {path}, line {number}", found=str(error), wanted="JSON") from error
        if isinstance(value, dict):
            value = value[_choose(path, list(value), column)]
        if not isinstance(value, str):
            raise InvalidInput(f"data file {path}, line {number}", found=type(value).__name__, wanted="a text")
        yield value


def _choose(path: Path, columns: list[str], column: str | None) -> str:
    if column is None and len(columns) == 1:
        return columns[0]
    wanted = column or DEFAULT_COLUMN
    if wanted not in columns:
        raise NotFound(
            f"column {wanted!r} of {path}",
            found=", ".join(columns) or "no columns",
            mend="name the column of the texts with --text-column",
        )
    return wanted


def _identity(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
