"""The front: data plane, admission queue, scheduler, workers, model set, gRPC and HTTP adapters, metrics, drain.

Must not know how engines work inside.
"""
