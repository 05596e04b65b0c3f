"""Protobuf messages <-> plain values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings

from nlpdeploy.bundle.errors import InvalidInput, TooLarge, Unsupported
from nlpdeploy.bundle.specs import TensorSpec
from nlpdeploy.wire import codec_proto, oip
from nlpdeploy.wire.tensors import InferRequest, ModelMetadata, ServerMetadata, Tensor
from support.tensors import requests, responses, same_tensors


@settings(max_examples=100, deadline=None)
@given(requests())
def test_a_request_comes_back_as_it_went(request):
    sent = codec_proto.encode_request(request).SerializeToString()
    got = codec_proto.decode_request(oip.ModelInferRequest.FromString(sent))
    assert same_tensors(got.inputs, request.inputs)
    assert (got.model, got.version, got.id, got.outputs) == (
        request.model,
        request.version,
        request.id,
        request.outputs,
    )
    assert got.parameters == request.parameters
    assert {name: type(value) for name, value in got.parameters.items()} == {
        name: type(value) for name, value in request.parameters.items()
    }


@settings(max_examples=100, deadline=None)
@given(responses())
def test_a_response_comes_back_as_it_went_and_all_its_outputs_are_raw(response):
    message = codec_proto.encode_response(response)
    assert len(message.raw_output_contents) == len(response.outputs)
    got = codec_proto.decode_response(oip.ModelInferResponse.FromString(message.SerializeToString()))
    assert same_tensors(got.outputs, response.outputs)
    assert (got.model, got.version, got.id, got.parameters) == (
        response.model,
        response.version,
        response.id,
        response.parameters,
    )


def infer_request(datatype="BYTES", shape=(1,), raw=None, **contents):
    message = oip.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="text", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    if raw is not None:
        message.raw_input_contents.extend([raw] if isinstance(raw, bytes) else raw)
    return message


def refused(message, *words, kind=InvalidInput):
    with pytest.raises(kind) as caught:
        codec_proto.decode_request(message)
    line = caught.value.line()
    assert "\n" not in line
    for word in words:
        assert word in line


def test_bare_text_in_raw_contents_names_the_input_the_claimed_and_the_left_bytes():
    refused(infer_request(raw=bytes.fromhex("676f6f64")), "input text", "1685024615 bytes", "0 bytes left")


def test_bytes_after_the_last_element_are_refused():
    refused(infer_request(raw=bytes.fromhex("0500000068656c6c6f7878")), "input text", "2 bytes after the last")


def test_the_right_framing_is_read():
    request = codec_proto.decode_request(infer_request(raw=bytes.fromhex("04000000676f6f64")))
    assert request.inputs[0].data.tolist() == [b"good"]


@pytest.mark.parametrize(
    ("shape", "raw"),
    [([2**62], b""), ([2**31, 2**31, 4], b""), ([10**9], b"\0\0\0\0"), ([-1], b""), ([1] * 65, b"\0\0\0\0")],
)
@pytest.mark.parametrize("datatype", ["BYTES", "INT64"])
def test_a_claimed_shape_is_checked_before_memory_is_taken(datatype, shape, raw):
    refused(infer_request(datatype, shape, raw), "input text")


@pytest.mark.parametrize("raw", [True, False])
def test_a_crowd_of_texts_is_refused_before_it_is_taken_apart(raw):
    count = 2**18 + 1
    message = infer_request("BYTES", [count], b"\0\0\0\0" * count)
    if not raw:
        del message.raw_input_contents[:]
        message.inputs[0].contents.bytes_contents.extend([b""] * count)
    with pytest.raises(TooLarge, match="elements of input text; found 262145; wanted at most 262144"):
        codec_proto.decode_request(message)


@pytest.mark.parametrize("datatype", ["BYTES", "FP32", "INT64", "BOOL"])
def test_no_elements_are_an_empty_blob(datatype):
    tensor = codec_proto.decode_request(infer_request(datatype, [0, 3], b"")).inputs[0]
    assert tensor.shape == (0, 3)


def test_raw_bytes_of_the_wrong_size_are_refused():
    refused(infer_request("INT64", [2], b"\0" * 15), "15 bytes", "16 for INT64 [2]")


def test_an_unknown_datatype_is_refused():
    refused(infer_request("STRING", [1], b"x"), "STRING", "BYTES")


def test_raw_contents_must_be_as_many_as_inputs():
    refused(infer_request(raw=[b"\0\0\0\0", b"\0\0\0\0"]), "found 2", "wanted 1")


def test_raw_and_typed_contents_may_not_be_mixed():
    refused(infer_request(raw=b"\0\0\0\0", bytes_contents=[b"x"]), "beside raw")


def test_neither_raw_nor_typed_contents_is_refused():
    refused(infer_request(), "0 elements", "1 for BYTES")


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-3, 4]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [0.5, math.inf]),
        ("FP64", "fp64_contents", [0.1, -1e300]),
        ("BYTES", "bytes_contents", [b"", b"\xff\0"]),
    ],
)
def test_typed_contents_are_read(datatype, field, values):
    tensor = codec_proto.decode_request(infer_request(datatype, [2, 1], **{field: values})).inputs[0]
    assert tensor.shape == (2, 1)
    assert tensor.data.ravel().tolist() == values


def test_typed_contents_of_a_response_are_read():
    message = oip.ModelInferResponse(model_name="m")
    message.outputs.add(name="score", datatype="FP32", shape=[1]).contents.fp32_contents.append(0.25)
    assert codec_proto.decode_response(message).outputs[0].data.tolist() == [0.25]


def test_typed_contents_out_of_the_datatype_s_range_are_refused():
    refused(infer_request("INT8", [1], int_contents=[128]), "128", "INT8")


def test_typed_contents_in_another_datatype_s_field_are_refused():
    refused(infer_request("FP32", [1], int_contents=[1]), "int_contents", "fp32_contents")


def test_typed_contents_of_the_wrong_count_are_refused():
    refused(infer_request("FP32", [3], fp32_contents=[1.0]), "1 elements", "3 for FP32")


def test_fp16_goes_raw_only():
    refused(infer_request("FP16", [1], fp32_contents=[1.0]), "FP16", "raw")
    tensor = codec_proto.decode_request(infer_request("FP16", [1], np.float16(0.5).tobytes())).inputs[0]
    assert (tensor.data.dtype, tensor.data.tolist()) == (np.float16, [0.5])


def test_a_parameter_without_a_value_is_refused():
    message = infer_request(raw=b"\0\0\0\0")
    message.parameters["timeout"].SetInParent()
    refused(message, "timeout")


def test_shared_memory_and_class_counts_are_refused_by_name():
    message = infer_request()
    message.inputs[0].parameters["shared_memory_region"].string_param = "region"
    refused(message, "shared memory", "input text", kind=Unsupported)
    message = infer_request(raw=b"\0\0\0\0")
    message.outputs.add(name="label").parameters["classification"].int64_param = 3
    refused(message, "class count", "label", kind=Unsupported)


def test_a_parameter_past_64_bits_is_refused():
    with pytest.raises(InvalidInput):
        codec_proto.encode_request(InferRequest("m", (), parameters={"x": 2**64}))


def test_an_element_that_is_no_bytes_is_refused():
    with pytest.raises(InvalidInput):
        codec_proto.encode_request(InferRequest("m", (Tensor("text", "BYTES", np.array(["x"], dtype=object)),)))


def test_metadata_comes_back_as_it_went():
    model = ModelMetadata("m", ("1", "2"), "onnx", (TensorSpec("text", "BYTES", (-1,)),), ())
    assert codec_proto.decode_model_metadata(codec_proto.encode_model_metadata(model)) == model
    server = ServerMetadata("s", "1.0", ("a",))
    assert codec_proto.decode_server_metadata(codec_proto.encode_server_metadata(server)) == server


def test_a_client_nobody_here_wrote_reads_our_answer_and_we_its_question():
    import tritonclient.grpc as client
    from tritonclient.grpc import service_pb2

    sent = client.InferInput("text", [2], "BYTES")
    sent.set_data_from_numpy(np.array(["good", "正面".encode()], dtype=object))
    theirs = service_pb2.ModelInferRequest(model_name="m", inputs=[sent._get_tensor()])
    theirs.raw_input_contents.append(sent._get_content())
    request = codec_proto.decode_request(oip.ModelInferRequest.FromString(theirs.SerializeToString()))
    assert [text.decode() for text in request.inputs[0].data] == ["good", "正面"]
