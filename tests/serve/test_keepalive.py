"""Clients that ping as they like, also while nothing is asked, are not cut off."""

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as client

from support.fronts import serving_fronts

PINGS = 50
PING, GOAWAY, ACK = 6, 7, 1


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    with serving_fronts(tmp_path_factory.mktemp("fronts")) as running:
        yield running


def frame(kind, payload=b"", flags=0):
    """An HTTP/2 frame on stream 0."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


def frames(stream):
    """Kind, flags and payload of each frame that comes."""
    while head := stream.read(9):
        yield head[3], head[4], stream.read(int.from_bytes(head[:3], "big"))


def answers_to_pings(port):
    """How many pings, one after the other on a connection without calls, are answered; the goodbye if there is one."""
    settings = 4
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(settings))
        connection.sendall(frame(PING, bytes(8)))
        answered = 0
        for kind, flags, payload in frames(connection.makefile("rb")):
            if kind == GOAWAY:
                return answered, payload[8:].decode()
            if kind == PING and flags == ACK:
                answered += 1
                if answered == PINGS:
                    break
                connection.sendall(frame(PING, bytes(8)))
    return answered, ""


def test_pings_without_calls_are_all_answered(fronts):
    assert answers_to_pings(fronts.grpc_port) == (PINGS, "")


def test_a_server_with_the_library_s_own_settings_would_have_cut_them_off():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert answers_to_pings(port)[1] == "too_many_pings"
    finally:
        server.stop(0).wait()


def test_a_client_with_keepalive_is_answered_before_and_after_a_pause(fronts):
    options = client.KeepAliveOptions(
        keepalive_time_ms=10,
        keepalive_timeout_ms=20_000,
        keepalive_permit_without_calls=True,
        http2_max_pings_without_data=0,
    )
    text = client.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"hello"], dtype=object))
    with client.InferenceServerClient(f"127.0.0.1:{fronts.grpc_port}", keepalive_options=options) as triton:
        for _ in range(3):
            assert triton.infer("tiny", [text]).as_numpy("label")[0] == b"hello"
            answers_to_pings(fronts.grpc_port)  # meanwhile this client has nothing to ask
