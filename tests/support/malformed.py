"""Messages that are wrong in known and in drawn ways, from a seed; most are valid ones that something happened to."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence

from nlpdeploy.wire import codec_json, codec_proto

from .asking import question

CRUEL = (
    b"", b"\0", b"\xff", b"\r\n", b"\n", b"\r\n\r\n", b" ", b"\xff\xff\xff\xff", b"\x80" * 10, b"\0" * 64, b"a" * 5000,
    b"-1", b"0x10", b"+5", b"1e9", b"9" * 40, b"NaN", b"null", b"{}", b"[" * 3000, b'"\\ud800"', b"\xc3\x28", b"%00",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 0\r\n", b"GET /v2/health/live HTTP/1.1\r\n\r\n",
)  # fmt: skip
"""What a mutation puts in."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def mutated(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after one to four accidents."""
    message = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 4)):
        first = chance.randrange(len(message) + 1)
        last = min(len(message), first + chance.choice((1, 1, 2, 4, 16, 200)))
        accident = chance.randrange(7)
        if accident == 0:  # a bit
            for place in range(first, last):
                message[place] ^= 1 << chance.randrange(8)
        elif accident == 1:  # a gap
            del message[first:last]
        elif accident == 2:  # something else instead
            message[first:last] = chance.choice(CRUEL)
        elif accident == 3:  # something more
            message[first:first] = chance.choice(CRUEL)
        elif accident == 4:  # twice
            message[first:first] = message[first:last]
        elif accident == 5:  # the end
            del message[first:]
        else:  # a part of another one
            other = chance.choice(seeds)
            message[first:last] = other[chance.randrange(len(other) + 1) :][:200]
    return bytes(message)


def noise(chance: random.Random) -> bytes:
    """Bytes of no meaning."""
    return chance.randbytes(chance.choice((1, 9, 100, 3000, 70_000)))


# -- HTTP ------------------------------------------------------------------------------------------------------------


def http(target: str, body: bytes = b"", *headers: str, method: str = "POST") -> bytes:
    """A request; without a header of its own on the body's length it gets the right one."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def http_seeds() -> list[bytes]:
    """Valid requests of every form."""
    request = question(["hello a", "world"], outputs=("label", "scores"), id="r1", parameters={"timeout": 9_000_000})
    plain = codec_json.encode_request(request, binary=False).content
    binary = codec_json.encode_request(request, binary=True)
    infer = "/v2/models/tiny/infer"
    predict = json.dumps({"text": ["hello", "的"]}, ensure_ascii=False).encode()
    chunks = b"5\r\n" + predict[:5] + b"\r\n" + f"{len(predict) - 5:x}".encode() + b";x=y\r\n" + predict[5:]
    return [
        http(infer, plain, "Content-Type: application/json"),
        http(infer, binary.content, f"Inference-Header-Content-Length: {binary.header_length}"),
        http("/v2/models/tiny/versions/1/infer", plain, "x-request-timeout-ms: 5000"),
        http("/v2/models/tiny/predict", predict),
        http("/v2/models/tiny/predict", chunks + b"\r\n0\r\nX: y\r\n\r\n", "Transfer-Encoding: chunked"),
        http("/v2/models/tiny/predict", predict, "Expect: 100-continue"),
        http("/v2/models/tiny/predict", predict, "Connection: Upgrade", "Upgrade: h2c"),
        http("/v2/models/tiny", method="GET"),
        http("/v2/models/tiny/config", method="GET"),
        http("/v2/repository/index", b'{"ready": true}'),
        http("/v2/health/ready", method="GET") + http("/metrics", method="GET"),
    ]


def framed_wrong() -> list[bytes]:
    """Requests whose frame lies, repeats itself, floods, or hides another request."""
    predict, body = "/v2/models/tiny/predict", b'{"text": "hello"}'
    hidden = http("/v2/health/live", method="GET")
    lengths = ("-1", "+5", "5, 5", "5 5", "0x11", "1e1", "17.0", " ", "9" * 30, "18446744073709551616", "٣", "5;q=1")
    codings = ("gzip, chunked", "chunked, gzip", "chunked, chunked", "identity", "xchunked", "chunked\x0b", ",chunked")
    sizes = ("g", "-5", "0x5", "5 5", "ffffffffffffffff", "fffffffffffffffff", "", ";", "5\n", "1;" + "a" * 70_000)
    chunked = "Transfer-Encoding: chunked"
    return [
        *[http(predict, body, f"Content-Length: {length}") for length in lengths],
        *[http(predict, body + hidden, f"Transfer-Encoding: {coding}") for coding in codings],
        *[http(predict, f"{size}\r\n".encode() + body + b"\r\n0\r\n\r\n", chunked) for size in sizes],
        http(predict, body + hidden, chunked, "Content-Length: 17"),
        http(predict, body + hidden, "Content-Length: 17", "Content-Length: 17"),
        http(predict, body + hidden, "Content-Length : 17"),
        http(predict, body, "Content-Length:\r\n 17"),
        http(predict, body, "X: a\r\n folded: b"),
        http(predict, body, "X\0Y: a"),
        http(predict, body, "X: a\0b"),
        http(predict, body, "X: a\rb"),
        http(predict, body, ": no name"),
        http(predict, body, "no colon"),
        http(predict, body, *["A: b"] * 20_000),
        http(predict, body, *[f"A{i}: b" for i in range(500)]),
        http(predict, b"1\r\na\r\n" * 5000 + b"0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", chunked),
        http(predict, body).replace(b"\r\n", b"\n"),
        http(predict, body).replace(b"HTTP/1.1", b"HTTP/1.7"),
        http(predict, body).replace(b"HTTP/1.1", b"HTTP/9"),
        http(predict, body).replace(b"POST ", b"POST\t"),
        http(predict, body).replace(b"POST ", b"POS(T "),
        http("http://elsewhere/v2/health/live", method="GET"),
        http("//v2//health/live", method="GET"),
        http("/v2/models/%00/predict", body),
        http("/v2/models/%ff/predict", body),
        http("/v2/models/../../etc/passwd", method="GET"),
        http("*", method="OPTIONS"),
        http("/" + "a/" * 20_000, method="GET"),
        b"\r\n" * 40_000 + hidden,
        PREFACE + b"\0\0\0\4\0\0\0\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 500,  # a TLS hello
        *_lying_header_lengths(),
    ]


def _lying_header_lengths() -> list[bytes]:
    """Binary tensors whose JSON is said to end elsewhere, or to hold other sizes."""
    whole = codec_json.encode_request(question(["hello"]), binary=True)
    content, true = whole.content, whole.header_length or 0
    lies = ("-1", "0", "1", str(true - 1), str(true + 1), str(len(content)), str(len(content) + 1), "9" * 30, "1.5", "")
    messages = [http("/v2/models/tiny/infer", content, f"Inference-Header-Content-Length: {lie}") for lie in lies]
    for size in (-1, 0, 8, 10, 2**31, 2**63):
        header = content[:true].replace(b'"binary_data_size":9', f'"binary_data_size":{size}'.encode())
        tensor = struct.pack("<I", 5) + b"hello"
        lengths = f"Inference-Header-Content-Length: {len(header)}"
        messages.append(http("/v2/models/tiny/infer", header + tensor, lengths))
    return messages


# -- gRPC ------------------------------------------------------------------------------------------------------------


def infer_seeds() -> list[bytes]:
    """Valid ``ModelInferRequest`` messages, raw and typed."""
    request = question(["hello a", "world"], outputs=("label", "scores"), id="r1", parameters={"timeout": 9_000_000})
    message = codec_proto.encode_request(request)
    raw = bytes(message.SerializeToString())
    message.ClearField("raw_input_contents")
    message.inputs[0].contents.bytes_contents.extend([b"hello a", b"world"])
    return [raw, bytes(message.SerializeToString())]


def http2_seeds(path: str, message: bytes) -> list[bytes]:
    """A whole gRPC call as a client's bytes on a connection: preface, settings, headers, data."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers",
        "content-type": "application/grpc",
    }  # fmt: skip
    block = b"".join(b"\0" + _short(name) + _short(value) for name, value in headers.items())
    data = b"\0" + struct.pack(">I", len(message)) + message
    start = PREFACE + _frame(4, 0, 0, b"")
    return [
        start + _frame(1, 4, 1, block) + _frame(0, 1, 1, data),
        start + _frame(1, 4, 1, block) + _frame(0, 0, 1, data[:7]) + _frame(3, 0, 1, b"\0\0\0\x08"),  # a reset
        start + _frame(6, 0, 0, b"\0" * 8) + _frame(8, 0, 0, b"\x7f\xff\xff\xff") + _frame(1, 5, 3, block),
        start + _frame(1, 0, 1, block[:9]) + _frame(9, 4, 1, block[9:]) + _frame(0, 1, 1, data),  # continued
    ]


def _short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
