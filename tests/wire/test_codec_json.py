"""HTTP bodies <-> plain values: JSON, and JSON with binary tensors behind it."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings

from nlpdeploy.bundle.errors import EngineFailed, InvalidInput, Unsupported
from nlpdeploy.bundle.specs import TensorSpec
from nlpdeploy.wire import codec_json, json_metadata
from nlpdeploy.wire.codec_json import OutputForm
from nlpdeploy.wire.tensors import InferRequest, InferResponse, ModelMetadata, ServerMetadata, Tensor
from support.tensors import requests, responses, same_tensors


def same_request(got, request):
    assert same_tensors(got.inputs, request.inputs)
    assert (got.model, got.version, got.id, got.outputs, got.parameters) == (
        request.model,
        request.version,
        request.id,
        request.outputs,
        request.parameters,
    )


@settings(max_examples=100, deadline=None)
@given(requests(as_json=True))
def test_a_request_in_json_comes_back_as_it_went(request):
    body = codec_json.encode_request(request, binary=False)
    assert body.header_length is None
    got, form = codec_json.decode_request(body.content, model=request.model, version=request.version)
    same_request(got, request)
    assert not any(map(form.is_binary, [*request.outputs, "another"]))


@settings(max_examples=100, deadline=None)
@given(requests())
def test_a_request_with_binary_tensors_comes_back_as_it_went(request):
    body = codec_json.encode_request(request)
    got, form = codec_json.decode_request(
        body.content, body.header_length, model=request.model, version=request.version
    )
    same_request(got, request)
    assert all(map(form.is_binary, [*request.outputs, "another"]))


@settings(max_examples=100, deadline=None)
@given(responses(as_json=True))
def test_a_response_in_json_comes_back_as_it_went(response):
    body = codec_json.encode_response(response)
    got = codec_json.decode_response(body.content, body.header_length)
    assert same_tensors(got.outputs, response.outputs)
    assert (got.model, got.version, got.id, got.parameters) == (
        response.model,
        response.version,
        response.id,
        response.parameters,
    )


@settings(max_examples=100, deadline=None)
@given(responses())
def test_a_response_with_binary_tensors_comes_back_as_it_went(response):
    body = codec_json.encode_response(response, OutputForm(binary=True))
    got = codec_json.decode_response(body.content, body.header_length)
    assert same_tensors(got.outputs, response.outputs)


def body_of(**changes):
    entry = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"], **changes}
    return json.dumps({"inputs": [{key: value for key, value in entry.items() if value is not None}]}).encode()


def refused(content, *words, header_length=None, kind=InvalidInput):
    with pytest.raises(kind) as caught:
        codec_json.decode_request(content, header_length, model="m")
    line = caught.value.line()
    assert "\n" not in line
    for word in words:
        assert word in line
    return line


def binary_body(raw: bytes, size: int | None = None, **changes):
    size = len(raw) if size is None else size
    header = body_of(data=None, parameters={"binary_data_size": size}, **changes)
    return header + raw, len(header)


def test_bare_text_in_binary_data_names_the_input_the_claimed_and_the_left_bytes():
    content, length = binary_body(b"good")
    refused(content, "input text", "1685024615 bytes", "0 bytes left", header_length=length)


def test_bytes_after_the_last_element_are_refused():
    content, length = binary_body(struct.pack("<I", 5) + b"helloxx")
    refused(content, "input text", "2 bytes after the last", header_length=length)


def test_more_binary_data_claimed_than_sent_is_refused():
    content, length = binary_body(b"\0\0\0\0", size=10**12)
    refused(content, "binary_data_size of input text", "4 bytes left", header_length=length)


def test_bytes_behind_the_last_binary_tensor_are_refused():
    content, length = binary_body(b"\0\0\0\0")
    refused(content + b"xx", "2 bytes after the last input", header_length=length)


def test_a_header_length_past_the_body_is_refused():
    refused(body_of(), "Inference-Header-Content-Length", header_length=10**9)


def test_binary_data_without_the_header_is_refused():
    content, _ = binary_body(b"")
    refused(content, "no Inference-Header-Content-Length")


def test_data_beside_binary_data_is_refused():
    header = body_of(parameters={"binary_data_size": 0})
    refused(header, "beside data", header_length=len(header))


@pytest.mark.parametrize("text", ["-1", "1e3", "", "٣", "9" * 20])
def test_a_header_length_that_is_no_number_is_refused(text):
    with pytest.raises(InvalidInput):
        codec_json.read_header_length(text)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "nothing"),
        (b"{", "JSON"),
        (b"[]", "a list"),
        (b"null", "nothing"),
        (b'{"inputs": 3}', "inputs of body"),
        (b"{}", "inputs of body"),
        (b'{"inputs": [3]}', "inputs[0]"),
        (b'{"inputs": [], "id": 7}', "id of body"),
        (b'{"inputs": [], "outputs": [{}]}', "name of outputs[0]"),
        (b'{"inputs": [], "parameters": {"a": null}}', "parameter a"),
        (b'{"inputs": [], "parameters": {"binary_data_output": 1}}', "binary_data_output"),
        ('{"id": "ä"}'.encode("latin-1"), "UTF-8"),
        (b'{"inputs": [NaN]}', "NaN"),
        (b'{"inputs": [], "id": "\\ud800"}', "surrogate"),
        (b"[" * 200_000, "too many levels"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "digits"),
        ("{}".encode("utf-16"), "UTF-8"),
    ],
)
def test_what_is_no_such_json_is_refused_in_one_line(content, word):
    refused(content, word)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"name": None}, "name of inputs[0]"),
        ({"shape": [True]}, "shape[0]"),
        ({"shape": [1.0]}, "shape[0]"),
        ({"shape": [-1]}, "negative"),
        ({"shape": [10**300, 10**300]}, "shape"),
        ({"shape": [2]}, "1 elements"),
        ({"data": None}, "data of input text"),
        ({"data": "a"}, "a list"),
        ({"data": [7]}, "int"),
        ({"data": [["a"], "b"], "shape": [2]}, "lists beside values"),
        ({"datatype": "TEXT"}, "TEXT"),
        ({"datatype": "INT64", "data": [1.5]}, "float"),
        ({"datatype": "INT64", "data": [True]}, "bool"),
        ({"datatype": "INT8", "data": [128]}, "128"),
        ({"datatype": "INT64", "data": [10**400]}, "64 bits"),
        ({"datatype": "FP32", "data": [1e39]}, "out of range"),
        ({"datatype": "FP64", "data": [10**400]}, "1e308"),
        ({"datatype": "BOOL", "data": [1]}, "int"),
        ({"datatype": "FP16", "data": [1.0]}, "FP16"),
        ({"parameters": {"binary_data_size": -1}}, "binary_data_size"),
        ({"parameters": []}, "parameters"),
    ],
)
def test_a_wrong_input_is_refused_by_name(changes, word):
    refused(body_of(**changes), word)


def test_a_number_past_the_range_of_doubles_is_refused():
    refused(b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1e999]}]}', "out of range")


def test_nested_data_are_row_major():
    request, _ = codec_json.decode_request(body_of(datatype="INT64", shape=[2, 2], data=[[1, 2], [3, 4]]), model="m")
    assert request.inputs[0].data.tolist() == [[1, 2], [3, 4]]


def test_shared_memory_and_class_counts_are_refused_by_name():
    refused(body_of(parameters={"shared_memory_region": "r"}), "shared memory", kind=Unsupported)
    asks = b'{"inputs": [], "outputs": [{"name": "label", "parameters": {"classification": 3}}]}'
    refused(asks, "class count", kind=Unsupported)


def response(*outputs):
    return InferResponse("m", "1", "", outputs)


def test_a_number_that_is_not_finite_never_becomes_json():
    nan = Tensor("score", "FP32", np.array([np.nan], dtype=np.float32))
    with pytest.raises(EngineFailed):
        codec_json.encode_response(response(nan))
    with pytest.raises(InvalidInput):
        codec_json.encode_request(InferRequest("m", (nan,)), binary=False)


def test_what_json_cannot_carry_asks_for_binary_data():
    for tensor in (
        Tensor("label", "BYTES", np.array([b"\xff"], dtype=object)),
        Tensor("x", "FP16", np.zeros(1, dtype=np.float16)),
    ):
        with pytest.raises(InvalidInput, match="binary_data"):
            codec_json.encode_response(response(tensor))


def test_each_output_goes_in_the_form_it_is_asked_for():
    asks = (
        b'{"inputs": [], "parameters": {"binary_data_output": true, "priority": 1},'
        b' "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": false}}]}'
    )
    request, form = codec_json.decode_request(asks, model="m")
    assert request.parameters == {"priority": 1}
    labels = np.array(["正面".encode()], dtype=object)
    body = codec_json.encode_response(response(Tensor("a", "BYTES", labels), Tensor("b", "BYTES", labels)), form)
    header = json.loads(body.content[: body.header_length])
    assert header["outputs"][0]["parameters"] == {"binary_data_size": 10}
    assert header["outputs"][1]["data"] == ["正面"]
    assert body.content[body.header_length :] == struct.pack("<I", 6) + "正面".encode()


def test_metadata_comes_back_as_it_went():
    text = TensorSpec("text", "BYTES", (-1,))
    model = ModelMetadata("m", ("1", "2"), "onnx", (text,), (text,), {"task": "classification"})
    assert json_metadata.decode_model_metadata(json_metadata.encode_model_metadata(model)) == model
    server = ServerMetadata("s", "1.0", ("binary_tensor_data",))
    assert json_metadata.decode_server_metadata(json_metadata.encode_server_metadata(server)) == server


def test_metadata_of_another_server_may_leave_things_out():
    content = b'{"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}'
    assert json_metadata.decode_model_metadata(content).inputs == (TensorSpec("x", "FP32", (-1, 2)),)


@pytest.mark.parametrize("binary", [True, False])
def test_a_client_nobody_here_wrote_reads_our_answer_and_we_its_question(binary):
    import tritonclient.http as client

    text = client.InferInput("text", [2], "BYTES")
    text.set_data_from_numpy(np.array(["good", "正面"], dtype=object), binary_data=binary)
    ids = client.InferInput("ids", [1, 2], "INT64")
    ids.set_data_from_numpy(np.array([[1, 2]]), binary_data=binary)
    outputs = [client.InferRequestedOutput("label", binary_data=binary)]
    content, length = client.InferenceServerClient.generate_request_body([text, ids], outputs=outputs)
    request, form = codec_json.decode_request(content, length, model="m")
    assert [element.decode() for element in request.inputs[0].data] == ["good", "正面"]
    assert request.inputs[1].data.tolist() == [[1, 2]]
    answer = response(Tensor("label", "BYTES", request.inputs[0].data))
    body = codec_json.encode_response(answer, form)
    result = client.InferenceServerClient.parse_response_body(body.content, header_length=body.header_length)
    read = result.as_numpy("label").tolist()
    assert [item.decode() if isinstance(item, bytes) else item for item in read] == ["good", "正面"]
