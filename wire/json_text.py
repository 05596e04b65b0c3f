"""JSON text that is read strictly and written strictly, and objects whose members are checked as they are taken."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ..bundle.errors import EngineFailed, InvalidInput
from .json_large import LARGE, parse_large, search_in_pieces

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_NAMES = {dict: "an object", list: "a list", str: "a string", int: "a whole number", bool: "true or false"}


def parse_json(content: bytes) -> object:
    """The value of a JSON text. A large one is read so that other threads go on meanwhile.

    Raises:
        TooLarge: more values than any request has.
        InvalidInput: not UTF-8, not JSON, NaN or Infinity, half a surrogate pair, nested too deeply, or an integer of
            thousands of digits.
    """
    try:
        text = content.decode("utf-8")
        if len(content) > LARGE:
            value, halves = parse_large(text, _refuse_constant), search_in_pieces(_SURROGATE, text, 6)
        else:
            value, halves = _DECODER.decode(text), _SURROGATE.search(text) is not None
        if halves:
            _check_strings(value)
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise InvalidInput("JSON of the body", found=found, wanted="UTF-8") from None
    except UnicodeEncodeError:
        raise InvalidInput("JSON of the body", found="half a surrogate pair", wanted="whole characters") from None
    except json.JSONDecodeError as error:
        found = f"{error.msg} at {error.pos}" if content else "nothing"
        raise InvalidInput("JSON of the body", found=found, wanted="a JSON object") from None
    except RecursionError:
        raise InvalidInput("JSON of the body", found="too many levels", wanted="fewer nested lists") from None
    except ValueError:
        raise InvalidInput("JSON of the body", found="an integer of thousands of digits", wanted="64 bits") from None
    return value


def _check_strings(value: object) -> None:
    """Encode every string, which half a surrogate pair fails."""
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            item.encode("utf-8")
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += item
            waiting += item.values()


def dump_json(value: object, kind: type[EngineFailed | InvalidInput] = EngineFailed, *, large: bool = False) -> bytes:
    """JSON text in UTF-8, never with NaN or Infinity.

    Args:
        value: of JSON's own types.
        kind: of the error.
        large: let other threads go on meanwhile, which costs a few times as much.

    Raises:
        kind: a number that is not finite, or text with half a surrogate pair.
    """
    try:
        # In pieces it is Python's own code that works, and gives way; as a whole it is C that doesn't.
        text = "".join(_ENCODER.iterencode(value)) if large else _ENCODER.encode(value)
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise kind("JSON", found="half a surrogate pair", wanted="whole characters") from None
    except ValueError:
        raise kind("JSON", found="a number that is not finite", wanted="finite numbers") from None


def _refuse_constant(word: str) -> NoReturn:
    raise InvalidInput("JSON of the body", found=word, wanted="finite numbers")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""One for all: ``json.loads`` makes one a call, which takes longer than to read a short body."""


@dataclass(frozen=True)
class Members:
    """A JSON object; each reader raises InvalidInput where the member is missing or of another type.

    Attributes:
        what: the object, for messages.
        values: its members.
    """

    what: str
    values: Mapping[str, Any]

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        if default is not None and name not in self.values:
            return default
        value: str = self._take(name, str)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        value: bool = self._take(name, bool) if name in self.values else default
        return value

    def size(self, name: str) -> int | None:
        """A whole number from 0; None where it is absent."""
        if name not in self.values:
            return None
        value: int = self._take(name, int)
        if value < 0:
            raise InvalidInput(f"{name} of {self.what}", found=value, wanted="0 or more")
        return value

    def members(self, name: str, *, required: bool = True) -> Members:
        """An object; an empty one where it is absent and not required."""
        value = self._take(name, dict) if required or name in self.values else {}
        return Members(f"{name} of {self.what}", value)

    def objects(self, name: str, *, required: bool = True) -> list[Members]:
        """A list of objects."""
        items = self._take(name, list) if required or name in self.values else []
        return [read_members(f"{name}[{index}]", item) for index, item in enumerate(items)]

    def texts(self, name: str, *, required: bool = True) -> list[str]:
        """A list of strings."""
        items: list[str] = self._take(name, list) if required or name in self.values else []
        for index, item in enumerate(items):
            _expect(f"{name}[{index}] of {self.what}", item, str)
        return items

    def shape(self) -> tuple[int, ...]:
        """The member ``shape``: a list of whole numbers."""
        items = self._take("shape", list)
        for index, item in enumerate(items):
            _expect(f"shape[{index}] of {self.what}", item, int)
        return tuple(items)

    def _take(self, name: str, kind: type) -> Any:
        if name not in self.values:
            raise InvalidInput(f"{name} of {self.what}", found="none", wanted=_NAMES[kind])
        return _expect(f"{name} of {self.what}", self.values[name], kind)


def read_members(what: str, value: object) -> Members:
    """A JSON value as an object.

    Raises:
        InvalidInput: it is none.
    """
    return Members(what, _expect(what, value, dict))


def _expect(what: str, value: object, kind: type) -> Any:
    # By type and not by isinstance: true is no number here.
    if type(value) is not kind:
        found = "nothing" if value is None else _NAMES.get(type(value), f"a {type(value).__name__}")
        raise InvalidInput(what, found=found, wanted=_NAMES[kind])
    return value
