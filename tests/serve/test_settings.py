"""Limits as they are in force: in this process's own, and as each front is told them."""

import subprocess
import sys

import pytest

from nlpdeploy.serve.settings import FRONTS, OWN_FILES, Settings, WireLimits

FITTED = """
import resource
from nlpdeploy.serve.settings import WireLimits, fitted
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(fitted(WireLimits(connections={connections})).connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "wanted", "files"),
    [
        (256, 2048, 700, 700, len(FRONTS) * 700 + OWN_FILES),  # the soft limit is raised as far as is needed
        (256, 1024, 4096, (1024 - OWN_FILES) // len(FRONTS), 1024),  # no further than the hard one
        (1024, 1024, 10, 10, 1024),
    ],
)
def test_there_are_no_more_connections_than_files_may_be_open(soft, hard, connections, wanted, files):
    code = FITTED.format(soft=soft, hard=hard, connections=connections)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == [str(wanted), str(files)]
    said = f"at most {wanted} connections instead of {connections}: only {files} files may be open"
    assert (said in ended.stderr) == (wanted != connections)


def test_both_fronts_get_the_same_limits():
    wire = WireLimits(message_bytes=1000, header_bytes=2000, connections=30, slow_client=4.5, idle=60.0, streams=7)
    http, grpc = wire.http(), wire.grpc()
    assert (http.body, http.head, http.connections) == (1000, 2000, 30)
    assert (http.reading, http.writing, http.idle) == (4.5, 4.5, 60.0)
    assert (grpc.message_bytes, grpc.header_bytes, grpc.connections, grpc.streams) == (1000, 2000, 30, 7)
    assert (grpc.slow_client, grpc.idle) == (4.5, 60.0)


def test_every_limit_is_told_with_its_unit():
    told = Settings(wire=WireLimits(slow_client=4.5), grace=2.0).limits()
    assert (told["slow_client_seconds"], told["grace_seconds"]) == (4.5, 2.0)
    units = ("_bytes", "_seconds", "_rows", "_tokens", "connections", "streams")
    assert all(name.endswith(units) for name in told)
