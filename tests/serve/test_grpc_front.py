"""The gRPC front as clients nobody here wrote see it."""

import socket
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc as client
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.grpc_front import GrpcFront
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.wire import oip
from support.engines import KEYWORDS, LABELS, TinyEngine
from support.fronts import serving_fronts, until

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    with serving_fronts(tmp_path_factory.mktemp("fronts")) as running:
        yield running


@pytest.fixture
def triton(fronts):
    with client.InferenceServerClient(f"127.0.0.1:{fronts.grpc_port}") as made:
        yield made


@pytest.fixture
def channel(fronts):
    with grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}", options=UNLIMITED) as made:
        yield made


def tensor(name, values):
    made = client.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def texts(*values):
    return [tensor("text", np.array([value.encode() for value in values], dtype=object))]


def status_of(caught):
    return caught.value.status().removeprefix("StatusCode.")


def test_live_ready_and_metadata(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("tiny")
    assert triton.get_server_metadata().name == "nlpdeploy"
    metadata = triton.get_model_metadata("tiny")
    assert [(spec.name, spec.datatype, list(spec.shape)) for spec in metadata.inputs] == [("text", "BYTES", [-1])]
    assert metadata.outputs[0].name == "label"


def test_answers_in_order_with_the_id_and_the_parameters(triton):
    result = triton.infer("tiny", texts(*KEYWORDS), request_id="r7")
    assert [label.decode() for label in result.as_numpy("label")] == list(LABELS)
    assert result.as_numpy("score").dtype == np.float32
    response = result.get_response()
    assert response.id == "r7"
    assert response.parameters["bundle_digest"].string_param
    assert response.parameters["engine"].string_param == "tiny"


def test_named_outputs_and_token_inputs(triton):
    ids = np.array([[2, 9, 3]], dtype=np.int64)
    asked = [client.InferRequestedOutput("logits")]
    result = triton.infer("tiny", [tensor("input_ids", ids)], outputs=asked)
    assert result.as_numpy("logits").shape == (1, len(LABELS))
    assert result.as_numpy("label") is None


def test_typed_contents_are_answered_too(channel):
    request = service_pb2.ModelInferRequest(model_name="tiny")
    request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"hello")
    response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert response.raw_output_contents[0] == b"\x05\0\0\0hello"


def test_stage_times_are_in_the_trailing_metadata(channel):
    request = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[b"\x05\0\0\0hello"])
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    _, call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.with_call(request)
    timing = dict(call.trailing_metadata())["server-timing"]
    assert [stage.partition(";")[0] for stage in timing.split(", ")] == ["encode", "queue", "infer", "decode"]


@pytest.mark.parametrize(
    ("model", "version", "inputs", "outputs", "status"),
    [
        ("nobody", "", texts("a"), None, "NOT_FOUND"),
        ("tiny", "9", texts("a"), None, "NOT_FOUND"),
        ("tiny", "", [tensor("words", np.array([b"a"], dtype=object))], None, "INVALID_ARGUMENT"),
        ("tiny", "", [tensor("text", np.zeros(1, dtype=np.float32))], None, "INVALID_ARGUMENT"),
        ("tiny", "", [tensor("text", np.array([b"\xff"], dtype=object))], None, "INVALID_ARGUMENT"),
        ("tiny", "", texts("a"), [client.InferRequestedOutput("mood")], "INVALID_ARGUMENT"),
        ("tiny", "", texts("a"), [client.InferRequestedOutput("label", class_count=2)], "UNIMPLEMENTED"),
        ("x" * 100_000, "", texts("a"), None, "NOT_FOUND"),
    ],
)
def test_a_wrong_request_gets_its_status_and_one_line(triton, model, version, inputs, outputs, status):
    with pytest.raises(InferenceServerException) as caught:
        triton.infer(model, inputs, model_version=version, outputs=outputs)
    assert status_of(caught) == status
    assert "\n" not in caught.value.message()
    assert triton.infer("tiny", texts("hello")).as_numpy("label")[0] == b"hello"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("676f6f64", ["input text", "1685024615 bytes", "0 bytes left"]),
        ("0500000068656c6c6f7878", ["input text", "2 bytes after the last"]),
    ],
)
def test_bytes_without_their_length_are_a_clean_client_error_and_the_next_request_is_answered(channel, raw, words):
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[bytes.fromhex(raw)])
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert all(word in caught.value.details() for word in words)
    request.raw_input_contents[0] = bytes.fromhex("04000000676f6f64")
    assert stub.ModelInfer(request).raw_output_contents


def test_bytes_that_are_no_message_are_the_caller_s_error_and_counted(channel, fronts):
    counted = ("nlpdeploy_unrouted_requests_total", "nlpdeploy_request_seconds_count")
    before = [fronts.metric(name, outcome="InvalidInput") for name in counted]
    call = channel.unary_unary(oip.METHODS["ModelInfer"].path)
    for sent in (b"\xff\xff\xff", bytes(service_pb2.ModelInferRequest(model_name="tiny").SerializeToString())):
        with pytest.raises(grpc.RpcError) as caught:
            call(sent)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    unreadable = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[b"one", b"too many"])
    with pytest.raises(grpc.RpcError):
        call(bytes(unreadable.SerializeToString()))
    after = [fronts.metric(name, outcome="InvalidInput") for name in counted]
    assert after == [before[0] + 1, before[1] + 2]


def test_calls_that_are_not_served_are_unimplemented(triton):
    with pytest.raises(InferenceServerException) as caught:
        triton.load_model("tiny")
    assert status_of(caught) == "UNIMPLEMENTED"


def test_6_4_megabytes_pass_by_default(triton):
    result = triton.infer("tiny", texts(*["hello " * 16_666 + "a" * 4] * 64))
    assert result.as_numpy("label").tolist() == [b"hello"] * 64


def test_above_the_limit_is_resource_exhausted_and_the_next_request_is_answered(tmp_path):
    with (
        serving_fronts(tmp_path, max_message_bytes=1_000_000) as fronts,
        client.InferenceServerClient(f"127.0.0.1:{fronts.grpc_port}") as triton,
    ):
        with pytest.raises(InferenceServerException) as caught:
            triton.infer("tiny", texts("a" * 1_100_000))
        assert status_of(caught) == "RESOURCE_EXHAUSTED"
        assert triton.infer("tiny", texts("hello")).as_numpy("label")[0] == b"hello"


def test_a_full_queue_is_resource_exhausted_with_its_kind_and_a_hint(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    capacity = Capacity(limits=Limits(rows=1))
    with (
        serving_fronts(tmp_path, engine, capacity=capacity) as fronts,
        grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[b"\x05\0\0\0hello"])
        request.inputs.add(name="text", datatype="BYTES", shape=[1])
        running = [stub.ModelInfer.future(request)]
        assert until(lambda: engine.batches)
        running.append(stub.ModelInfer.future(request))
        assert until(lambda: fronts.metric("nlpdeploy_queue_rows") == 1)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailers = dict(caught.value.trailing_metadata())
        assert trailers["error-kind"] == "Overloaded"
        assert int(trailers["retry-after"]) >= 1
        engine.gate.set()
        assert [call.result(10).raw_output_contents[0] for call in running] == [b"\x05\0\0\0hello"] * 2


def test_a_client_that_leaves_cancels_its_work(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    with (
        serving_fronts(tmp_path, engine) as fronts,
        grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel,
    ):
        request = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[b"\x05\0\0\0hello"])
        request.inputs.add(name="text", datatype="BYTES", shape=[1])
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request)
        assert until(lambda: engine.batches)
        call.cancel()
        assert until(lambda: fronts.metric("nlpdeploy_request_seconds_count", outcome="Cancelled") == 1)
        assert fronts.metric("nlpdeploy_open_requests") == 0


@pytest.mark.parametrize("by_parameter", [True, False])
def test_a_deadline_that_passes_is_deadline_exceeded_while_the_engine_is_busy(tmp_path, by_parameter):
    engine = TinyEngine(gate=threading.Event())
    with (
        serving_fronts(tmp_path, engine) as fronts,
        client.InferenceServerClient(f"127.0.0.1:{fronts.grpc_port}") as triton,
    ):
        limit = {"timeout": 100_000} if by_parameter else {"client_timeout": 0.1}
        with pytest.raises(InferenceServerException) as caught:
            triton.infer("tiny", texts("hello"), **limit)
        assert status_of(caught) == "DEADLINE_EXCEEDED"


def test_an_engine_that_fails_is_internal_without_its_own_words(tmp_path):
    with (
        serving_fronts(tmp_path, TinyEngine(nan_word="book")) as fronts,
        client.InferenceServerClient(f"127.0.0.1:{fronts.grpc_port}") as triton,
    ):
        with pytest.raises(InferenceServerException) as caught:
            triton.infer("tiny", texts("book"))
        assert status_of(caught) == "INTERNAL"
        assert triton.infer("tiny", texts("hello")).as_numpy("label")[0] == b"hello"


def test_health_of_the_whole_of_a_model_and_of_nothing(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", oip.SERVICE, "tiny"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_those_that_watch_hear_of_the_start_and_of_the_drain(tmp_path):
    states = health_pb2.HealthCheckResponse
    with (
        serving_fronts(tmp_path, opened=False) as fronts,
        grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watched = {
            name: health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=20)
            for name in ("", "tiny", "nobody")
        }
        assert next(watched["nobody"]).status == states.SERVICE_UNKNOWN
        assert [next(watched[name]).status for name in ("", "tiny")] == [states.NOT_SERVING] * 2
        fronts.thread.loop.call_soon_threadsafe(fronts.plane.open)
        assert [next(watched[name]).status for name in ("", "tiny")] == [states.SERVING] * 2
        fronts.thread.run(fronts.grpc.drain())
        assert [next(watched[name]).status for name in ("", "tiny")] == [states.NOT_SERVING] * 2
        fronts.thread.run(fronts.grpc.stop(5.0))
        with pytest.raises(grpc.RpcError) as caught:
            next(watched[""])
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_port_in_use_is_named_with_the_option_that_changes_it():
    import asyncio

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def start():
            await GrpcFront(None, "127.0.0.1", port).start()

        with pytest.raises(InvalidInput, match=f"127.0.0.1:{port}.*--grpc-port"):
            asyncio.run(start())
