"""Where a server listens, as text and as a value."""

import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.wire.address import Address, parse_address


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("http://127.0.0.1:8000", Address("http", "127.0.0.1", 8000), "127.0.0.1:8000"),
        ("grpc://models.example:8001/", Address("grpc", "models.example", 8001), "models.example:8001"),
        ("grpc://[::1]:65535", Address("grpc", "::1", 65535), "[::1]:65535"),
    ],
)
def test_an_address_is_read_and_written(url, address, authority):
    assert parse_address(url) == address
    assert address.authority == authority
    assert str(address) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "https://h:1", "http://h", "http://h:0", "http://h:65536", "http://h:1/v2", "http://::1:80",
     "http://a b:80", "http://h:1\n", "http://bücher:80", "http://a..b:80",
     "http://user@h:80", f"http://{'a' * 64}:80", "http://h:٣"],
)  # fmt: skip
def test_another_form_is_refused(url):
    with pytest.raises(InvalidInput, match="grpc://HOST:PORT"):
        parse_address(url)
