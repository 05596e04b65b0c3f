"""The served answers, asked by clients that nobody here wrote, against the engine's own in this process."""

import csv
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from nlpdeploy.runtime import load
from support.cli import server
from support.shared import needs_shared

pytestmark = [needs_shared, pytest.mark.timeout(900)]

TEXTS = 500


def texts_of(exported):
    with exported.data.open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    return random.Random(7).sample(texts, TEXTS)


def mixed_sizes(count):
    """Consecutive slices of 1 to 12 texts."""
    draw, start = random.Random(3), 0
    while start < count:
        end = min(count, start + draw.randint(1, 12))
        yield slice(start, end)
        start = end


def ask(module, address, name, texts):
    tensor = module.InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object))
    wanted = [module.InferRequestedOutput(output) for output in ("label", "score", "scores")]
    with module.InferenceServerClient(address) as client:  # one a call: the HTTP one belongs to one thread
        answer = client.infer(name, [tensor], outputs=wanted)
    labels = [label.decode() for label in answer.as_numpy("label")]
    return labels, answer.as_numpy("score"), answer.as_numpy("scores")


def margin(answer):
    first, second = sorted(answer.scores.values(), reverse=True)[:2]
    return first - second


@pytest.mark.parametrize(
    ("subject", "engine"),
    [
        ("english", "onnx-int8"),
        ("english", "openvino-int8-packed"),
        ("english", "openvino-bf16-packed"),
        ("chinese", "onnx-int8"),
    ],
)
def test_concurrent_requests_of_mixed_sizes_get_the_engines_own_answers(subject, engine, request):
    exported = request.getfixturevalue(subject)
    found = next(entry for entry in exported.result["engines"] if entry["id"] == engine)
    if found["state"] == "skipped":
        pytest.skip(found["reason"])
    # In bf16 a row's last bits depend on the size of its call, and no label but a near tie does; in int8 nothing does.
    near = 0.02 if found["precision"] == "bf16" else 1e-5
    texts = texts_of(exported)
    predictor = load(exported.store / exported.name, engine=engine)
    expected = predictor(texts)
    with server("--store", exported.store, "--model", exported.name, "--engine", engine) as ready:
        for module, port in ((tritonclient.grpc, ready["grpc_port"]), (tritonclient.http, ready["http_port"])):
            slices, address = list(mixed_sizes(len(texts))), f"127.0.0.1:{port}"
            with ThreadPoolExecutor(8) as pool:
                asked = [pool.submit(ask, module, address, exported.name, texts[part]) for part in slices]
            answers = [future.result() for future in asked]
            labels = [label for part, _, _ in answers for label in part]
            pairs = zip(labels, expected, strict=True)
            assert all(label == answer.label or margin(answer) < 2 * near for label, answer in pairs)
            scores = np.concatenate([part for _, part, _ in answers])
            np.testing.assert_allclose(scores, [answer.score for answer in expected], atol=near)
            everything = np.concatenate([part for _, _, part in answers])
            np.testing.assert_allclose(everything, [list(answer.scores.values()) for answer in expected], atol=near)
