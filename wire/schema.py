"""The protocol's messages, field numbers as in Triton's ``grpc_service.proto`` and ``model_config.proto``.

One line a field: ``type name = number``, with ``repeated`` before it, ``map<type>`` for a map from strings, or
``oneof GROUP`` before a member of a choice. Of ``ModelConfig`` only what clients of a text model read is declared; the
numbers are the original's, so a fuller reader understands our messages and we skip what is not ours.
"""

MESSAGES = """
message ServerLiveRequest
message ServerLiveResponse
  bool live = 1
message ServerReadyRequest
message ServerReadyResponse
  bool ready = 1
message ModelReadyRequest
  string name = 1
  string version = 2
message ModelReadyResponse
  bool ready = 1
message ServerMetadataRequest
message ServerMetadataResponse
  string name = 1
  string version = 2
  repeated string extensions = 3
message ModelMetadataRequest
  string name = 1
  string version = 2
message ModelMetadataResponse
  string name = 1
  repeated string versions = 2
  string platform = 3
  repeated ModelMetadataResponse.TensorMetadata inputs = 4
  repeated ModelMetadataResponse.TensorMetadata outputs = 5
message ModelMetadataResponse.TensorMetadata
  string name = 1
  string datatype = 2
  repeated int64 shape = 3

message InferParameter
  oneof parameter_choice bool bool_param = 1
  oneof parameter_choice int64 int64_param = 2
  oneof parameter_choice string string_param = 3
  oneof parameter_choice double double_param = 4
  oneof parameter_choice uint64 uint64_param = 5
message InferTensorContents
  repeated bool bool_contents = 1
  repeated int32 int_contents = 2
  repeated int64 int64_contents = 3
  repeated uint32 uint_contents = 4
  repeated uint64 uint64_contents = 5
  repeated float fp32_contents = 6
  repeated double fp64_contents = 7
  repeated bytes bytes_contents = 8
message ModelInferRequest
  string model_name = 1
  string model_version = 2
  string id = 3
  map<InferParameter> parameters = 4
  repeated ModelInferRequest.InferInputTensor inputs = 5
  repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6
  repeated bytes raw_input_contents = 7
message ModelInferRequest.InferInputTensor
  string name = 1
  string datatype = 2
  repeated int64 shape = 3
  map<InferParameter> parameters = 4
  InferTensorContents contents = 5
message ModelInferRequest.InferRequestedOutputTensor
  string name = 1
  map<InferParameter> parameters = 2
message ModelInferResponse
  string model_name = 1
  string model_version = 2
  string id = 3
  map<InferParameter> parameters = 4
  repeated ModelInferResponse.InferOutputTensor outputs = 5
  repeated bytes raw_output_contents = 6
message ModelInferResponse.InferOutputTensor
  string name = 1
  string datatype = 2
  repeated int64 shape = 3
  map<InferParameter> parameters = 4
  InferTensorContents contents = 5
message ModelStreamInferResponse
  string error_message = 1
  ModelInferResponse infer_response = 2

message ModelConfigRequest
  string name = 1
  string version = 2
message ModelConfigResponse
  ModelConfig config = 1
message ModelConfig
  string name = 1
  string platform = 2
  int32 max_batch_size = 4
  repeated ModelInput input = 5
  repeated ModelOutput output = 6
  oneof scheduling_choice ModelDynamicBatching dynamic_batching = 11
  map<ModelParameter> parameters = 14
  string backend = 17
  ModelTransactionPolicy model_transaction_policy = 19
message ModelInput
  string name = 1
  DataType data_type = 2
  repeated int64 dims = 4
  bool optional = 8
message ModelOutput
  string name = 1
  DataType data_type = 2
  repeated int64 dims = 3
message ModelDynamicBatching
  repeated int32 preferred_batch_size = 1
  uint64 max_queue_delay_microseconds = 2
  uint64 priority_levels = 4
  uint64 default_priority_level = 5
message ModelParameter
  string string_value = 1
message ModelTransactionPolicy
  bool decoupled = 1

message ModelStatisticsRequest
  string name = 1
  string version = 2
message StatisticDuration
  uint64 count = 1
  uint64 ns = 2
message InferStatistics
  StatisticDuration success = 1
  StatisticDuration fail = 2
  StatisticDuration queue = 3
  StatisticDuration compute_input = 4
  StatisticDuration compute_infer = 5
  StatisticDuration compute_output = 6
  StatisticDuration cache_hit = 7
  StatisticDuration cache_miss = 8
message InferResponseStatistics
  StatisticDuration compute_infer = 1
  StatisticDuration compute_output = 2
  StatisticDuration success = 3
  StatisticDuration fail = 4
  StatisticDuration empty_response = 5
  StatisticDuration cancel = 6
message InferBatchStatistics
  uint64 batch_size = 1
  StatisticDuration compute_input = 2
  StatisticDuration compute_infer = 3
  StatisticDuration compute_output = 4
message MemoryUsage
  string type = 1
  int64 id = 2
  uint64 byte_size = 3
message ModelStatistics
  string name = 1
  string version = 2
  uint64 last_inference = 3
  uint64 inference_count = 4
  uint64 execution_count = 5
  InferStatistics inference_stats = 6
  repeated InferBatchStatistics batch_stats = 7
  repeated MemoryUsage memory_usage = 8
  map<InferResponseStatistics> response_stats = 9
message ModelStatisticsResponse
  repeated ModelStatistics model_stats = 1

message RepositoryIndexRequest
  string repository_name = 1
  bool ready = 2
message RepositoryIndexResponse
  repeated RepositoryIndexResponse.ModelIndex models = 1
message RepositoryIndexResponse.ModelIndex
  string name = 1
  string version = 2
  string state = 3
  string reason = 4
"""

ENUMS = {
    "DataType": (
        "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8",
        "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16",
    ),
}  # fmt: skip
"""Names in order of their numbers, from 0."""

UNARY_METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
)
"""Calls whose messages are ``<name>Request`` and ``<name>Response``."""
