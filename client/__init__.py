"""A typed Python client, blocking and asyncio, over HTTP and gRPC. Needs numpy, protobuf and grpcio alone.

    from nlpdeploy.client import Client

    with Client("http://127.0.0.1:8000", model="intent", timeout=1.0) as intent:
        intent.predict("I lost my card").label

Knows the protocol, deadlines, retries and connections; must not know servers, engines or models. Errors are the kinds
of :mod:`nlpdeploy.bundle.errors`.
"""

from .aio import AsyncClient
from .answers import Inference, Prediction
from .retry import Retry
from .sync import Client

__all__ = ["AsyncClient", "Client", "Inference", "Prediction", "Retry"]
