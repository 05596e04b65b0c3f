"""One builder an engine: from the fp32 graph to files that a runtime loads."""

from .catalogue import BUILDERS, ELSEWHERE, Builder, auto_engines

__all__ = ["BUILDERS", "ELSEWHERE", "Builder", "auto_engines"]
