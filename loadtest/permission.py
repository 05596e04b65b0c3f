"""Whether a load test may be aimed at an address: at this machine and private networks yes, elsewhere only by name."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from ..bundle.errors import InvalidInput, Unavailable

FLAG = "--yes-i-may-load-test"


def check_permission(url: str, permitted: Sequence[str]) -> None:
    """Refuse traffic to a public address whose host was not named as one that may be loaded.

    Args:
        url: of the server.
        permitted: hosts, as in the URL.

    Raises:
        InvalidInput: it leads to an address that is neither loopback, link-local nor private, and isn't permitted;
            or it names no host.
        Unavailable: its name can't be resolved.
    """
    host = urlsplit(url).hostname or ""
    if not host:
        raise InvalidInput("url", found=url, wanted="grpc://HOST:PORT, http://HOST:PORT or torchserve://HOST:PORT")
    if host in permitted:
        return
    public = [address for address in _addresses(host) if _is_public(address)]
    if public:
        raise InvalidInput(
            f"load test of {host}",
            found=f"the public address {public[0]}",
            wanted="this machine or a private network",
            mend=f"{FLAG} {host}, if that is so",
        )


def _addresses(host: str) -> list[str]:
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise Unavailable(f"host {host!r}", found=str(error), wanted="a name that can be resolved") from None


def _is_public(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_global
