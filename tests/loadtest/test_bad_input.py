"""What can't be run ends the command with status 2 and one line, before the server has got a single request."""

from pathlib import Path

import pytest

from support.cli import nlpdeploy, one_line
from support.null_server import null_server

GOOD = {"--model": "intent", "--target": "p95=45ms", "--rate": "50", "--seconds": "1"}


@pytest.fixture(scope="module")
def server():
    with null_server() as running:
        yield running


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--target": "p95.5x=45ms"}, ("p95.5x",)),
        ({"--target": "speed=45ms"}, ("speed", "p95")),
        ({"--target": "p95=45"}, ("45", "45ms")),
        ({"--target": "errors=1"}, ("errors",)),
        ({"--data": "empty.csv"}, ("empty.csv", "no texts")),
        ({"--data": "absent.csv"}, ("absent.csv", "no such file")),
        ({"--text-column": "question"}, ("question", "text", "--text-column")),
        ({"--url": "grpc://127.0.0.1:1"}, ("127.0.0.1:1",)),
        ({"--url": "http://127.0.0.1:1"}, ("127.0.0.1:1",)),
        ({"--url": "ftp://127.0.0.1:1"}, ("ftp://127.0.0.1:1", "grpc://")),
        ({"--model": "nobody"}, ("nobody",)),
        ({"--rate": "fast"}, ("fast",)),
        ({"--arrivals": "replay"}, ("replay", "--trace")),
        ({"--key-file": "texts.csv"}, ("torchserve://",)),
        ({"--url": "torchserve://127.0.0.1:1", "--key-file": "texts.csv"}, ("texts.csv", "no token")),
        ({"--url": "http://8.8.8.8:80"}, ("8.8.8.8", "--yes-i-may-load-test")),
    ],
    ids=lambda value: " ".join(f"{flag} {text}" for flag, text in value.items()) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_in_one_line_before_any_load(server, tmp_path: Path, changes, words) -> None:
    (tmp_path / "texts.csv").write_text("id,text\n1,hello there\n2,I lost my card\n")
    (tmp_path / "empty.csv").write_text("text\n")
    before = len(server.received())
    flags = {"--url": server.url("http"), "--data": "texts.csv", "--run-dir": "run", **GOOD, **changes}
    done = nlpdeploy("loadtest", "run", *[word for pair in flags.items() for word in pair], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    said = one_line(done.stderr)
    assert all(word in said for word in words), said
    assert done.stdout == ""
    assert len(server.received()) == before
    assert not (tmp_path / "run").exists()
