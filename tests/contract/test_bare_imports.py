"""Each room can be imported where the heavy packages are absent."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "openvino",
    "onnxruntime",
    "onnx",
    "locust",
    "gevent",
    "matplotlib",
    "jinja2",
    "tritonclient",
    "ts",
)
ROOMS = ("bundle", "wire", "runtime", "export", "serve", "handlers", "client", "loadtest", "cli")

# A finder at the front of the path that refuses the heavy packages is as good as their absence.
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_with_the_heavy_packages_absent(room):
    done = run_python(REFUSE.format(heavy=HEAVY) + f"\nimport nlpdeploy.{room}\nprint('imported')")
    assert done.stdout.strip() == "imported", done.stderr


def test_the_server_imports_with_torch_and_transformers_absent():
    code = REFUSE.format(heavy=("torch", "transformers", "onnx", "locust")) + (
        "\nimport nlpdeploy.serve.app, nlpdeploy.serve.grpc_front, nlpdeploy.serve.http_front, nlpdeploy.serve.local"
        "\nimport nlpdeploy.runtime.onnxruntime, nlpdeploy.runtime.openvino\nprint('imported')"
    )
    done = run_python(code)
    assert done.stdout.strip() == "imported", done.stderr


def test_the_client_needs_nothing_but_the_wire_s_packages():
    code = (
        "\nimport json, sys\nimport nlpdeploy.wire.codec_proto, nlpdeploy.wire.codec_json, grpc, grpc.aio\n"
        "before = set(sys.modules)\n"
        "import nlpdeploy.client, nlpdeploy.client.http_sync, nlpdeploy.client.http_aio\n"
        "import nlpdeploy.client.grpc_transport\n"
        "foreign = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "json.dump(sorted(foreign), sys.stdout)"
    )
    done = run_python(REFUSE.format(heavy=(*HEAVY, "requests", "httpx", "tokenizers", "httptools")) + code)
    assert json.loads(done.stdout or "null") == ["nlpdeploy"], done.stderr


def test_the_client_over_http_does_not_load_grpc():
    code = (
        "import sys\nfrom nlpdeploy.client import AsyncClient, Client\n"
        "Client('http://127.0.0.1:1', 'm')\nAsyncClient('http://127.0.0.1:1', 'm')\nprint('grpc' in sys.modules)"
    )
    done = run_python(code)
    assert done.stdout.strip() == "False", done.stderr


def test_help_imports_nothing_heavy():
    code = (
        "import json, sys\nfrom nlpdeploy.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "json.dump(sorted({name.split('.')[0] for name in sys.modules}), sys.stderr)"
    )
    done = run_python(code)
    assert "export" in done.stdout
    loaded = set(json.loads(done.stderr))
    assert not loaded & {*HEAVY, "numpy", "grpc", "tokenizers", "rich", "google"}
