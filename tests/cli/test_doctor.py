"""The doctor promises no engine that an export couldn't build."""

import json

from nlpdeploy.cli.main import main
from nlpdeploy.export import machine


def engines(capsys):
    assert main(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["engines"]


def test_engines_that_can_be_built_where_all_is_installed(capsys):
    assert {"onnx-fp32", "openvino-f32"} <= {engine["id"] for engine in engines(capsys) if engine["available"]}


def test_no_engine_can_be_built_where_exports_packages_are_missing(capsys, monkeypatch):
    monkeypatch.setattr(machine, "NEEDED", ("no_package_of_this_name",))
    found = engines(capsys)
    assert not any(engine["available"] for engine in found)
    (openvino,) = (engine for engine in found if engine["id"] == "openvino-f32")
    assert "no_package_of_this_name" in openvino["reason"]
    assert "pip install" in openvino["reason"]
