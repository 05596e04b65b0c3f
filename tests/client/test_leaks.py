"""Whatever becomes of calls, nothing of theirs stays behind: no connection, no place among the connections."""

import asyncio
import os
import random

import pytest

from nlpdeploy.bundle.errors import NlpdeployError
from nlpdeploy.client import AsyncClient, Retry
from support.clients import client_of
from support.fronts import serving_fronts, until
from support.scripted import HALF, answer, close, reset, say, scripted_http, silence, then_close

WAYS = [answer(), then_close(answer()), close, reset, HALF, say(b"nonsense\r\n\r\n"), answer(500, b"{}"), silence]


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", ["http", "http-aio"])
def test_no_connection_stays_open_after_calls_that_ended_in_every_way(kind):
    draw = random.Random(5)
    script = [way for _ in range(8) for way in draw.sample(WAYS, len(WAYS))] + [answer()]
    with scripted_http(*script) as server:
        before = open_files()
        with client_of(kind, server.port, "m", connections=1, retry=Retry(first=0.0)) as client:
            ends = []
            while len(server.received) < len(script):
                try:
                    ends.append(client.infer({"text": ["hello"]}, timeout=0.2).outputs["label"][0].decode())
                except NlpdeployError as error:
                    ends.append(type(error).__name__)
            assert {"yes", "Unavailable", "EngineFailed", "DeadlineExceeded"} <= set(ends)
            # With one connection allowed, each call has given its place back.
            assert client.infer({"text": ["hello"]}).outputs["label"].tolist() == [b"yes"]
        assert until(lambda: open_files() <= before)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_tasks_cancelled_at_any_moment_leave_the_client_whole(scheme, tmp_path):
    draw = random.Random(7)

    async def main(url):
        async with AsyncClient(url, "tiny", timeout=10, connections=2) as client:
            await client.metadata()
            cancelled = 0
            for _ in range(150):
                tasks = [asyncio.create_task(client.predict("hello")) for _ in range(4)]
                for _ in range(draw.randint(0, 12)):
                    await asyncio.sleep(0)
                for task in draw.sample(tasks, 2):
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                cancelled += sum(isinstance(end, asyncio.CancelledError) for end in ends)
                assert {end.label for end in ends if not isinstance(end, BaseException)} <= {"hello"}
                assert all(isinstance(end, asyncio.CancelledError) for end in ends if isinstance(end, BaseException))
            assert cancelled > 50
            assert {answer.label for answer in await asyncio.gather(*(client.predict("world") for _ in range(8)))} == {
                "world"
            }

    with serving_fronts(tmp_path) as fronts:
        port = fronts.http_port if scheme == "http" else fronts.grpc_port
        asyncio.run(main(f"{scheme}://127.0.0.1:{port}"))
        assert until(lambda: fronts.metric("nlpdeploy_open_requests") == 0)
