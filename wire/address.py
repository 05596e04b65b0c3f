"""Where a server listens: ``grpc://host:port`` or ``http://host:port``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..bundle.errors import InvalidInput

_LABEL = r"[A-Za-z0-9_-]{1,63}"
_FORM = re.compile(rf"(grpc|http)://(\[[0-9a-fA-F:]+\]|{_LABEL}(?:\.{_LABEL})*\.?):([0-9]{{1,5}})/?")


@dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        scheme: ``grpc`` or ``http``.
        host: a name or an IP address, IPv6 without brackets.
        port: 1 to 65535.
    """

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """``host:port``, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def parse_address(url: str) -> Address:
    """The address in ``grpc://host:port`` or ``http://host:port``.

    Raises:
        InvalidInput: another form.
    """
    match = _FORM.fullmatch(url)
    if match is None or not 0 < int(match[3]) < 65536:
        raise InvalidInput("url", found=url, wanted="grpc://HOST:PORT or http://HOST:PORT")
    return Address(match[1], match[2].strip("[]"), int(match[3]))
