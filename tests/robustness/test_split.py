"""Any split of texts into concurrent requests gives each caller its own rows, as the model in process answers them."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.client import HTTPConnection

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlpdeploy.runtime import load
from nlpdeploy.runtime.predictor import Predictor
from nlpdeploy.runtime.tasks import decode
from support.asking import FRONTS, End, ask, question
from support.server_process import server_process
from support.tiny_bundle import packed, publish_tiny_bundle
from support.tokenizers import TINY_VOCABULARY

MODELS = ("tiny", "turned", "packed")
DOORS = (*FRONTS, "predict")
OUTPUTS = ("label", "score", "scores", "logits", "tokens", "truncated")
CLIENTS = 12
ROUNDING = 1e-5

words = st.sampled_from([*TINY_VOCABULARY[5:], "unknown", "Hello", "人的"])
texts = st.lists(words, max_size=20).map(" ".join)  # 16 tokens are usable, so some are cut


@dataclass(frozen=True)
class Part:
    """One caller's request."""

    door: str
    model: str
    texts: tuple[str, ...]
    outputs: tuple[str, ...]
    priority: int


@st.composite
def splits(draw):
    """Some texts, cut into requests of 0 to 6."""
    left = draw(st.lists(texts, min_size=1, max_size=40))
    parts = []
    while left:
        size = 6 - draw(st.integers(0, 6))  # a request of no texts is one too
        door = draw(st.sampled_from(DOORS))
        names = draw(st.permutations(OUTPUTS))[: draw(st.integers(0, len(OUTPUTS)))] if door in FRONTS else ()
        model, priority = draw(st.sampled_from(MODELS)), draw(st.sampled_from([1, 2]))
        parts.append(Part(door, model, tuple(left[:size]), tuple(names), priority))
        left = left[size:]
    return parts


def turned(manifest):
    """The same weights under other labels, so that an answer of the wrong model is seen."""
    return replace(manifest, model=replace(manifest.model, labels=manifest.model.labels[::-1]))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    publish_tiny_bundle(store, "tiny")
    publish_tiny_bundle(store, "turned", turned)
    publish_tiny_bundle(store, "packed", packed)
    alone = {name: load(store / name) for name in MODELS}
    return store, {**alone, "packed": alone["tiny"]}  # packed or padded, the answers are the same


@pytest.fixture(scope="module")
def server(models):
    store, predictors = models
    with server_process(store=store) as process, ThreadPoolExecutor(CLIENTS) as clients:
        ready = process.wait_ready()

        def send(number: int, part: Part) -> End:
            if part.door == "predict":
                return ask_predict(ready["http_port"], part)
            request = question(
                part.texts,
                model=part.model,
                outputs=part.outputs,
                id=f"r{number}",
                parameters={"priority": part.priority},
            )
            return ask(part.door, ready[f"{part.door}_port"], request)

        yield lambda parts: list(clients.map(send, range(len(parts)), parts)), predictors
        process.signal(signal.SIGTERM)
        assert process.wait()[0] == 0


def ask_predict(port: int, part: Part) -> End:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", f"/v2/models/{part.model}/predict", json.dumps({"text": list(part.texts)}))
        response = connection.getresponse()
        rows = json.loads(response.read())["predictions"]
    finally:
        connection.close()
    return End(response.status, outputs={name: [row[name] for row in rows] for name in ("label", "score")})


def own_answers(predictor: Predictor, part: Part) -> dict[str, list]:
    """What the predictor answers for these texts, each run alone."""
    rows = predictor.encode(part.texts)
    logits = np.concatenate([predictor.logits([row]) for row in rows]) if rows else np.empty((0, 4), np.float32)
    outputs = {name: values.tolist() for name, values in decode(logits, predictor.model).items()}
    return {**outputs, "tokens": [len(row) for row in rows], "truncated": [row.truncated for row in rows]}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(splits())
def test_each_caller_gets_exactly_its_rows_and_outputs(server, parts):
    send, predictors = server
    for number, (part, end) in enumerate(zip(parts, send(parts), strict=True)):
        assert end.is_(200)
        assert end.id == (f"r{number}" if part.door in FRONTS else "")
        assert tuple(end.outputs) == (part.outputs or ("label", "score"))
        own = own_answers(predictors[part.model], part)
        for name, values in end.outputs.items():
            wanted = own[name]
            assert len(values) == len(part.texts)
            if name in ("score", "scores", "logits"):
                assert np.allclose(values, wanted, rtol=0, atol=ROUNDING)
            else:
                assert values == wanted, (name, part)
