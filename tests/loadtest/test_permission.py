import socket

import pytest

from nlpdeploy.bundle.errors import InvalidInput, Unavailable
from nlpdeploy.loadtest.permission import check_permission
from support.cli import nlpdeploy, one_line


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "192.168.0.7", "172.16.0.1", "[fe80::1]"]
)
def test_this_machine_and_private_networks_need_no_word(host):
    check_permission(f"grpc://{host}:8001", ())


@pytest.mark.parametrize("host", ["8.8.8.8", "[2001:4860:4860::8888]"])
def test_a_public_address_has_to_be_named(host):
    name = host.strip("[]")
    with pytest.raises(InvalidInput, match=f"public address {name}.*--yes-i-may-load-test {name}"):
        check_permission(f"http://{host}:80", ("example.org",))
    check_permission(f"http://{host}:80", (name,))


def test_a_name_is_looked_up_and_one_public_address_is_enough(monkeypatch):
    found = [(2, 1, 6, "", ("10.0.0.1", 0)), (2, 1, 6, "", ("93.184.216.34", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InvalidInput, match=r"shop\.example.*93\.184\.216\.34"):
        check_permission("http://shop.example", ())
    check_permission("http://shop.example", ("shop.example",))


def test_a_name_that_nobody_knows(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unavailable, match=r"nowhere\.example"):
        check_permission("http://nowhere.example", ())


def test_the_command_refuses_before_any_traffic(tmp_path):
    data = tmp_path / "texts.txt"
    data.write_text("hello\n")
    common = ("--model", "m", "--data", data, "--target", "p95=45ms", "--run-dir", tmp_path / "run")
    for side in (("--url", "http://8.8.8.8"), ("--url", "http://127.0.0.1:9", "--baseline", "http://8.8.8.8")):
        done = nlpdeploy("loadtest", "run", *side, *common, "--rate", "10", "--seconds", "10")
        assert done.returncode == 2
        assert "--yes-i-may-load-test 8.8.8.8" in one_line(done.stderr)
    assert not (tmp_path / "run").exists()
