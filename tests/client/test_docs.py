"""The examples of the pages, run against a live server on other ports.

``grpcurl`` is a Go program that can't be installed from a Python package index. Its command lines are therefore taken
apart here and the same calls made by the same means: names and messages by server reflection, bodies from JSON by
protobuf's own rules. That grpcurl itself reads its flags so is seen only where one is on PATH: then it runs them too.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from support.engines import LABELS
from support.fronts import serving_fronts

ROOT = Path(__file__).parents[2]
PAGES = ("docs/clients.md", "docs/protocol.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GRPCURL_FLAGS = {"-plaintext": 0, "-d": 1, "-max-time": 1}
"""Flags in use and how many words follow each (README of fullstorydev/grpcurl)."""


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    with serving_fronts(tmp_path_factory.mktemp("fronts"), name="intent") as running:
        yield running


def blocks(language, *pages):
    """(page, text) of each block in that language."""
    found = [(page, match) for page in pages for match in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))]
    return [(page, match[2]) for page, match in found if match[1] == language]


def here(text, fronts):
    """The text with this server's ports."""
    return text.replace("127.0.0.1:8000", f"127.0.0.1:{fronts.http_port}").replace(
        "127.0.0.1:8001", f"127.0.0.1:{fronts.grpc_port}"
    )


def commands(program):
    """(command, first line of what it is shown to print) of each command line that starts with that program."""
    for _, text in blocks("console", *PAGES):
        lines = text.splitlines()
        while lines:
            command = lines.pop(0).removeprefix("$ ")
            while command.endswith("\\") or command.count("'") % 2:
                command = command.removesuffix("\\") + "\n" * (command.count("'") % 2) + lines.pop(0)
            shown = lines.pop(0) if lines and not lines[0].startswith("$ ") else ""
            while lines and not lines[0]:
                lines.pop(0)
            if command.startswith(f"{program} "):
                yield command, shown


def shape(value):
    """A JSON value without what depends on the model: names and kinds."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


PYTHON = [
    *blocks("python", *PAGES),
    *[(page, text) for page, text in blocks("python", "README.md") if "8000" in text or "8001" in text],
]


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=[f"{page}-{number}" for number, (page, _) in enumerate(PYTHON)])
def test_a_python_example_runs_and_is_answered(page, text, fronts):
    before = fronts.engine.rows_run()
    code = here(text, fronts)
    if page == "README.md":  # shown as at a prompt: its last line is a value
        *lines, last = code.rstrip().splitlines()
        code = "\n".join([*lines, f"print({last})"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert any(label in done.stdout or repr(label.encode()) in done.stdout for label in LABELS)
    assert fronts.engine.rows_run() > before


def test_each_way_to_ask_has_an_example():
    whole = "\n".join(text for _, text in PYTHON)
    for word in ("Client(", "AsyncClient(", "tritonclient.grpc", "tritonclient.http", "grpc://", "http://"):
        assert word in whole
    assert len(list(commands("curl"))) >= 3
    assert len(list(commands("grpcurl"))) >= 4


@pytest.mark.parametrize(("command", "shown"), list(commands("curl")))
def test_a_curl_example_answers_in_the_form_shown(command, shown, fronts):
    done = subprocess.run(
        ["bash", "-c", here(command, fronts)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shape(json.loads(done.stdout)) == shape(json.loads(shown))


class Reflected:
    """What a server tells of itself by reflection."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)

    def call(self, name, body):
        """One call by its full name, with JSON in and out."""
        service, _, method = name.partition("/")
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        request = json_format.Parse(body, GetMessageClass(described.input_type)())
        response = GetMessageClass(described.output_type)
        send = self.channel.unary_unary(
            f"/{name}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        return json_format.MessageToDict(send(request, timeout=10))


def parted(command):
    """Flags with their values, and the other words of a grpcurl command line."""
    words = shlex.split(command)[1:]
    flags, rest = {}, []
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            flags[word] = [words.pop(0) for _ in range(GRPCURL_FLAGS[word])]
        else:
            rest.append(word)
    return flags, rest


@pytest.mark.parametrize("command", [command for command, _ in commands("grpcurl")])
def test_a_grpcurl_example_names_what_the_server_has(command, fronts):
    flags, (address, *words) = parted(command)
    assert address == "127.0.0.1:8001"
    assert "-plaintext" in flags
    with grpc.insecure_channel(here(address, fronts)) as channel:
        server = Reflected(channel)
        if words == ["list"]:
            assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(server.database.get_services())
        elif words[0] == "describe":
            assert server.database.FindFileContainingSymbol(words[1])
            service, _, method = words[1].rpartition(".")
            assert server.pool.FindServiceByName(service).FindMethodByName(method).input_type.fields
        else:
            answer = server.call(words[0], flags["-d"][0])
            if words[0].startswith("grpc.health"):
                assert answer == {"status": "SERVING"}
            else:
                label = base64.b64decode(answer["rawOutputContents"][0])[4:].decode()
                assert label in LABELS


if shutil.which("grpcurl"):  # not a skip: without the program there is no such test

    @pytest.mark.parametrize("command", [command for command, _ in commands("grpcurl")])
    def test_a_grpcurl_example_is_answered_by_grpcurl(command, fronts):
        _, (_, *words) = parted(command)
        done = subprocess.run(
            ["bash", "-c", here(command, fronts)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        if words == ["list"]:
            assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(done.stdout.splitlines())
        elif words[0] == "describe":
            assert f"{words[1]} is a method:" in done.stdout
        elif words[0].startswith("grpc.health"):
            assert json.loads(done.stdout) == {"status": "SERVING"}
        else:
            label = base64.b64decode(json.loads(done.stdout)["raw_output_contents"][0])[4:].decode()
            assert label in LABELS
