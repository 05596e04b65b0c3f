"""The gRPC server's HTTP/2, spoken to by an implementation that is none of ours (``h2``), down to single frames."""

import gzip
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import numpy as np
import pytest

from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.grpc_limits import GrpcLimits
from nlpdeploy.serve.h2_connection import STREAM_WINDOW
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.wire import codec_proto, oip
from nlpdeploy.wire.tensors import InferRequest, Tensor
from support.asking import ask, question
from support.engines import TinyEngine
from support.fronts import serving_fronts, until
from support.malformed import PREFACE

INFER = oip.METHODS["ModelInfer"]
STREAM = oip.METHODS["ModelStreamInfer"]


def request(*texts, outputs=()):
    tensor = Tensor("text", "BYTES", np.array([text.encode() for text in texts], dtype=object))
    return bytes(codec_proto.encode_request(InferRequest("tiny", (tensor,), outputs=outputs)).SerializeToString())


def framed(message, packed=0):
    return struct.pack(">BI", packed, len(message)) + message


class Peer:
    """A client's end of one connection; what came on each stream is kept."""

    def __init__(self, port, **settings):
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        if settings:
            named = {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values=named)
        self.h2.initiate_connection()
        self.data, self.headers, self.ended, self.others = {}, {}, {}, []
        self.reading = True
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def open(self, path=INFER.path, *more, end=False, **fields):
        stream = self.h2.get_next_available_stream_id()
        named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
        named |= {"content-type": "application/grpc"} | {
            name.replace("_", "-"): value for name, value in fields.items()
        }
        self.h2.send_headers(stream, [*named.items(), *more], end_stream=end)
        self.flush()
        return stream

    def send(self, stream, data, end=True):
        """Data as the server's windows let it pass."""
        place = 0
        while place < len(data):
            size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(data) - place)
            if size:
                self.h2.send_data(stream, data[place : place + size])
                place += size
                self.flush()
            else:
                self.take()
        if end:
            self.h2.end_stream(stream)
            self.flush()

    def take(self):
        """Read once; False at the end."""
        raw = self.socket.recv(65536)
        for event in self.h2.receive_data(raw) if raw else ():
            stream = getattr(event, "stream_id", None)
            if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                self.headers.setdefault(stream, {}).update(dict(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                self.data[stream] = self.data.get(stream, b"") + event.data
                if self.reading:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.ended.setdefault(stream, event)
            else:
                self.others.append(event)
        self.flush()
        return bool(raw)

    def status(self, stream):
        """Wait for the stream's end; its gRPC status."""
        while stream not in self.ended:
            assert self.take(), "the connection has ended"
        return int(self.headers[stream]["grpc-status"])

    def messages(self, stream):
        """The whole messages that came on a stream."""
        data, found = self.data.get(stream, b""), []
        while len(data) >= 5:
            size = struct.unpack(">I", data[1:5])[0]
            found.append(data[5 : 5 + size])
            data = data[5 + size :]
        return found

    def labels(self, stream):
        (message,) = self.messages(stream)
        answer = codec_proto.decode_response(INFER.response.FromString(message))
        return [label.decode() for label in answer.outputs[0].data.tolist()]

    def seen(self, kind):
        """Wait for an event of this kind that is no stream's."""
        while not (found := [event for event in self.others if isinstance(event, kind)]):
            assert self.take(), "the connection has ended"
        return found[0]

    def gone(self):
        """Whether the server closes the connection."""
        try:
            while self.take():
                pass
        except (ConnectionError, h2.exceptions.ProtocolError):
            pass
        return True


@contextmanager
def peer(port, **settings):
    made = Peer(port, **settings)
    try:
        yield made
    finally:
        made.socket.close()


@pytest.fixture
def server(tmp_path):
    with serving_fronts(tmp_path) as running:
        yield running


def test_a_call_in_one_frame_or_in_many(server):
    with peer(server.grpc_port) as client:
        whole, drop = client.open(), client.open()
        client.send(whole, framed(request("hello")))
        for octet in framed(request("world")):
            client.send(drop, bytes([octet]), end=False)
        client.send(drop, b"")
        assert client.status(whole) == client.status(drop) == 0
        assert (client.labels(whole), client.labels(drop)) == (["hello"], ["world"])
        assert client.headers[whole]["content-type"] == "application/grpc"
        assert client.headers[whole]["server-timing"].startswith("encode;dur=")


def test_a_message_larger_than_every_window_comes_in_and_its_answer_goes_out(tmp_path):
    texts = ["hello"] * 30_000
    capacity = Capacity(Limits(rows=50_000, tokens=1_000_000))
    with (
        serving_fronts(tmp_path, capacity=capacity) as server,
        peer(server.grpc_port, INITIAL_WINDOW_SIZE=9_999) as client,
    ):
        stream = client.open()
        message = request(*texts)
        assert len(message) > STREAM_WINDOW
        client.send(stream, framed(message))
        assert client.status(stream) == 0
        assert client.labels(stream) == texts


def test_an_answer_waits_for_the_client_s_window_and_others_overtake_it(server):
    with peer(server.grpc_port, INITIAL_WINDOW_SIZE=64) as client:
        client.reading = False
        large, small = client.open(), client.open()
        client.send(large, framed(request("hello", "world", "note", outputs=("scores", "logits"))))
        client.send(small, framed(request("hello")))
        while len(client.data.get(large, b"")) < 64 or len(client.data.get(small, b"")) < 64:
            client.take()
        assert not client.ended
        client.h2.increment_flow_control_window(100_000, small)
        client.flush()
        assert client.status(small) == 0
        assert large not in client.ended
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100_000})  # of open streams too
        client.flush()
        assert client.status(large) == 0


def test_compressed_messages(server):
    with peer(server.grpc_port) as client:
        packed = gzip.compress(request("hello"))
        cases = [
            (0, {"grpc_encoding": "gzip"}, framed(packed, 1)),
            (0, {"grpc_encoding": "gzip"}, framed(request("hello"))),  # a coding is no promise
            (3, {"grpc_encoding": "gzip"}, framed(packed[:-9], 1)),
            (3, {"grpc_encoding": "gzip"}, framed(b"no gzip", 1)),
            (3, {}, framed(packed, 1)),
            (12, {"grpc_encoding": "snappy"}, framed(packed, 1)),
        ]
        for status, fields, data in cases:
            stream = client.open(**fields)
            client.send(stream, data)
            assert client.status(stream) == status, (fields, client.headers[stream])
        assert client.headers[stream]["grpc-accept-encoding"] == "identity, deflate, gzip"


def test_a_message_that_unpacks_to_more_than_the_limit_is_refused_unpacked(tmp_path):
    with serving_fronts(tmp_path, max_message_bytes=100_000) as server, peer(server.grpc_port) as client:
        stream = client.open(grpc_encoding="gzip")
        client.send(stream, framed(gzip.compress(bytes(50_000_000)), 1))
        assert client.status(stream) == 8
        assert client.headers[stream]["error-kind"] == "TooLarge"


@pytest.mark.parametrize(
    ("data", "end", "status"),
    [
        (b"", True, 3),
        (framed(request("hello")) * 2, True, 3),
        (framed(request("hello"))[:-3], True, 3),
        (b"\0\xff\xff\xff\xff", False, 8),
        (framed(b"\xff\xff"), True, 3),
    ],
)
def test_requests_that_are_none(server, data, end, status):
    with peer(server.grpc_port) as client:
        stream = client.open()
        client.send(stream, data, end=end)
        assert client.status(stream) == status
        assert client.headers[stream]["grpc-message"]
        again = client.open()
        client.send(again, framed(request("hello")))
        assert client.status(again) == 0


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/inference.GRPCInferenceService/Nothing", {}, 12),
        (b"/\xff", {}, 12),
        (INFER.path, {"grpc_timeout": "1y"}, 3),
        (INFER.path, {"grpc_timeout": "123456789S"}, 3),
    ],
)
def test_calls_that_are_none(server, path, fields, status):
    with peer(server.grpc_port) as client:
        stream = client.open(path, **fields)
        assert client.status(stream) == status
        assert client.headers[stream][":status"] == "200"


def test_what_is_no_grpc_is_told_so_in_http(server):
    with peer(server.grpc_port) as client:
        stream = client.open(content_type="text/html", end=True)
        while stream not in client.ended:
            client.take()
        assert client.headers[stream] == {":status": "415"}


def test_headers_that_go_on_and_trailers_and_padding_and_priorities(server):
    with peer(server.grpc_port) as client:
        many = [(f"x-note-{number}", "y" * 500) for number in range(60)]  # more than a frame
        stream = client.open(INFER.path, *many)
        data = framed(request("hello"))
        client.h2.send_data(stream, data[:9], pad_length=100)
        client.h2.send_data(stream, data[9:], pad_length=0)
        client.h2.send_headers(stream, [("x-trailer", "z")], end_stream=True)
        client.flush()
        client.h2.prioritize(stream, weight=7)
        client.flush()
        assert client.status(stream) == 0


def test_a_ping_comes_back(server):
    with peer(server.grpc_port) as client:
        client.h2.ping(b"12345678")
        client.flush()
        assert client.seen(h2.events.PingAckReceived).ping_data == b"12345678"


def test_a_client_that_resets_its_stream_cancels_its_work(tmp_path):
    gate = threading.Event()
    with serving_fronts(tmp_path, TinyEngine(gate=gate)) as server, peer(server.grpc_port) as client:
        stream = client.open()
        client.send(stream, framed(request("hello")))
        assert until(lambda: server.engine.batches)
        client.h2.reset_stream(stream, 8)
        client.flush()
        assert until(lambda: server.metric("nlpdeploy_request_seconds_count", outcome="Cancelled") == 1)
        gate.set()
        again = client.open()
        client.send(again, framed(request("world")))
        assert client.status(again) == 0


def test_more_streams_than_the_limit_are_refused_unlooked_at(tmp_path):
    gate = threading.Event()
    limits = GrpcLimits(streams=2)
    with serving_fronts_of(tmp_path, TinyEngine(gate=gate), limits) as server, peer(server.grpc_port) as client:
        client.seen(h2.events.RemoteSettingsChanged)
        client.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 100  # it pays no heed
        client.h2.remote_settings.acknowledge()
        streams = [client.open() for _ in range(3)]
        for stream in streams[:2]:
            client.send(stream, framed(request("hello")))
        while streams[2] not in client.ended:
            client.take()
        assert client.ended[streams[2]].error_code == 7  # REFUSED_STREAM, after which a client may try again
        gate.set()
        assert [client.status(stream) for stream in streams[:2]] == [0, 0]


@contextmanager
def serving_fronts_of(folder, engine, limits):
    """The gRPC front with limits of its own."""
    with serving_fronts(folder, engine) as server:
        server.grpc._server._state.limits = limits
        yield server


def test_a_deadline_ends_a_stream_that_waits(server):
    with peer(server.grpc_port) as client:
        began = time.monotonic()
        stream = client.open(STREAM.path, grpc_timeout="200m")
        assert client.status(stream) == 4
        assert time.monotonic() - began >= 0.19


def test_an_idle_connection_is_told_to_go_and_a_dead_one_is_cut(tmp_path):
    with serving_fronts(tmp_path) as server:
        state = server.grpc._server._state
        with peer(server.grpc_port) as idle, peer(server.grpc_port) as dead:
            assert until(lambda: len(state.connections) == 2)
            dead.seen(h2.events.RemoteSettingsChanged)
            object.__setattr__(state.limits, "slow_client", 0.3)
            assert until(lambda: [idle.h2 and c for c in state.connections if c._pinged < 1e9])
            assert idle.seen(h2.events.PingReceived)  # which it answers
            assert until(lambda: len(state.connections) == 1, patience=20)
            object.__setattr__(state.limits, "slow_client", 60.0)
            object.__setattr__(state.limits, "idle", 0.1)
            assert idle.seen(h2.events.ConnectionTerminated).error_code == 0
            assert idle.gone()


def test_a_request_that_does_not_come_and_an_answer_that_is_not_taken_are_cut(tmp_path):
    with serving_fronts(tmp_path) as server, peer(server.grpc_port, INITIAL_WINDOW_SIZE=10) as client:
        object.__setattr__(server.grpc._server._state.limits, "slow_client", 0.5)
        client.reading = False
        half, unread, watching = client.open(), client.open(), client.open(STREAM.path)
        client.send(half, framed(request("hello"))[:9], end=False)
        client.send(unread, framed(request("hello")))
        assert client.status(half) == 4
        while unread not in client.ended:
            client.take()
        assert client.ended[unread].error_code == 8  # CANCEL
        assert watching not in client.ended  # a stream of requests may be silent


def test_a_server_that_stops_answers_what_it_has_and_takes_no_more(tmp_path):
    gate = threading.Event()
    with serving_fronts(tmp_path, TinyEngine(gate=gate)) as server, ThreadPoolExecutor(2) as threads:
        under_way = threads.submit(ask, "grpc", server.grpc_port, question(["hello"]))
        assert until(lambda: server.engine.batches)
        stopped = threads.submit(server.thread.run, server.grpc.stop(10.0))
        assert until(lambda: server.grpc._stopping.is_set())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.grpc_port), timeout=10)
        gate.set()
        assert under_way.result(10).is_(200)
        stopped.result(10)


def test_what_outlasts_the_grace_is_told_so(tmp_path):
    gate = threading.Event()
    with serving_fronts(tmp_path, TinyEngine(gate=gate)) as server, ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(ask, "grpc", server.grpc_port, question(["hello"]))
        assert until(lambda: server.engine.batches)
        server.thread.run(server.grpc.stop(0.05))
        assert under_way.result(10).status == "UNAVAILABLE"
        gate.set()


WRONG = {
    "a ping before the settings": "000000060000000000",
    "a frame of 16 MiB": "000000040000000000 ffffff000000000001",
    "data of no stream": "000000040000000000 000001000000000001 00",
    "headers that name no field": "000000040000000000 000001010400000001 ff",
    "a stream of an even number": "000000040000000000 000001010400000002 82",
    "a window of 0 more": "000000040000000000 000004080000000000 00000000",
    "settings amid headers": "000000040000000000 000001010000000001 82 000000040000000000",
    "half a setting": "000001040000000000 00",
    "a pushed stream": "000000040000000000 000004050400000001 00000002",
}
"""Frames after the preface, the client's settings first where they are not what is wrong."""


@pytest.mark.parametrize(
    "frames", [b"GET / HTTP/1.1\r\n\r\n", *(PREFACE + bytes.fromhex(odd) for odd in WRONG.values())]
)
def test_a_peer_that_breaks_the_protocol_is_cut_and_others_are_served(server, frames):
    with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=10) as connection:
        connection.sendall(frames)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert b"\x07\x00" in answer  # GOAWAY
    assert ask("grpc", server.grpc_port, question(["hello"])).is_(200)
