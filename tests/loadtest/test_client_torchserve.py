"""TorchServe's REST interface as a target: a real one with its token, and what archives of other tools say."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import InvalidInput, NotFound
from nlpdeploy.bundle.store import Store
from nlpdeploy.loadtest.client import open_client
from nlpdeploy.loadtest.client_torchserve import read_token, read_told
from nlpdeploy.loadtest.driver import run
from nlpdeploy.loadtest.payloads import read_payloads
from nlpdeploy.loadtest.plan import Plan
from nlpdeploy.loadtest.preflight import meet_server
from nlpdeploy.loadtest.samples import Outcome, read_record, read_samples
from nlpdeploy.loadtest.targets import parse_target
from nlpdeploy.loadtest.validity import tally
from nlpdeploy.loadtest.verdict import judge
from support.tiny_bundle import publish_tiny_bundle
from support.torchserve_server import TorchServe, torchserve

TEXTS = ("hello", "world", "人 hello", "note")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    store = Store(tmp_path_factory.mktemp("store"))
    publish_tiny_bundle(store.root, "tiny")
    with torchserve("tiny", "--store", store.root) as running:
        yield running


@pytest.fixture
def plan(server: TorchServe, tmp_path: Path) -> Plan:
    data = tmp_path / "texts.txt"
    data.write_text("\n".join(TEXTS), encoding="utf-8")
    return Plan(
        url=f"torchserve://127.0.0.1:{server.ready['http_port']}",
        model="tiny",
        data=read_payloads(data).source,
        targets=(parse_target("p95=900ms"),),
        rate=50.0,
        seconds=3.0,
        arrivals="constant",
        timeout_s=2.0,
        key_file=server.ready["key_file"],
    )


@pytest.mark.timeout(400)
def test_a_run_against_a_real_torchserve_with_its_token(server: TorchServe, plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(plan, folder)
    samples, record = read_samples(folder), read_record(folder)
    books = tally(samples)
    assert len(samples) == 150 == books.sent + books.over_cap
    assert books.ok == 150
    facts = record.servers["candidate"]
    assert record.books[0].digests == {facts.digest: 150}
    assert record.books[0].engines == {facts.engine: 150}
    assert judge(folder).to_json()["sent"] == 150
    assert server.key() not in (folder / "run.json").read_text()


@pytest.mark.timeout(400)
def test_the_answers_are_the_handlers_own(server: TorchServe, plan: Plan) -> None:
    client = open_client(plan.url, "tiny", key_file=plan.key_file)
    for text in TEXTS:
        reply = client.send(client.encode(text), time.monotonic() + 10)
        assert reply.outcome is Outcome.OK
        found = {tensor.name: tensor.data[0] for tensor in client.read(reply.body).outputs}
        _, wanted = server.predict("tiny", {"text": text})
        assert found["label"].decode() == wanted["label"]
        assert found["score"] == pytest.approx(wanted["score"], abs=1e-6)
    client.close()


@pytest.mark.timeout(400)
def test_no_token_another_token_and_no_such_model_are_refused_before_any_load(plan: Plan, tmp_path: Path) -> None:
    payloads = read_payloads(Path(plan.data.path))
    with pytest.raises(InvalidInput, match=r"no token.*--key-file"):
        meet_server(replace(plan, key_file=None), plan.url, payloads)
    other = tmp_path / "key"
    other.write_text("nonsense")
    with pytest.raises(InvalidInput, match="doesn't take"):
        meet_server(replace(plan, key_file=str(other)), plan.url, payloads)
    with pytest.raises(NotFound, match="nosuch"):
        meet_server(replace(plan, model="nosuch"), plan.url, payloads)


def test_the_token_is_read_from_torchserves_file_or_from_one_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    path.write_text(json.dumps({"management": {"key": "no"}, "inference": {"key": "yes", "expiration time": "x"}}))
    assert read_token(path) == "yes"
    path.write_text("alone\n")
    assert read_token(path) == "alone"
    for nothing in ("", "{}", "two words", "é"):
        path.write_text(nothing)
        with pytest.raises(InvalidInput, match="no token"):
            read_token(path)
    with pytest.raises(NotFound):
        read_token(tmp_path / "absent")


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (b'{"label": "card", "score": 0.5}', {"label": b"card", "score": 0.5}),
        (b'"card"', {"label": b"card"}),
        (b"card", {"label": b"card"}),
        (b'[{"label": "card"}]', {"answer": b'[{"label": "card"}]'}),
        (b"0", {"answer": b"0"}),
    ],
)
def test_what_an_archive_of_another_tool_says_becomes_outputs(body: bytes, outputs: dict[str, object]) -> None:
    answer = read_told("m", "", body)
    assert {tensor.name: tensor.data[0] for tensor in answer.outputs} == outputs
    assert all(tensor.shape == (1,) for tensor in answer.outputs)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"error": "no"}', b'{"code": 500, "type": "x", "message": "no"}']
)
def test_nothing_and_errors_are_no_answers(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_told("m", "", body)


def test_a_key_file_goes_with_torchserve_alone(tmp_path: Path) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("hello")
    with pytest.raises(InvalidInput, match="torchserve://"):
        Plan("http://127.0.0.1:1", "m", read_payloads(data).source, (parse_target("p95=45ms"),), 1, 1, key_file="k")
