"""Plain requests to a server, and its metrics as samples."""

from __future__ import annotations

from http.client import HTTPConnection

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def asked(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Status and body of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def scraped(port: int) -> dict[str, list[Sample]]:
    """Samples by name."""
    samples: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(asked(port, "GET", "/metrics")[1]):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    return samples
