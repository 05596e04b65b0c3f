"""A client that takes the last answer of its connection too slowly: it is cut like any other deaf one."""

import asyncio
import socket

from nlpdeploy.serve.http_limits import HttpLimits
from nlpdeploy.serve.http_messages import Response
from nlpdeploy.serve.http_server import HttpServer
from support.fronts import LoopThread, until

PIECE = 48 * 1024  # below the 64 KiB at which asyncio asks a writer to pause


class Transports(HttpServer):
    """A server that tells how much the system has not taken yet."""

    def unsent(self):
        return sum(connection._transport.get_write_buffer_size() for connection in self._state.connections)


async def handle(request):
    return Response(200, b"x" * PIECE if request.target == "/piece" else b"")


def test_a_last_answer_that_is_left_unread_holds_no_connection():
    thread = LoopThread()
    server = Transports(handle, "127.0.0.1", 0, HttpLimits(writing=0.2))
    port = thread.run(server.start())

    async def unsent():
        await asyncio.sleep(0.002)
        return server.unsent()

    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            while not (left := thread.run(unsent())):
                client.sendall(b"GET /piece HTTP/1.1\r\n\r\n")
            assert left < 64 * 1024  # the server is not asked to pause, which would be another case
            client.sendall(b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert until(lambda: not server.open_connections)
    finally:
        thread.run(server.stop(0.0))
        thread.close()
