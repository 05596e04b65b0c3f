"""Header blocks of HTTP/2 (HPACK, RFC 7541), on the tables of ``hpack``.

Read by code of its own, since a call's block is mostly one byte a field, which is no more than a look into a table.
Written without any table: what a server answers is short, and the same blocks serve every connection.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from .h2_frames import ConnectionFault, ErrorCode

Fields = list[tuple[bytes, bytes]]

TABLE_SIZE = 4096
"""Bytes of the table that a client may fill: what it may do unless it is told otherwise."""
FIELD_OVERHEAD = 32
"""Bytes that a field counts for besides its own (RFC 9113, section 6.5.2)."""


class HeaderReader:
    """The header blocks of one connection, each read once and in order, since they build on each other.

    Args:
        limit: bytes of one block's fields.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._table = HeaderTable()

    def read(self, block: bytes) -> Fields | None:
        """The fields of a block; None where they are more than the limit.

        Raises:
            ConnectionFault: the block can't be read, and so none that follows.
        """
        fields: Fields = []
        place, end, size = 0, len(block), 0
        try:
            while place < end:
                first = block[place]
                if 0x80 < first < 0xFF:
                    field = self._table.get_by_index(first & 0x7F)
                    place += 1
                elif first & 0xE0 == 0x20 and not fields:
                    place = self._resize(block, place)
                    continue
                else:
                    field, place = self._field(block, place)
                name, value = field
                size += len(name) + len(value) + FIELD_OVERHEAD
                if size <= self._limit:
                    fields.append((name, value))
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"headers can't be read ({error})") from None
        return fields if size <= self._limit else None

    def _field(self, block: bytes, place: int) -> tuple[tuple[bytes, bytes], int]:
        first = block[place]
        if first & 0x80:
            index, place = _integer(block, place, 7)
            return self._table.get_by_index(index), place
        kept = bool(first & 0x40)
        index, place = _integer(block, place, 6 if kept else 4)
        if index:
            name = self._table.get_by_index(index)[0]
        else:
            name, place = _string(block, place)
        value, place = _string(block, place)
        if kept:
            self._table.add(name, value)
        return (name, value), place

    def _resize(self, block: bytes, place: int) -> int:
        size, place = _integer(block, place, 5)
        if size > TABLE_SIZE:
            raise ValueError(f"a table of {size} bytes")
        self._table.maxsize = size
        return place


class HeaderBlock:
    """A header block that comes in several frames.

    Args:
        stream: whose it is.
        ended: whether the stream ends with it.
        limit: bytes.
    """

    def __init__(self, stream: int, *, ended: bool, limit: int) -> None:
        self.stream, self.ended = stream, ended
        self._limit = limit
        self._bytes = bytearray()

    @property
    def too_large(self) -> bool:
        """Whether it is past the limit, and is to be gathered no further."""
        return len(self._bytes) > self._limit

    def add(self, part: bytes, *, last: bool) -> bytes | None:
        """Take a part; the whole block comes back after the last.

        Raises:
            ConnectionFault: an empty part that is not the last: there might be any number of them.
        """
        if not part and not last:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "headers without end")
        self._bytes += part
        return bytes(self._bytes) if last else None


def write_headers(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A block that any connection can read, whatever it has read before; names in lower case."""
    return b"".join([b"\0" + _length(name) + name + _length(value) + value for name, value in fields])


def _length(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes((size,))
    written, size = bytearray((0x7F,)), size - 0x7F
    while size >= 0x80:
        written.append(size & 0x7F | 0x80)
        size >>= 7
    written.append(size)
    return bytes(written)


def _integer(block: bytes, place: int, bits: int) -> tuple[int, int]:
    """RFC 7541, section 5.1."""
    most = (1 << bits) - 1
    number = block[place] & most
    place += 1
    if number < most:
        return number, place
    for shift in range(0, 28, 7):
        octet = block[place]
        place += 1
        number += (octet & 0x7F) << shift
        if octet < 0x80:
            return number, place
    raise ValueError("an integer of more than 28 bits")


def _string(block: bytes, place: int) -> tuple[bytes, int]:
    """RFC 7541, section 5.2."""
    huffman = block[place] & 0x80
    size, place = _integer(block, place, 7)
    end = place + size
    text = block[place:end]
    if len(text) != size:
        raise ValueError("a string that is cut")
    return (decode_huffman(text) if huffman else text), end
