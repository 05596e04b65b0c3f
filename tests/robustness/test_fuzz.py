"""A thousand malformed messages to a real server: no crash, no 5xx for a client's fault, and the next one is fine."""

import asyncio
import contextlib
import random
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest

from nlpdeploy.wire import oip
from support.asking import ask, question
from support.malformed import framed_wrong, http2_seeds, http_seeds, infer_seeds, mutated, noise
from support.server_process import server_process

SEED = 20_251
SIDE_BY_SIDE = 24
PATIENCE = 0.25
"""Seconds after which a client that got no answer has sent half a message, and gives up."""

FAIR_CODES = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
"""Deadline: a ``timeout`` parameter of some microseconds is a valid wish."""

STATUS = re.compile(rb"^HTTP/1\.1 (\d+) ", re.MULTILINE)


class Target:
    """The server under fire, and what it was before."""

    def __init__(self, server):
        self.server = server
        ready = server.wait_ready()
        self.http_port, self.grpc_port = ready["http_port"], ready["grpc_port"]
        self.check_next()
        self.process = psutil.Process(server.process.pid)
        self.threads, self.files = self.process.num_threads(), self.process.num_fds()

    def check_next(self):
        for front in ("http", "grpc"):
            port = getattr(self, f"{front}_port")
            end = next(end for _ in range(100) if (end := ask(front, port, question(["hello"], id="next"))).is_(200))
            assert (end.outputs["label"], end.id) == (["hello"], "next")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    with server_process(folder=tmp_path_factory.mktemp("tiny")) as server:
        target = Target(server)
        yield target
        server.signal(signal.SIGTERM)
        status, errors = server.wait()
        assert status == 0
        faults = [line for line in errors.splitlines() if re.search(r'"level": "(error|critical)"|Traceback', line)]
        # The gRPC library's own: a header, and an address, that are no UTF-8; after the latter the port is opened anew.
        known = re.compile("UnicodeDecodeError|Invalid encoding on|'utf-8' codec can't decode")
        assert all(known.search(line) for line in faults), faults


async def each(messages, send):
    """Send all, some side by side; what came back, in order."""
    turn = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(message):
        async with turn:
            return await send(message)

    return await asyncio.gather(*map(one, messages))


async def connected(port):
    """A connection; refused ones are tried again, since gRPC's port may just be opened anew."""
    for _ in range(100):
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            await asyncio.sleep(0.1)
    raise AssertionError(f"nobody listens on port {port}")


async def send_bytes(port, message, *, patience=PATIENCE, enough=lambda received: False):
    """Send on a connection of its own, read until the end, or until it is enough or nothing comes any more."""
    reader, writer = await connected(port)
    received = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(message)
        while not enough(received) and (piece := await asyncio.wait_for(reader.read(65536), patience)):
            received += piece
    writer.transport.abort()
    return received


def statuses(received):
    return [int(status) for status in STATUS.findall(received)]


def http_messages():
    chance = random.Random(SEED)
    seeds = http_seeds()
    return [*framed_wrong(), *[mutated(chance, seeds) for _ in range(420)], *[noise(chance) for _ in range(40)]]


def grpc_bytes():
    chance = random.Random(SEED + 1)
    seeds = http2_seeds(oip.METHODS["ModelInfer"].path, infer_seeds()[0])
    return [*[mutated(chance, seeds) for _ in range(130)], *[noise(chance) for _ in range(20)]]


def grpc_messages():
    chance = random.Random(SEED + 2)
    seeds = infer_seeds()
    return [*[mutated(chance, seeds) for _ in range(300)], *[noise(chance) for _ in range(30)]]


def test_there_are_a_thousand_of_them_the_same_each_time():
    made = [http_messages(), grpc_bytes(), grpc_messages()]
    assert sum(map(len, made)) >= 1000
    assert made == [http_messages(), grpc_bytes(), grpc_messages()]


def test_the_seeds_are_valid_so_that_mutations_get_far(target):
    def answered(received):
        return statuses(received)[-1:] == [200]

    for message in http_seeds():
        got = statuses(asyncio.run(send_bytes(target.http_port, message, patience=30, enough=answered)))
        assert set(got) <= {100, 200}
        assert 200 in got
    with grpc.insecure_channel(f"127.0.0.1:{target.grpc_port}") as channel:
        for message in infer_seeds():
            assert channel.unary_unary(oip.METHODS["ModelInfer"].path)(message, timeout=30)
    for message in http2_seeds(oip.METHODS["ModelInfer"].path, infer_seeds()[0])[::3]:
        found = lambda received: b"hello" in received  # noqa: E731
        assert found(asyncio.run(send_bytes(target.grpc_port, message, patience=30, enough=found)))


def test_malformed_http_is_answered_as_the_client_s_fault_or_cut(target):
    next_request = http_seeds()[3].replace(b"Host: x", b"Connection: close")

    async def send(message):
        received = await send_bytes(target.http_port, message)
        alive = await send_bytes(target.http_port, next_request, patience=30)
        return statuses(received), statuses(alive)

    messages = http_messages()
    for message, (got, alive) in zip(messages, asyncio.run(each(messages, send)), strict=True):
        assert all(status < 500 for status in got), message[:400]
        assert alive == [200], message[:400]
    target.check_next()


def test_a_frame_that_lies_has_one_answer_and_what_hides_behind_it_has_none(target):
    """A request that two readers could take for two is refused whole, so that none of it passes a proxy unseen."""

    def answered(message):
        return statuses(asyncio.run(send_bytes(target.http_port, message, patience=30)))  # to its end

    hiding = [message for message in framed_wrong() if message.count(b"HTTP/1.1\r\n") > 1 and message[:4] == b"POST"]
    assert len(hiding) > 8
    assert {message: answered(message) for message in hiding} == {message: [400] for message in hiding}


def test_malformed_http_2_never_harms_the_next_connection(target):
    async def send(message):
        return await send_bytes(target.grpc_port, message)

    asyncio.run(each(grpc_bytes(), send))
    target.check_next()


def test_malformed_messages_are_the_client_s_fault_in_every_grpc_call(target):
    messages = grpc_messages()
    chance = random.Random(SEED + 3)
    unary = [oip.METHODS[name].path for name in oip.METHODS if name != "ModelStreamInfer"]
    paths = [oip.METHODS["ModelInfer"].path] * 12 + unary + ["/grpc.health.v1.Health/Check"]
    calls = [(chance.choice(paths), message) for message in messages]

    async def main():
        async with grpc.aio.insecure_channel(f"127.0.0.1:{target.grpc_port}") as channel:

            async def send(call):
                path, message = call
                answer = channel.unary_unary(path)(message, timeout=10)
                with contextlib.suppress(grpc.RpcError):
                    await answer
                return await answer.code()

            return await each(calls, send)

    for call, code in zip(calls, asyncio.run(main()), strict=True):
        assert code in FAIR_CODES, call
    target.check_next()


STREAMS = (
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


@pytest.mark.parametrize("path", STREAMS)
def test_malformed_messages_in_streams_are_the_client_s_fault_too(path, target):
    messages = grpc_messages()[-40:] + infer_seeds()
    valid = infer_seeds()[0]
    limit = 0.5 if path.endswith("Watch") else 30  # a watch has no end of its own

    def send(message):
        answers = []
        try:
            answers.extend(channel.stream_stream(path)(iter([valid, message, valid]), timeout=limit))
        except grpc.RpcError as error:
            return error.code(), error.details()
        assert len(answers) == 3  # each got its own, in a stream that lives on
        return grpc.StatusCode.OK, ""

    with grpc.insecure_channel(f"127.0.0.1:{target.grpc_port}") as channel, ThreadPoolExecutor(8) as clients:
        for message, (code, details) in zip(messages, clients.map(send, messages), strict=True):
            assert code in FAIR_CODES, (details, message)
    target.check_next()


def test_afterwards_nothing_is_left_open(target):
    async def settled():
        for _ in range(200):
            if target.process.num_fds() <= target.files:
                return True
            await asyncio.sleep(0.02)
        return False

    assert asyncio.run(settled()), (target.files, target.process.num_fds())
    assert target.process.num_threads() <= target.threads + 2  # gRPC's own may come and go
