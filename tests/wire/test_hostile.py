"""Whatever a sender claims: a request, or one of our errors in one line; never another exception, never a NaN."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from nlpdeploy.bundle.errors import NlpdeployError
from nlpdeploy.wire import codec_json, codec_proto, json_metadata, oip
from nlpdeploy.wire.codec_raw import NUMBERS
from nlpdeploy.wire.json_text import dump_json
from nlpdeploy.wire.status import failure_of

datatypes = st.sampled_from([*NUMBERS, "BYTES", "BF16", ""])
axes = st.integers(-2, 4) | st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)])
blobs = st.binary(max_size=24) | st.just(b"\xff\xff\xff\xff") | st.just(b"\x02\0\0\0ab")


def tolerated(decode, *arguments, **named):
    try:
        return decode(*arguments, **named)
    except NlpdeployError as error:
        failure = failure_of(error)
        assert failure.status.http in (400, 501)
        assert "\n" not in failure.detail
        assert failure.detail.encode()
        return None


@settings(max_examples=300, deadline=None)
@given(datatypes, st.lists(axes, max_size=4), st.lists(blobs, max_size=2), st.data())
def test_any_protobuf_tensor(datatype, shape, raw, data):
    message = oip.ModelInferRequest(model_name="m", raw_input_contents=raw)
    tensor = message.inputs.add(name="x\n", datatype=datatype, shape=shape)
    field = data.draw(st.sampled_from([None, *oip.InferTensorContents.DESCRIPTOR.fields_by_name]))
    if field is not None:
        value = b"a" if field == "bytes_contents" else 1
        getattr(tensor.contents, field).extend([value] * data.draw(st.integers(0, 5)))
    request = tolerated(codec_proto.decode_request, message)
    if request is not None:
        assert codec_proto.decode_request(codec_proto.encode_request(request)).inputs[0].shape == tuple(shape)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.sampled_from([10**400, 1e308, 1e39, -1])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", "BYTES"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


def object_of(**members):
    return st.fixed_dictionaries({}, optional=members)


json_tensors = object_of(
    name=st.just("x") | json_values,
    datatype=datatypes | json_values,
    shape=st.lists(axes, max_size=3) | json_values,
    data=st.lists(json_values, max_size=4) | json_values,
    parameters=object_of(binary_data_size=axes | json_values) | json_values,
)
json_requests = object_of(
    id=json_values,
    inputs=st.lists(json_tensors, max_size=2) | json_values,
    outputs=st.lists(object_of(name=json_values, parameters=json_values), max_size=2) | json_values,
    parameters=json_values,
)


@settings(max_examples=500, deadline=None)
@given(json_requests, blobs, st.none() | st.integers(-2, 2))
def test_any_json_request(content, behind, shift):
    header = json.dumps(content).encode()
    if shift is None:
        decoded = tolerated(codec_json.decode_request, header, model="m")
    else:
        decoded = tolerated(codec_json.decode_request, header + behind, max(0, len(header) + shift), model="m")
    if decoded is not None:
        request, _ = decoded
        assert dump_json([request.id, list(request.outputs), dict(request.parameters)])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.none() | st.integers(0, 70))
def test_any_bytes(content, header_length):
    tolerated(codec_json.decode_request, content, header_length, model="m")
    tolerated(codec_json.decode_response, content, header_length)
    tolerated(json_metadata.decode_model_metadata, content)
