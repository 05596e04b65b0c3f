"""One builder an engine: from the fp32 graph to files that a runtime loads."""

from .catalogue import BUILDERS, GPU_BUILDERS, Builder, TypedBuilder, auto_engines, find_builder
from .tensorrt import ahead_ids

__all__ = ["BUILDERS", "GPU_BUILDERS", "Builder", "TypedBuilder", "ahead_ids", "auto_engines", "find_builder"]
