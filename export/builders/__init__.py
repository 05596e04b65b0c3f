"""One builder an engine: from the fp32 graph to files that a runtime loads."""

from .catalogue import AUTO, BUILDERS, ELSEWHERE, Builder

__all__ = ["AUTO", "BUILDERS", "ELSEWHERE", "Builder"]
