"""Many that watch the server's health cost one look now and then, and all hear of a change."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2

from nlpdeploy.bundle.errors import NotFound
from nlpdeploy.serve.grpc_health import HealthWatch
from support.fronts import serving_fronts

WATCH = "/grpc.health.v1.Health/Watch"
STATES = health_pb2.HealthCheckResponse
MANY = 200


def test_two_hundred_watchers_all_hear_of_the_drain_and_cost_one_look_at_a_time(tmp_path, monkeypatch):
    with serving_fronts(tmp_path) as server:
        looks = []
        whole = server.plane.ready
        monkeypatch.setattr(server.plane, "ready", lambda: looks.append(1) or whole())

        async def main():
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                calls = [channel.unary_stream(WATCH)(b"") for _ in range(MANY)]
                first = await asyncio.gather(*(call.read() for call in calls))
                before = len(looks)
                await asyncio.sleep(0.5)
                looked = len(looks) - before
                server.thread.run(server.grpc.drain())
                second = await asyncio.gather(*(call.read() for call in calls))
                for call in calls:
                    call.cancel()
                return first, looked, second

        first, looked, second = asyncio.run(main())
        assert {STATES.FromString(raw).status for raw in first} == {STATES.SERVING}
        assert {STATES.FromString(raw).status for raw in second} == {STATES.NOT_SERVING}
        assert looked < MANY  # each of them looking for itself would be five times that


class Told:
    """What one client is told, in place of a gRPC call."""

    def __init__(self):
        self.statuses = []

    async def write(self, response):
        self.statuses.append(response.status)

    async def abort(self, code, details):
        raise EOFError


def test_a_change_that_a_newcomer_sees_first_is_told_to_those_that_watched_before():
    async def main():
        status, stopping = {"m": STATES.SERVING}, asyncio.Event()

        def of(service):
            if service not in status:
                raise NotFound("model")
            return status[service]

        health = HealthWatch(of, stopping)
        old, new, stranger = Told(), Told(), Told()
        tasks = [asyncio.ensure_future(health.watch("m", old)), asyncio.ensure_future(health.watch("x", stranger))]
        await asyncio.sleep(0)
        status["m"] = STATES.NOT_SERVING
        tasks.append(asyncio.ensure_future(health.watch("m", new)))
        while len(old.statuses) < 2:
            await asyncio.sleep(0.001)
        tasks[2].cancel()
        status["m"] = STATES.SERVING
        while len(old.statuses) < 3:
            await asyncio.sleep(0.001)
        stopping.set()
        health.close()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return old.statuses, new.statuses, stranger.statuses, [type(end) for end in ended]

    old, new, stranger, ended = asyncio.run(main())
    assert old == [STATES.SERVING, STATES.NOT_SERVING, STATES.SERVING, STATES.NOT_SERVING]
    assert new == [STATES.NOT_SERVING]
    assert stranger == [STATES.SERVICE_UNKNOWN, STATES.NOT_SERVING]
    assert ended == [EOFError, EOFError, asyncio.CancelledError]
