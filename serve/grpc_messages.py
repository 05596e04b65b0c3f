"""A gRPC call's data -> its messages: each with a prefix that says whether it is compressed, and its bytes. Pure."""

from __future__ import annotations

import struct
import zlib

import grpc

from ..bundle.errors import TooLarge
from .grpc_status import Aborted, invalid, refused

CODINGS = {b"gzip": 32 + zlib.MAX_WBITS, b"deflate": 32 + zlib.MAX_WBITS}
"""``grpc-encoding`` and what zlib calls it; 32 reads the header and tells the two apart."""
_PREFIX = struct.Struct(">BI")


class MessageReader:
    """The messages of one call.

    Args:
        most: bytes of a message, compressed or not.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._coding = b"identity"
        self._partial = bytearray()

    def expect(self, coding: bytes) -> None:
        """The call's ``grpc-encoding``, by which its messages may be compressed.

        Raises:
            Aborted: it is not known here.
        """
        if coding != b"identity" and coding not in CODINGS:
            known = ("grpc-accept-encoding", "identity, deflate, gzip")
            raise Aborted(grpc.StatusCode.UNIMPLEMENTED, "messages in a coding that is not known here", [known])
        self._coding = coding

    @property
    def amid(self) -> bool:
        """Whether a message has begun that isn't whole."""
        return bool(self._partial)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that these bytes make whole.

        Raises:
            Aborted: one is, or unpacks to, more than the limit, or can't be unpacked.
        """
        if self._partial:
            self._partial += data
            if not self._is_whole(self._partial, 0):
                return []
            data, self._partial = bytes(self._partial), bytearray()
        messages, place = [], 0
        while self._is_whole(data, place):
            packed, size = _PREFIX.unpack_from(data, place)
            begin = place + _PREFIX.size
            place = begin + size
            message = data[begin:place]
            messages.append(self._unpacked(message) if packed else message)
        self._partial += data[place:]
        return messages

    def _is_whole(self, data: bytes | bytearray, place: int) -> bool:
        if len(data) - place < _PREFIX.size:
            return False
        size: int = _PREFIX.unpack_from(data, place)[1]
        self._check_size(size)
        return len(data) - place >= _PREFIX.size + size

    def _check_size(self, size: int) -> None:
        if size > self._most:
            raise refused(TooLarge("message", found=f"{size} bytes", wanted=f"at most {self._most}"))

    def _unpacked(self, message: bytes) -> bytes:
        if self._coding == b"identity":
            raise invalid("a compressed message, and no grpc-encoding")
        unpack = zlib.decompressobj(wbits=CODINGS[self._coding])
        try:
            whole = unpack.decompress(message, self._most + 1)
        except zlib.error:
            raise invalid("a message that can't be decompressed") from None
        self._check_size(len(whole))
        if not unpack.eof:
            raise invalid("a compressed message that is cut")
        return whole


def with_prefix(message: bytes, most: int) -> bytes:
    """A message as it goes out.

    Raises:
        Aborted: it is more than the limit.
    """
    if len(message) > most:
        raise refused(TooLarge("answer", found=f"{len(message)} bytes", wanted=f"at most {most}"))
    return _PREFIX.pack(0, len(message)) + message
