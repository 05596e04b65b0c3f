"""What an exported model is on disk, and the values that prove it.

Knows the standard library and numpy. Must not know torch, engine runtimes, gRPC or status codes.
"""
