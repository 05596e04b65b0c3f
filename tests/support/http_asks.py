"""Requests over HTTP, made by the standard library and by ``tritonclient``."""

import json
from http.client import HTTPConnection

import numpy as np
import tritonclient.http as client
from tritonclient.utils import np_to_triton_dtype


def call(fronts, method, path, body=None, **headers):
    """Status, headers by lower-case name, body."""
    connection = HTTPConnection("127.0.0.1", fronts.http_port, timeout=20)
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def tensor(name, values, binary=True):
    """An input of ``tritonclient.http``."""
    made = client.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def texts(*values, binary=True):
    """The input ``text``, as a list of inputs."""
    return [tensor("text", np.array(values, dtype=object), binary)]


def json_request(*values):
    """The body of an inference by text."""
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(values)], "data": list(values)}]}


def decoded(values):
    """Values of an array, bytes as text."""
    return [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
