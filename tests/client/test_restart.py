"""A server that dies under its clients and comes back on the same ports."""

import threading
from collections import Counter
from contextlib import ExitStack

import pytest

from nlpdeploy.bundle.errors import DeadlineExceeded, Unavailable
from support.clients import KINDS, client_of
from support.fronts import until
from support.server_process import server_process


class Callers:
    """Threads that ask one client without end; each call ends in one way."""

    def __init__(self, client, kind):
        self.client, self.kind = client, kind
        self.ends = Counter()
        self._leave = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def _ask(self):
        while not self._leave.is_set():
            try:
                end = self.client.predict("hello").label
            except (Unavailable, DeadlineExceeded) as error:
                end = type(error).__name__
                self._leave.wait(0.02)
            except Exception as error:  # noqa: BLE001
                end = f"{type(error).__name__}: {error}"
            with self._lock:
                self.ends[end] += 1

    def leave(self):
        """Stop and join."""
        self._leave.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.timeout(120)
def test_every_call_ends_and_the_same_client_finds_the_server_that_comes_back(tmp_path):
    with ExitStack() as stack:
        with server_process(folder=tmp_path) as server:
            ready = server.wait_ready()
            ports = {"http": ready["http_port"], "grpc": ready["grpc_port"]}
            clients = [
                stack.enter_context(client_of(kind, ports[kind.partition("-")[0]], timeout=2.0)) for kind in KINDS
            ]
            callers = [Callers(client, kind) for client, kind in zip(clients, KINDS, strict=True)]
            for caller in callers:
                stack.callback(caller.leave)
            assert until(lambda: all(caller.ends["hello"] > 5 for caller in callers))
        # The block's end kills it, amid calls.
        assert until(lambda: all(caller.ends["Unavailable"] for caller in callers))
        with server_process(folder=tmp_path, http_port=ports["http"], grpc_port=ports["grpc"]) as server:
            server.wait_ready()
            before = [caller.ends["hello"] for caller in callers]
            assert until(
                lambda: all(caller.ends["hello"] > count + 5 for caller, count in zip(callers, before, strict=True))
            )
            for caller in callers:
                caller.leave()
    for caller in callers:
        assert set(caller.ends) <= {"hello", "Unavailable", "DeadlineExceeded"}, caller.kind
