"""Three times more than may wait, half of it impatient: the books balance, nothing runs late, refusals are clear."""

import asyncio
import json
import threading
from collections import Counter
from dataclasses import dataclass

import grpc
import pytest

from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.policy import Policy
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.serve.worker import EngineWorker
from nlpdeploy.wire import codec_proto, oip
from support.asking import question
from support.engines import KEYWORDS, LABELS, TinyEngine
from support.fronts import serving_fronts

ROWS_A_CALL = 4
REQUESTS = 600
WAITING_ROWS = 200
PATIENT, IMPATIENT = 60.0, 0.3
HTTP_STATUS = {"OK": 200, "DEADLINE_EXCEEDED": 504, "RESOURCE_EXHAUSTED": 429}


@dataclass(frozen=True)
class Ending:
    """How one request ended, in HTTP's numbers."""

    patient: bool

    status: int
    kind: str = ""
    retry_after: str = ""
    label: str = ""


def patience(index):
    return PATIENT if index % 4 < 2 else IMPATIENT


async def by_http(port, index):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"text": KEYWORDS[index % 4]}).encode()
    head = (
        f"POST /v2/models/tiny/predict HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        f"x-request-timeout-ms: {patience(index) * 1000}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    received = await reader.read()
    writer.close()
    lines, _, content = received.partition(b"\r\n\r\n")
    assert received.count(b"HTTP/1.1 ") == 1
    status, *headers = lines.decode().split("\r\n")
    named = dict(line.split(": ", 1) for line in headers)
    return Ending(
        patience(index) == PATIENT,
        int(status.split()[1]), named.get("error-kind", ""), named.get("retry-after", ""),
        json.loads(content).get("label", ""),
    )  # fmt: skip


async def by_grpc(channel, index):
    message = codec_proto.encode_request(
        question([KEYWORDS[index % 4]], parameters={"timeout": int(patience(index) * 1e6)})
    )
    call = channel.unary_unary(oip.METHODS["ModelInfer"].path)(message.SerializeToString(), timeout=120)
    try:
        answer = codec_proto.decode_response(oip.METHODS["ModelInfer"].response.FromString(await call))
    except grpc.aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata())
        status = HTTP_STATUS.get(error.code().name, 500)
        return Ending(
            patience(index) == PATIENT, status, trailing.get("error-kind", ""), trailing.get("retry-after", "")
        )
    return Ending(patience(index) == PATIENT, 200, label=answer.outputs[0].data.tolist()[0].decode())


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Endings of all requests, the jobs that were run, and the server."""
    run, lock = [], threading.Lock()
    whole = EngineWorker.run_batch

    def run_batch(self, batch):
        with lock:
            run.extend(ticket.owner for ticket in batch.tickets)
        return whole(self, batch)

    capacity = Capacity(Limits(rows=WAITING_ROWS), Policy(max_rows=ROWS_A_CALL))

    async def main(server, gate):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            asked = [by_http(server.http_port, k) if k % 2 else by_grpc(channel, k) for k in range(REQUESTS)]
            tasks = [asyncio.ensure_future(one) for one in asked]
            await asyncio.wait([task for index, task in enumerate(tasks) if patience(index) == IMPATIENT])
            while sum(task.done() for task in tasks) + server.metric("nlpdeploy_open_requests") < REQUESTS:
                await asyncio.sleep(0.01)
            gate.set()
            return await asyncio.gather(*tasks)

    gate = threading.Event()
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineWorker, "run_batch", run_batch)
        with serving_fronts(folder, TinyEngine(gate=gate), capacity=capacity) as server:
            yield asyncio.run(main(server, gate)), run, server


def test_every_request_has_one_ending_and_the_server_counts_the_same(crowd):
    endings, _, server = crowd
    counted = Counter(ending.kind or "ok" for ending in endings)
    assert len(endings) == REQUESTS
    assert {
        outcome: server.metric("nlpdeploy_request_seconds_count", outcome=outcome) for outcome in counted
    } == counted
    assert server.metric("nlpdeploy_request_seconds_count") == REQUESTS
    assert {ending.status for ending in endings} <= {200, 429, 504}
    for name in ("queue_rows", "queue_tokens", "open_requests"):
        assert server.metric(f"nlpdeploy_{name}") == 0


def test_the_patient_who_were_let_in_are_answered_each_with_its_own_label(crowd):
    endings, _, _ = crowd
    answered = [(index, ending) for index, ending in enumerate(endings) if ending.status == 200]
    assert answered
    assert all(ending.label == LABELS[index % 4] for index, ending in answered)
    assert {ending.status for ending in endings if ending.patient} == {200, 429}


def test_nothing_is_run_after_its_deadline_and_nothing_twice(crowd):
    endings, run, server = crowd
    assert {ending.status for ending in endings if not ending.patient} <= {429, 504}
    assert all(job.dispatched_at < job.deadline for job in run)
    assert len({id(job) for job in run}) == len(run) == server.engine.rows_run()
    # The call that was under way may hold some whose time was over before it came back.
    assert len(run) <= sum(ending.status == 200 for ending in endings) + ROWS_A_CALL


def test_the_refused_hear_that_the_queue_is_full_and_when_to_come_back(crowd):
    endings, _, _ = crowd
    refused = [ending for ending in endings if ending.status == 429]
    assert refused
    assert {ending.kind for ending in refused} == {"Overloaded"}
    assert all(int(ending.retry_after) >= 1 for ending in refused)


def test_afterwards_the_server_answers_as_before(crowd):
    _, _, server = crowd
    assert asyncio.run(by_http(server.http_port, 1)).label == LABELS[1]
