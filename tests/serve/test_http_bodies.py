"""Bodies over HTTP: compressed ones, raw tensors that aren't whole, and those above the limit."""

import gzip
import json
import struct
import zlib
from http.client import HTTPConnection

import pytest
import tritonclient.http as client
from tritonclient.utils import InferenceServerException

from support.fronts import serving_fronts
from support.http_asks import call, decoded, texts

INFER = "/v2/models/tiny/infer"
PREDICT = "/v2/models/tiny/predict"


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    with serving_fronts(tmp_path_factory.mktemp("fronts")) as running:
        yield running


@pytest.fixture
def triton(fronts):
    with client.InferenceServerClient(f"127.0.0.1:{fronts.http_port}") as made:
        yield made


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(triton, algorithm):
    result = triton.infer("tiny", texts("hello"), request_compression_algorithm=algorithm)
    assert decoded(result.as_numpy("label")) == ["hello"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"good", ["input text", "1685024615 bytes", "0 bytes left"]),
        (struct.pack("<I", 5) + b"helloxx", ["input text", "2 bytes after the last"]),
    ],
)
def test_bytes_without_their_length_are_a_clean_client_error_and_the_next_request_is_answered(fronts, raw, words):
    entry = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [entry]}).encode()
    connection = HTTPConnection("127.0.0.1", fronts.http_port, timeout=20)
    connection.request("POST", INFER, header + raw, {"Inference-Header-Content-Length": str(len(header))})
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    assert response.status == 400
    assert all(word in error for word in words)
    connection.request("POST", PREDICT, json.dumps({"text": "hello"}))
    assert json.loads(connection.getresponse().read())["label"] == "hello"
    connection.close()


def test_6_4_megabytes_pass_by_default(triton, fronts):
    long = ["hello " * 16_666 + "a" * 4] * 64
    assert decoded(triton.infer("tiny", texts(*long)).as_numpy("label")) == ["hello"] * 64
    assert len(json.loads(call(fronts, "POST", PREDICT, {"text": long})[2])["predictions"]) == 64


def test_above_the_limit_is_413_also_when_it_is_so_after_decompression(tmp_path):
    with (
        serving_fronts(tmp_path, max_message_bytes=1_000_000) as fronts,
        client.InferenceServerClient(f"127.0.0.1:{fronts.http_port}") as triton,
    ):
        for algorithm in (None, "gzip"):
            with pytest.raises(InferenceServerException) as caught:
                triton.infer("tiny", texts("a" * 1_100_000), request_compression_algorithm=algorithm)
            assert caught.value.status() == "413"
        assert decoded(triton.infer("tiny", texts("hello")).as_numpy("label")) == ["hello"]


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("br", b"", 400),
        ("gzip", b"plain", 400),
        ("gzip", gzip.compress(b"{}")[:-3], 400),
        ("deflate", zlib.compress(b"{}") + b"more", 400),
        ("deflate", b"", 400),
    ],
)
def test_a_wrong_coding_is_refused(fronts, coding, body, status):
    assert call(fronts, "POST", PREDICT, body, content_encoding=coding)[0] == status
