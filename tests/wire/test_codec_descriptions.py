"""Configuration, statistics and index: the message and the JSON text say the same, in the reference's words."""

import json

import pytest
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.wire.codec_descriptions import (
    data_type,
    index_json,
    index_message,
    model_config_json,
    model_config_message,
    read_index_body,
    statistics_json,
    statistics_message,
)
from nlpdeploy.wire.codec_raw import NUMBERS
from nlpdeploy.wire.descriptions import (
    BatchStatistics,
    ConfigInput,
    ConfigOutput,
    ConfigParameter,
    Duration,
    DynamicBatching,
    IndexEntry,
    InferStatistics,
    ModelConfig,
    ModelStatistics,
)

CONFIG = ModelConfig(
    name="intent",
    platform="openvino_bf16",
    backend="openvino",
    max_batch_size=4096,
    input=(ConfigInput("text", "TYPE_STRING", ()),),
    output=(ConfigOutput("label", "TYPE_STRING", ()), ConfigOutput("scores", "TYPE_FP32", (77,))),
    dynamic_batching=DynamicBatching(max_queue_delay_microseconds=1500),
    parameters={"labels": ConfigParameter('["a", "问"]')},
)
STATISTICS = ModelStatistics(
    name="intent",
    version="3",
    last_inference=1_790_000_000_123,
    inference_count=70,
    execution_count=9,
    inference_stats=InferStatistics(success=Duration(64, 2**40), queue=Duration(64, 7)),
    batch_stats=(BatchStatistics(8, compute_infer=Duration(9, 2**50)),),
)
INDEX = (IndexEntry("intent", "3", "READY"), IndexEntry("late", "", "LOADING"))


@pytest.mark.parametrize(
    ("message", "text", "theirs"),
    [
        (model_config_message(CONFIG), b'{"config":' + model_config_json(CONFIG) + b"}", "ModelConfigResponse"),
        (statistics_message([STATISTICS]), statistics_json([STATISTICS]), "ModelStatisticsResponse"),
        (index_message(INDEX), b'{"models":' + index_json(INDEX) + b"}", "RepositoryIndexResponse"),
    ],
)
def test_the_reference_s_classes_read_the_same_from_both_forms(message, text, theirs):
    kind = getattr(service_pb2, theirs)
    assert kind.FromString(message.SerializeToString()) == json_format.Parse(text, kind())


def test_json_has_every_counter_as_a_number_also_those_that_are_zero():
    (model,) = json.loads(statistics_json([STATISTICS]))["model_stats"]
    assert model["inference_stats"]["success"] == {"count": 64, "ns": 2**40}
    assert model["inference_stats"]["cache_hit"] == model["inference_stats"]["cache_miss"] == {"count": 0, "ns": 0}
    assert model["batch_stats"][0]["compute_output"] == {"count": 0, "ns": 0}


def test_json_has_the_decoupled_flag_although_it_is_off():
    config = json.loads(model_config_json(CONFIG))
    assert config["model_transaction_policy"] == {"decoupled": False}
    assert config["output"][1] == {"name": "scores", "data_type": "TYPE_FP32", "dims": [77]}


@pytest.mark.parametrize("dtype", ["BYTES", *NUMBERS])
def test_every_datatype_has_a_word_that_the_reference_knows(dtype):
    assert data_type(dtype) in dict(model_config_pb2.DataType.items())


@pytest.mark.parametrize(
    ("content", "ready"), [(b"", False), (b" ", False), (b"{}", False), (b'{"ready": true}', True)]
)
def test_a_request_for_the_index_may_be_empty(content, ready):
    assert read_index_body(content) is ready


@pytest.mark.parametrize("content", [b"[]", b'{"ready": 1}', b"ready"])
def test_a_request_for_the_index_that_is_no_object_is_refused(content):
    with pytest.raises(InvalidInput):
        read_index_body(content)
