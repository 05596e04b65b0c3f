"""A bundle, ready to answer in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bundle.compare import deviation
from ..bundle.digest import verified_manifest
from ..bundle.errors import EngineFailed, EngineUnavailable, InvalidInput
from ..bundle.manifest import EngineEntry, Manifest
from ..bundle.specs import EngineState, Layout, ModelSpec, Task
from ..bundle.store import Store
from .batching import lay_out, plan, token_budget
from .catalogue import load_engine
from .cores import usable_cores
from .engine import Engine, EngineOptions
from .tasks import Floats, checked_logits, decode, top_classes
from .text import Row, TextEncoder

log = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer/tokenizer.json"
MAX_ROWS = 32
MAX_TOKENS = token_budget(Layout.PADDED)
MAX_LANES = 4
"""Each lane holds the weights once more."""


@dataclass(frozen=True)
class Answer:
    """One text's answer.

    Attributes:
        label: the winning label; None for regression.
        score: its score, or the regression's value.
        scores: by label; empty for regression.
        truncated: whether the text was cut.
    """

    label: str | None
    score: float
    scores: dict[str, float]
    truncated: bool


class Predictor:
    """Answers texts with one engine of a bundle.

    Args:
        manifest: the bundle's manifest.
        encoder: its tokenizer.
        engine: a loaded engine; any that keeps the contract, the PyTorch reference too.
        others: the same engine loaded again, for a server that runs several calls at once.
        wide: the same engine on all the cores, for a lone or long request while no lane runs; None where that gains
            nothing.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoder: TextEncoder,
        engine: Engine,
        others: Sequence[Engine] = (),
        wide: Engine | None = None,
    ) -> None:
        self.manifest = manifest
        self.encoder = encoder
        self.engine = engine
        self.lanes = (engine, *others)
        self.wide = wide

    @property
    def model(self) -> ModelSpec:
        """Task, labels and limits."""
        return self.manifest.model

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Answer]:
        """Answer texts, or pairs of them.

        Raises:
            InvalidInput: a plain string instead of a list, or pairs given or missing against the model's kind.
            EngineFailed: a non-finite or misshapen answer.
        """
        if isinstance(texts, str):
            raise InvalidInput("texts", found="one string", wanted="a list of strings")
        rows = self.encode(texts, pairs)
        outputs = decode(self.logits(rows), self.model)
        labels, scores = outputs.get("label"), outputs.get("scores")
        return [
            Answer(
                label=None if labels is None else str(labels[i]),
                score=float(outputs["score"][i]),
                scores={} if scores is None else dict(zip(self.model.labels, map(float, scores[i]), strict=True)),
                truncated=row.truncated,
            )
            for i, row in enumerate(rows)
        ]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        """Tokenise, after checking that pairs come exactly where the model wants them.

        Raises:
            InvalidInput: they don't, or a text can't be encoded.
        """
        if (pairs is not None) != self.model.pair:
            raise InvalidInput("text_pair", found=pairs and "given", wanted="given" if self.model.pair else "absent")
        return self.encoder.encode(texts, pairs)

    def logits(self, rows: Sequence[Row]) -> Floats:
        """Logits [rows, classes] in the order of ``rows``, computed in batches of like length.

        Raises:
            EngineFailed: a non-finite or misshapen answer.
        """
        return run_batches(self.engine, rows, self.model)

    def close(self) -> None:
        """Free the engine, in every lane and the wide one."""
        for engine in (*self.lanes, *([self.wide] if self.wide else [])):
            engine.close()


def run_batches(
    engine: Engine, rows: Sequence[Row], model: ModelSpec, progress: Callable[[int], None] | None = None
) -> Floats:
    """Logits [rows, classes] in the order of ``rows``, computed in the planner's batches of like length.

    Args:
        engine: any engine.
        rows: rows in any order.
        model: the model's labels and pad id.
        progress: told the number of rows done after each batch.

    Raises:
        EngineFailed: a non-finite or misshapen answer, or the runtime raised.
    """
    answer = np.empty((len(rows), len(model.labels)), dtype=np.float32)
    done = 0
    for batch in batches_of([len(row) for row in rows], engine.layout):
        answer[batch] = run_rows(engine, [rows[i] for i in batch], model)
        done += len(batch)
        if progress:
            progress(done)
    return answer


def batches_of(lengths: Sequence[int], layout: Layout) -> list[list[int]]:
    """The batches that a layout is run in: of like length where rows are padded, in order where they are packed."""
    return plan(lengths, max_tokens=token_budget(layout), max_rows=MAX_ROWS, layout=layout)


def run_rows(engine: Engine, rows: Sequence[Row], model: ModelSpec) -> Floats:
    """One engine call: lay out, run, check. Logits [rows, classes] in order.

    Raises:
        EngineFailed: a non-finite or misshapen answer, or the runtime raised.
    """
    feed = lay_out(rows, engine.layout, engine.inputs, model.pad_id)
    return checked_logits(engine.run(feed), len(rows), len(model.labels))


def load(
    bundle: str | Path,
    *,
    engine: str | None = None,
    threads: int | None = None,
    exclusive: bool = False,
    all_lanes: bool = False,
) -> Predictor:
    """Load a bundle: verify every file, load an engine, replay the golden samples.

    Args:
        bundle: folder of a version (``model_store/intent/3``) or of a name (``model_store/intent``: the version that
            serves).
        engine: id of an engine; by default the bundle's. A default engine that can't run on this machine is replaced by
            the next ready one that can.
        threads: intra-op threads of one lane; by default what export found fastest for a lone text on as many cores as
            there are here, else all cores.
        exclusive: nothing else runs on the cores, so waiting threads may spin.
        all_lanes: load the engine as often as its threads fit into the cores, for calls side by side; each copy holds
            the model's weights.

    Raises:
        NotFound: no bundle there, or no such engine.
        CorruptBundle: files extra, missing or changed.
        EngineUnavailable, EngineFailed: the engine can't be loaded, or it doesn't reproduce the golden samples here.
    """
    folder = bundle_folder(Path(bundle))
    manifest = verified_manifest(folder)
    encoder = TextEncoder(folder / TOKENIZER_FILE, manifest.model.max_length)
    failures = []
    for entry in _candidates(manifest, engine):
        cores = usable_cores()
        wished = threads or lone_threads(entry, cores)
        lanes, filled = fill_cores(wished, cores) if all_lanes else (1, wished)
        options = EngineOptions(threads or filled, exclusive)
        try:
            first, *others = _proven_lanes(entry, folder, manifest, options, lanes)
            return Predictor(manifest, encoder, first, others)
        except (EngineUnavailable, EngineFailed) as error:
            if engine is not None:
                raise
            failures.append(f"{entry.id}: {error}")
            log.warning("engine %s can't serve here, the next one takes over: %s", entry.id, error)
    raise EngineUnavailable(f"no engine of {manifest.name} runs here", found=" | ".join(failures) or "none ready")


def lone_threads(entry: EngineEntry, cores: int) -> int:
    """Threads that answer a lone text fastest: as export measured, where it had as many cores; else all of them."""
    threads = entry.options.get("lone_threads")
    return int(threads) if threads and entry.options.get("cores") == cores else cores


def fill_cores(threads: int, cores: int) -> tuple[int, int]:
    """Lanes that fill the cores, and the threads of each: as many as wished, or more where lanes would be too many."""
    lanes = min(max(1, cores // threads), MAX_LANES)
    return lanes, max(threads, cores // lanes)


def bundle_folder(path: Path) -> Path:
    """The version folder meant by ``path``, which is one itself or a model's folder in a store.

    Raises:
        NotFound: neither.
    """
    if (path / "bundle.json").is_file() or not path.name or path.name.isdecimal():
        return path
    return Store(path.parent).resolve(path.name).path


def replay_golden(engine: Engine, entry: EngineEntry, manifest: Manifest) -> None:
    """Run the golden rows one by one and compare with the reference as parity does.

    Raises:
        EngineFailed: an answer is off by more than the engine's own tolerance: this machine or its driver doesn't
            compute what was proven.
    """
    if not manifest.golden:
        return
    model = manifest.model
    rows = [golden_row(sample.input_ids, sample.token_type_ids) for sample in manifest.golden]
    got = np.concatenate([run_rows(engine, [row], model) for row in rows])
    want = np.array([sample.logits for sample in manifest.golden], dtype=np.float32)
    tolerance = entry.parity.tolerance if entry.parity else 0.0
    reason = deviation(got, want).reason(tolerance)
    flips = int((top_classes(got) != top_classes(want)).sum()) if model.task is not Task.REGRESSION else 0
    if reason:
        raise EngineFailed(
            f"engine {entry.id} does not reproduce its golden samples on this machine",
            found=f"{reason}, {flips} of {len(rows)} labels differ",
            mend="choose another with --engine, or export on this machine",
        )


def golden_row(input_ids: Iterable[int], token_type_ids: Iterable[int]) -> Row:
    """A row from stored ids."""
    return Row(np.array(tuple(input_ids), dtype=np.int64), np.array(tuple(token_type_ids), dtype=np.int64))


def _proven_lanes(
    entry: EngineEntry, folder: Path, manifest: Manifest, options: EngineOptions, count: int
) -> list[Engine]:
    """The engine, loaded so many times; each has replayed the golden samples, which warms it up too."""
    lanes: list[Engine] = []
    try:
        for _ in range(count):
            lanes.append(load_engine(entry, folder, options))
            replay_golden(lanes[-1], entry, manifest)
    except BaseException:
        for engine in lanes:
            engine.close()
        raise
    return lanes


def _candidates(manifest: Manifest, engine: str | None) -> list[EngineEntry]:
    first = manifest.engine(engine)
    if engine is not None:
        if first.state is not EngineState.READY:
            raise EngineUnavailable(f"engine {first.id} is {first.state}", found=first.reason, wanted="ready")
        return [first]
    others = [entry for entry in manifest.engines if entry.id != first.id]
    return [entry for entry in [first, *others] if entry.state is EngineState.READY]
