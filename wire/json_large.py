"""JSON texts of megabytes, read so that other threads of the process go on meanwhile.

The standard library's parser works in C and holds the interpreter from a text's first byte to its last: for 30 MiB of
small numbers that is seconds in which no other request moves. Here lists and objects are walked in Python, which gives
way at every step, and only stretches of simple values (numbers, short plain strings, …) go to that parser, a thousand
at a time. The values and the errors are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from json.decoder import JSONDecodeError
from typing import Any

from ..bundle.errors import TooLarge

LARGE = 256 * 1024
"""Bytes of a message from which on reading it is work for a thread of its own: below, a few milliseconds at most."""

MOST_VALUES = 2**22
"""Numbers of 4,096 rows of 512 tokens with their mask; more than such a request has would only fill the memory."""
MOST_STEPS = 2**18
"""Values that are read one by one: texts, lists, objects. As many as a tensor may have texts."""

_SPACE = re.compile(r"[ \t\n\r]*")
_STRETCH = re.compile(
    r"(?:[ \t\n\r]*(?:-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,20})?(?:[eE][-+]?[0-9]{1,3})?"
    r'|"[^"\\\x00-\x1f]{0,64}"|true|false|null|\[\]|\{\})[ \t\n\r]*,){1,1024}'
)
_WINDOW = 2**20

Scan = Callable[[str, int], tuple[Any, int]]


def parse_large(text: str, parse_constant: Callable[[str], object]) -> object:
    """The value of a JSON text, as ``json.loads`` reads it.

    Args:
        text: the whole text.
        parse_constant: called for ``NaN`` and ``Infinity``.

    Raises:
        JSONDecodeError, RecursionError, ValueError: as ``json.loads``.
        TooLarge: more values than any request has.
    """
    return _LargeDecoder(parse_constant=parse_constant).decode(text)


def search_in_pieces(pattern: re.Pattern[str], text: str, longest: int) -> bool:
    """Whether a pattern, whose matches have at most ``longest`` characters, is found; gives way after each mebibyte."""
    return any(pattern.search(text, start, start + _WINDOW + longest) for start in range(0, len(text), _WINDOW))


class _LargeDecoder(json.JSONDecoder):
    """The decoder with lists and objects of our own, within the budgets."""

    def __init__(self, *, parse_constant: Callable[[str], object]) -> None:
        super().__init__(parse_constant=parse_constant)
        self._scan_simple: Scan = self.scan_once  # the parser in C
        self.scan_once: Any = self._scan
        self._values, self._steps = MOST_VALUES, MOST_STEPS

    def _scan(self, text: str, end: int) -> tuple[Any, int]:
        first = text[end : end + 1]
        if first == "[":
            return self._read_list(text, end + 1)
        if first == "{":
            return self._read_object(text, end + 1)
        return self._scan_simple(text, end)

    def _read_list(self, text: str, end: int) -> tuple[list[Any], int]:
        values: list[Any] = []
        end = _skip(text, end)
        if text[end : end + 1] == "]":
            return values, end + 1
        while True:
            while (stretch := _STRETCH.match(text, end)) is not None:
                read = json.loads(f"[{text[end : stretch.end() - 1]}]")
                self._count(values=len(read), steps=text.count('"', end, stretch.end()) // 2)
                values += read
                end = stretch.end()
            value, end = self._step(text, _skip(text, end))
            values.append(value)
            end = _skip(text, end)
            after = text[end : end + 1]
            if after == "]":
                return values, end + 1
            if after != ",":
                raise JSONDecodeError("Expecting ',' delimiter", text, end)
            end += 1

    def _read_object(self, text: str, end: int) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        end = _skip(text, end)
        if text[end : end + 1] == "}":
            return members, end + 1
        while True:
            if text[end : end + 1] != '"':
                raise JSONDecodeError("Expecting property name enclosed in double quotes", text, end)
            name, end = self._scan_simple(text, end)
            end = _skip(text, end)
            if text[end : end + 1] != ":":
                raise JSONDecodeError("Expecting ':' delimiter", text, end)
            members[name], end = self._step(text, _skip(text, end + 1))
            end = _skip(text, end)
            after = text[end : end + 1]
            if after == "}":
                return members, end + 1
            if after != ",":
                raise JSONDecodeError("Expecting ',' delimiter", text, end)
            end = _skip(text, end + 1)

    def _step(self, text: str, end: int) -> tuple[Any, int]:
        self._count(steps=1)
        try:
            return self._scan(text, end)
        except StopIteration as error:
            raise JSONDecodeError("Expecting value", text, error.value) from None

    def _count(self, *, values: int = 0, steps: int = 0) -> None:
        self._values -= values
        self._steps -= steps
        if self._values < 0:
            raise TooLarge("JSON of the body", found="too many values", wanted=f"at most {MOST_VALUES}", mend=_MEND)
        if self._steps < 0:
            raise TooLarge("JSON of the body", found="too many texts, lists or objects", wanted=f"at most {MOST_STEPS}")


_MEND = "send tensors as binary data"


def _skip(text: str, end: int) -> int:
    space = _SPACE.match(text, end)
    return end if space is None else space.end()
