"""What runs in a worker of TorchServe: requests in, one answer each out, whatever becomes of the others.

TorchServe calls ``initialize`` once and ``handle`` with a list of requests, and wants a list as long back. An exception
fails every request of the list, so each error is kept to the request that it belongs to, with its own HTTP status.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

from ..bundle.errors import EngineFailed, InvalidInput, NlpdeployError, Unsupported
from ..runtime.cores import usable_cores
from ..runtime.predictor import Predictor, golden_row, load
from ..runtime.tasks import Floats
from ..runtime.text import Row
from . import replies
from .bodies import Question, asked_otherwise, came_by_protocol_grpc, check_outputs, read_question
from .metrics import WorkerMetrics
from .sealed import BUNDLE_FOLDER, check_sealed
from .settings import WorkerSettings, read_worker_settings

log = logging.getLogger(__name__)
T = TypeVar("T")

FAILED_MARK = "nlpdeploy: the model can't start: "
"""Begins the line in the worker's log that says why; the launcher looks for it."""


class BundleHandler:
    """Answers with an engine of the bundle that lies in the archive.

    The answer to a request is JSON in the form in which it asked: an object with the task's default outputs for one
    text, ``{"predictions": […]}`` for a list, an inference response for the Open Inference Protocol. An error is
    ``{"error": …, "code": …, "type": …}`` with that HTTP status.
    """

    def __init__(self) -> None:
        self._predictor: Predictor | None = None
        self._metrics: WorkerMetrics | None = None
        self._parameters: dict[str, Any] = {}
        self._description = b""

    def initialize(self, context: Any) -> None:
        """Check every file, load the engine, replay the golden samples, warm up; TorchServe says READY after this.

        Args:
            context: TorchServe's; its ``model_yaml_config`` is what the archive was packed with.

        Raises:
            RuntimeError: the model can't serve here; the log has one line that says why.
        """
        folder = Path(context.system_properties["model_dir"])
        try:
            check_sealed(folder)
            settings = read_worker_settings(context.model_yaml_config or {})
            threads = settings.threads or max(1, usable_cores() // settings.workers)
            predictor = self.load(folder, settings, threads)
            warm_up(predictor, _batch_size(context))
        except NlpdeployError as error:
            log.error("%s%s", FAILED_MARK, error.line())
            raise RuntimeError(error.line()) from error
        self.serve_with(predictor, context)
        log.info("nlpdeploy: %s ready on %d threads", predictor.engine.id, threads)

    def load(self, folder: Path, settings: WorkerSettings, threads: int) -> Predictor:
        """The predictor that an unpacked archive holds.

        Raises:
            NlpdeployError: it can't serve here.
        """
        return load(folder / BUNDLE_FOLDER, engine=settings.engine, threads=threads)

    def serve_with(self, predictor: Predictor, context: Any) -> None:
        """Answer with this predictor from now on."""
        manifest = predictor.manifest
        self._predictor = predictor
        self._metrics = WorkerMetrics(getattr(context, "metrics", None))
        self._parameters = {
            "bundle_digest": manifest.derived_from or manifest.digest,
            "engine": predictor.engine.id,
        }
        self._description = replies.description(
            manifest,
            predictor.engine.id,
            version=_version(context),
            workers=read_worker_settings(context.model_yaml_config or {}).workers,
            batch_size=_batch_size(context),
        )

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch.

        Args:
            data: parameters by name, one mapping a request.
            context: TorchServe's; takes the status and the content type of each answer.

        Returns:
            JSON, one for each request, in order.
        """
        if self._predictor is None or self._metrics is None:
            raise RuntimeError("initialize has not been called")
        batch = _Batch(self._predictor, data, context)
        begun = time.perf_counter()
        batch.encode()
        encoded = time.perf_counter()
        batch.compute()
        inferred = time.perf_counter()
        answers = [self._reply(batch, index) for index in range(len(data))]
        if batch.logits:
            self._metrics.batch(encoded - begun, inferred - encoded, batch.tokens(), batch.texts())
        return answers

    def _reply(self, batch: _Batch, index: int) -> bytes:
        context, name, version = batch.context, batch.context.model_name, _version(batch.context)
        context.set_response_content_type(index, replies.CONTENT_TYPE)
        if index in batch.described:
            return self._description
        outcome = batch.outcome(index)
        if not isinstance(outcome, NlpdeployError):
            question, rows, logits = outcome
            model = batch.predictor.model
            said = self._parameters
            return replies.answer(question, logits, rows, model, name=name, version=version, parameters=said)
        if came_by_protocol_grpc(batch.data[index], batch.headers[index]):
            return replies.refusal_by_protocol(outcome, str(batch.data[index]["body"].get("id") or ""), name, version)
        context.set_response_status(code=replies.status_of(outcome), phrase=type(outcome).__name__, idx=index)
        return replies.refusal(outcome)


Outcome = tuple[Question, list[Row], Floats] | NlpdeployError


class _Batch:
    """The requests of one call on their way; each is a question, then rows, then logits, or an error that stays."""

    def __init__(self, predictor: Predictor, data: Sequence[Mapping[str, Any]], context: Any) -> None:
        self.predictor, self.data, self.context = predictor, data, context
        self.headers = [context.get_all_request_header(index) for index in range(len(data))]
        self.described: set[int] = set()
        self.errors: dict[int, NlpdeployError] = {}
        self.questions: dict[int, Question] = {}
        self.rows: dict[int, list[Row]] = {}
        self.logits: dict[int, Floats] = {}

    def encode(self) -> None:
        """Read and tokenise: all in one call, and one by one only where a request spoils it for all."""
        known = [spec.name for spec in self.predictor.model.outputs()]
        for index, item in enumerate(self.data):
            with self._keep(index):
                asked = asked_otherwise(self.headers[index])
                if asked == "describe":
                    self.described.add(index)
                    continue
                if asked:
                    raise Unsupported("explanations of answers", mend="ask /predictions")
                question = read_question(item, self.headers[index])
                check_outputs(question.outputs, known)
                self.questions[index] = question
        self.rows = self._for_all(list(self.questions), self._encoded)

    def compute(self) -> None:
        """Logits of all rows in the planner's batches, and request by request only where one spoils it for all."""
        self.logits = self._for_all(list(self.rows), self._computed)

    def outcome(self, index: int) -> Outcome:
        """What came of a request that asked for answers."""
        if index in self.errors:
            return self.errors[index]
        return self.questions[index], self.rows[index], self.logits[index]

    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row) for rows in self.rows.values() for row in rows)

    def texts(self) -> int:
        """Number of rows."""
        return sum(map(len, self.rows.values()))

    def _for_all(self, indices: Sequence[int], step: Callable[[Sequence[int]], dict[int, T]]) -> dict[int, T]:
        """A step's results for these requests together; where that fails, for each alone, its error kept."""
        if not indices:
            return {}
        try:
            return step(indices)
        except NlpdeployError:
            pass
        except Exception:
            log.exception("nlpdeploy: a batch failed in an unforeseen way")
        found: dict[int, T] = {}
        for index in indices:
            with self._keep(index):
                found.update(step([index]))
        return found

    def _encoded(self, indices: Sequence[int]) -> dict[int, list[Row]]:
        asked = [self.questions[index] for index in indices]
        paired = sum(question.pairs is not None for question in asked)
        if paired not in (0, len(asked)):
            raise InvalidInput("text_pair", found=f"in {paired} of {len(asked)} requests of the batch")
        texts = [text for question in asked for text in question.texts]
        pairs = [text for question in asked for text in question.pairs or ()]
        rows = iter(self.predictor.encode(texts, pairs if paired else None))
        return {index: list(islice(rows, len(self.questions[index].texts))) for index in indices}

    def _computed(self, indices: Sequence[int]) -> dict[int, Floats]:
        logits = self.predictor.logits([row for index in indices for row in self.rows[index]])
        begin, found = 0, {}
        for index in indices:
            end = begin + len(self.rows[index])
            found[index] = logits[begin:end]
            begin = end
        return found

    @contextlib.contextmanager
    def _keep(self, index: int) -> Iterator[None]:
        try:
            yield
        except NlpdeployError as error:
            self.errors[index] = error
        except Exception:
            log.exception("nlpdeploy: a request failed in an unforeseen way")
            self.errors[index] = EngineFailed("internal error; the server's log has more")


def warm_up(predictor: Predictor, batch_size: int) -> None:
    """Run the golden rows alone and as a full batch, so that no request pays for a shape's first time."""
    rows = [golden_row(sample.input_ids, sample.token_type_ids) for sample in predictor.manifest.golden]
    if rows:
        predictor.logits(rows[:1])
        predictor.logits(list(islice(cycle(rows), max(1, batch_size))))


def _batch_size(context: Any) -> int:
    return int(context.system_properties.get("batch_size") or 1)


def _version(context: Any) -> str:
    manifest = context.manifest or {}
    return str(manifest.get("model", {}).get("modelVersion") or "1")
