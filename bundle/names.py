"""Model names and versions as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import InvalidInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Reference:
    """A resolved ``name[:version]``.

    Attributes:
        name: model name.
        version: the version meant, at least 1.
        path: the bundle's folder.
    """

    name: str
    version: int
    path: Path

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def check_name(name: str) -> str:
    """The name, if it is one: letters, digits, ``.``, ``_``, ``-``, starting with a letter or digit, at most 64.

    Raises:
        InvalidInput: it is not.
    """
    if not NAME.fullmatch(name):
        wanted = "letters, digits, '.', '_' and '-', starting with a letter or digit, at most 64"
        raise InvalidInput("model name", found=repr(name), wanted=wanted)
    return name


def split_spec(spec: str) -> tuple[str, int | None]:
    """``name``, ``name:version`` or ``name/version`` as (name, version or None).

    Raises:
        InvalidInput: not of that form.
    """
    name, separator, version = spec.replace("/", ":").partition(":")
    if separator and not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise InvalidInput(f"version in {spec!r}", found=repr(version), wanted="a whole number from 1")
    return check_name(name), int(version) if separator else None
