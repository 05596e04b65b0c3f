"""``ModelStreamInfer`` as ``tritonclient`` speaks it, and as a client that means no good does."""

import asyncio
import queue
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc as client
import tritonclient.grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.grpc_stream import MOST_OPEN
from nlpdeploy.serve.served_model import Capacity
from support.engines import KEYWORDS, LABELS, TinyEngine
from support.fronts import serving_fronts, until

PATIENCE = 20


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    with serving_fronts(tmp_path_factory.mktemp("fronts")) as running:
        yield running


def texts(*values):
    made = client.InferInput("text", [len(values)], "BYTES")
    made.set_data_from_numpy(np.array([value.encode() for value in values], dtype=object))
    return [made]


def request(text, request_id="", **fields):
    raw = len(text.encode()).to_bytes(4, "little") + text.encode()
    made = service_pb2.ModelInferRequest(model_name="tiny", id=request_id, raw_input_contents=[raw], **fields)
    made.inputs.add(name="text", datatype="BYTES", shape=[1])
    return made


class Sender:
    """A request stream that stays open until it is told to end."""

    def __init__(self, *messages):
        self._queue = queue.Queue()
        for message in messages:
            self.send(message)

    def send(self, message):
        self._queue.put(message)

    def end(self):
        self._queue.put(None)

    def __iter__(self):
        return self

    def __next__(self):
        message = self._queue.get()
        if message is None:
            raise StopIteration
        return message


def test_each_request_is_answered_with_its_id_and_its_own_rows(fronts):
    answers = queue.Queue()
    asked = {f"r{i}": [KEYWORDS[(i + j) % 4] for j in range(1 + i % 5)] for i in range(200)}
    with client.InferenceServerClient(f"127.0.0.1:{fronts.grpc_port}") as triton:
        triton.start_stream(lambda result, error: answers.put((result, error)))
        for name, words in asked.items():
            triton.async_stream_infer("tiny", texts(*words), request_id=name, enable_empty_final_response=True)
        triton.stop_stream()  # waits for the last answer
    got = {}
    while not answers.empty():
        result, error = answers.get()
        assert error is None
        got[result.get_response().id] = [label.decode() for label in result.as_numpy("label")]
        assert result.get_response().parameters["triton_final_response"].bool_param
    labels = dict(zip(KEYWORDS, LABELS, strict=True))
    assert got == {name: [labels[word] for word in words] for name, words in asked.items()}


def test_a_failed_request_has_its_line_its_kind_and_its_id_and_the_stream_lives_on(fronts):
    wrong = request("hello", "wrong")
    wrong.model_name = "nobody"
    tail = request("hello", "tail")
    tail.raw_input_contents[0] += b"xx"
    sender = Sender(wrong)
    with grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel:
        answers = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(sender, timeout=PATIENCE)
        first = next(answers)
        assert "nobody" in first.error_message
        assert (first.infer_response.id, first.infer_response.model_name) == ("wrong", "nobody")
        assert first.infer_response.parameters["error_kind"].string_param == "NotFound"
        sender.send(tail)
        second = next(answers)
        assert "2 bytes after the last" in second.error_message
        assert second.infer_response.parameters["error_kind"].string_param == "InvalidInput"
        sender.send(request("hello", "right"))
        third = next(answers)
        assert (third.error_message, third.infer_response.id) == ("", "right")
        assert third.infer_response.raw_output_contents[0] == b"\x05\0\0\0hello"
        sender.end()
        assert list(answers) == []
        assert answers.code() is grpc.StatusCode.OK


def test_bytes_that_are_no_message_are_answered_as_such(fronts):
    sender = Sender(b"\xff\xff\xff", request("hello", "next").SerializeToString())
    sender.end()
    with grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        answers = [service_pb2.ModelStreamInferResponse.FromString(raw) for raw in call(sender, timeout=PATIENCE)]
    assert sorted((bool(answer.error_message), answer.infer_response.id) for answer in answers) == [
        (False, "next"),
        (True, ""),
    ]


def test_answers_leave_in_the_order_in_which_they_are_done(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    with (
        serving_fronts(tmp_path, engine) as fronts,
        grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel,
    ):
        late = request("world", "late")
        late.parameters["timeout"].int64_param = 50_000
        sender = Sender(request("hello", "first"))
        answers = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(sender, timeout=PATIENCE)
        assert until(lambda: engine.batches)
        sender.send(late)
        assert next(answers).infer_response.id == "late"
        engine.gate.set()
        assert next(answers).infer_response.id == "first"
        sender.end()


def test_an_overloaded_model_says_so_on_the_stream_with_a_hint(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    with (
        serving_fronts(tmp_path, engine, capacity=Capacity(limits=Limits(rows=1))) as fronts,
        grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel,
    ):
        sender = Sender(request("hello", "running"))
        answers = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(sender, timeout=PATIENCE)
        assert until(lambda: engine.batches)
        sender.send(request("hello", "waiting"))
        assert until(lambda: fronts.metric("nlpdeploy_queue_rows") == 1)
        sender.send(request("hello", "refused"))
        refused = next(answers).infer_response
        assert refused.id == "refused"
        assert refused.parameters["error_kind"].string_param == "Overloaded"
        assert int(refused.parameters["retry_after"].string_param) >= 1
        engine.gate.set()
        assert {next(answers).infer_response.id for _ in range(2)} == {"running", "waiting"}
        sender.end()


def test_a_stream_that_is_cancelled_takes_its_open_work_away(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    with (
        serving_fronts(tmp_path, engine) as fronts,
        client.InferenceServerClient(f"127.0.0.1:{fronts.grpc_port}") as triton,
    ):
        triton.start_stream(lambda result, error: None)
        triton.async_stream_infer("tiny", texts("hello"))
        assert until(lambda: engine.batches)
        for index in range(9):
            triton.async_stream_infer("tiny", texts("hello"), request_id=str(index))
        assert until(lambda: fronts.metric("nlpdeploy_open_requests") == 10)
        triton.stop_stream(cancel_requests=True)
        assert until(lambda: fronts.metric("nlpdeploy_request_seconds_count", outcome="Cancelled") == 10)
        assert fronts.metric("nlpdeploy_open_requests") == 0
        engine.gate.set()
    assert engine.rows_run() == 1


def test_a_stream_has_only_so_many_requests_at_work(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    asked = MOST_OPEN + 40
    with (
        serving_fronts(tmp_path, engine) as fronts,
        grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel,
    ):
        sender = Sender(*(request("hello", str(index)) for index in range(asked)))
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = stub.ModelStreamInfer(sender, timeout=PATIENCE)
        assert until(lambda: fronts.metric("nlpdeploy_open_requests") == MOST_OPEN)
        # Another client's request goes through the same door meanwhile, and everything before it has been handled.
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
        assert fronts.metric("nlpdeploy_open_requests") == MOST_OPEN
        engine.gate.set()
        sender.end()
        assert sorted(int(answer.infer_response.id) for answer in answers) == list(range(asked))


def test_the_stream_s_deadline_is_that_of_its_requests(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    with (
        serving_fronts(tmp_path, engine) as fronts,
        grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = stub.ModelStreamInfer(Sender(request("hello")), timeout=0.2)
        with pytest.raises(grpc.RpcError) as caught:
            list(answers)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert until(lambda: fronts.metric("nlpdeploy_open_requests") == 0)


def test_a_server_that_stops_answers_what_is_open_and_ends_the_stream_as_unavailable(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    with (
        serving_fronts(tmp_path, engine) as fronts,
        grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel,
    ):
        sender = Sender(request("hello", "open"))
        answers = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(sender, timeout=PATIENCE)
        assert until(lambda: engine.batches)
        stopping = asyncio.run_coroutine_threadsafe(fronts.grpc.stop(PATIENCE), fronts.thread.loop)
        assert not stopping.done()
        engine.gate.set()
        assert next(answers).infer_response.id == "open"
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        stopping.result(PATIENCE)


def test_the_aio_client_streams_too(fronts):
    async def main():
        async def asked():
            for index, word in enumerate(KEYWORDS):
                yield {"model_name": "tiny", "inputs": texts(word), "request_id": str(index)}
            yield {"model_name": "nobody", "inputs": texts("hello"), "request_id": "wrong"}

        found, errors = {}, []
        async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{fronts.grpc_port}") as triton:
            async for result, error in triton.stream_infer(asked()):
                if error is None:
                    found[int(result.get_response().id)] = result.as_numpy("label")[0].decode()
                else:
                    errors.append(error)
        return found, errors

    found, errors = asyncio.run(main())
    assert found == dict(enumerate(LABELS))
    (error,) = errors
    assert isinstance(error, InferenceServerException)
    assert "nobody" in error.message()
