"""Before any traffic: is there a server, has it the model, does it take these texts, how does its answer look?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..bundle.compare import quantile
from ..bundle.errors import DeadlineExceeded, EngineFailed, InvalidInput, NlpdeployError
from ..wire.tensors import InferResponse
from .answers import OutputForm, answer_form
from .client import Client, open_client
from .payloads import Payloads
from .plan import Plan
from .samples import Outcome, ServerFacts

TOKEN_TEXTS = 200
"""Texts at most that the server is asked the length of: one after the other, before the run."""

_TRIES = 3
_PATIENCE = 10.0  # seconds for a first answer, which may find cold caches


def meet_server(plan: Plan, url: str, payloads: Payloads) -> tuple[ServerFacts, tuple[OutputForm, ...]]:
    """Ask a server for the model's metadata and one answer.

    Raises:
        NotFound: the server has no such model.
        Unavailable: no server there.
        InvalidInput: the model doesn't take the data's texts.
        EngineFailed, DeadlineExceeded: it doesn't answer a first request.
    """
    client = open_client(url, plan.model, plan.version, plan.key_file_of(url))
    try:
        names = {spec.name for spec in client.metadata(_PATIENCE).inputs}
        sent = {"text", "text_pair"} if payloads.pairs else {"text"}
        if not sent <= names:
            raise InvalidInput(
                f"inputs of {plan.model} at {url}",
                found=", ".join(sorted(names)),
                wanted=" and ".join(sorted(sent)),
                mend="name both columns of a pair task with --text-column and --pair-column",
            )
        pair = payloads.pairs[0] if payloads.pairs else None
        response, form = first_answer(client, client.encode(payloads.texts[0], pair))
    finally:
        client.close()
    digest, engine = (response.parameters.get(name) for name in ("bundle_digest", "engine"))
    return ServerFacts(url, None if digest is None else str(digest), None if engine is None else str(engine)), form


def count_tokens(plan: Plan, url: str, payloads: Payloads) -> dict[str, Any] | None:
    """How long the texts are in a server's own tokens, where it tells: of all of them, or of some evenly spread.

    Returns:
        ``texts`` asked about, of how many ``of``, and ``mean``, ``p50``, ``p95``; None where no ``tokens`` are told.
    """
    client, found = open_client(url, plan.model, plan.version, plan.key_file_of(url)), []
    rows = np.unique(np.linspace(0, len(payloads.texts) - 1, TOKEN_TEXTS).astype(int)).tolist()
    try:
        if "tokens" not in {spec.name for spec in client.metadata(_PATIENCE).outputs}:
            return None
        for row in rows:
            pair = payloads.pairs[row] if payloads.pairs else None
            reply = client.send(client.encode(payloads.texts[row], pair, ("tokens",)), time.monotonic() + _PATIENCE)
            if reply.outcome is not Outcome.OK:
                return None
            told = {tensor.name: tensor for tensor in client.read(reply.body).outputs}
            if "tokens" not in told or told["tokens"].shape != (1,):
                return None
            found.append(float(told["tokens"].data[0]))
    except (NlpdeployError, ValueError):
        return None
    finally:
        client.close()
    tokens = np.array(found)
    p50, p95 = quantile(tokens, 0.5), quantile(tokens, 0.95)
    return {"texts": len(rows), "of": len(payloads.texts), "mean": float(tokens.mean()), "p50": p50, "p95": p95}


def first_answer(client: Client, request: bytes) -> tuple[InferResponse, tuple[OutputForm, ...]]:
    """An answer and its form; a server that fails now and then gets some tries.

    Raises:
        EngineFailed: no try was answered as the protocol wants it.
        DeadlineExceeded: none in time.
    """
    failure: NlpdeployError = EngineFailed("the server's first answer")
    for _ in range(_TRIES):
        reply = client.send(request, time.monotonic() + _PATIENCE)
        if reply.outcome is Outcome.TIMEOUT:
            failure = DeadlineExceeded(
                "the server's first answer", found=reply.detail, wanted=f"within {_PATIENCE:g} s"
            )
        elif reply.outcome is not Outcome.OK:
            failure = EngineFailed("the server's first answer", found=f"status {reply.status}: {reply.detail}")
        else:
            try:
                response = client.read(reply.body)
                return response, answer_form(response)
            except NlpdeployError as error:
                failure = EngineFailed(error.line())
    raise failure
