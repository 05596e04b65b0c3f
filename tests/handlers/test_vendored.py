"""TorchServe's own command in an environment without nlpdeploy serves the archive."""

import os
import signal
import socket
import subprocess
import time

import pytest

from nlpdeploy.bundle.store import Store
from nlpdeploy.handlers.archive import ArchiveRequest, pack, write_archive
from nlpdeploy.handlers.java import find_java
from support.environments import linked_environment
from support.tiny_bundle import publish_tiny_bundle
from support.torchserve_server import request

pytestmark = pytest.mark.timeout(300)

PACKAGES = ("torchserve", "torch", "pyyaml", "numpy", "tokenizers", "onnxruntime")
"""What TorchServe's worker imports, and what the archive needs beside it."""


def free_ports(count):
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def test_torchserves_own_command_serves_the_archive_where_nlpdeploy_is_absent(tmp_path):
    python = linked_environment(tmp_path / "environment", *PACKAGES)
    absent = subprocess.run([python, "-c", "import nlpdeploy"], capture_output=True, text=True, cwd=tmp_path)
    assert "No module named 'nlpdeploy'" in absent.stderr

    store = Store(tmp_path / "store")
    write_archive(pack(ArchiveRequest(publish_tiny_bundle(store.root))), store)
    work = tmp_path / "w"
    work.mkdir()
    inference, management, metrics, grpc, grpc_management = free_ports(5)
    (work / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={grpc}\n"
        f"grpc_management_port={grpc_management}\n"
    )
    environment = {
        "PATH": os.environ["PATH"], "JAVA_HOME": str(find_java().path.parents[1].resolve()), "HOME": str(work),
        "TEMP": str(work), "TMPDIR": str(work), "LANG": "C.UTF-8",
    }  # fmt: skip
    command = [python, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--disable-token-auth",
               "--ts-config", "config.properties", "--model-store", store.root, "--models", "tiny-1.mar"]  # fmt: skip
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            answer = ask_until_ready(process, inference)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its JVM and worker are in its group
            process.wait()
    assert answer == (200, {"label": "hello", "score": pytest.approx(0.99, abs=0.05)}), (work / "log").read_text()


def ask_until_ready(process, port):
    deadline, answer = time.monotonic() + 120, None
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer = request("POST", port, "/predictions/tiny", b"hello", {"Content-Type": "text/plain"})
        except OSError:
            answer = None
        if answer is not None and answer[0] == 200:
            break
        time.sleep(0.2)
    return answer
