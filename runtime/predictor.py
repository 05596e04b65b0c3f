"""A bundle, ready to answer in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..bundle.compare import deviation
from ..bundle.digest import verified_manifest
from ..bundle.errors import EngineFailed, EngineUnavailable, InvalidInput
from ..bundle.manifest import EngineEntry, Manifest
from ..bundle.specs import EngineState, ModelSpec, Task
from ..bundle.store import Store
from .calls import run_batches, run_rows
from .catalogue import RUNTIMES, load_engine
from .cores import usable_cores
from .engine import Engine, EngineOptions
from .lanes import WARM_SECONDS, WIDE_WARM_SECONDS, LayoutChoice, compare_wide, fill_cores, side_by_side, warm_up
from .tasks import Floats, decode, top_classes
from .text import Row, TextEncoder

log = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer/tokenizer.json"


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
        layout_choice: how the lanes and the wide engine were chosen, where a server's were.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoder: TextEncoder,
        engine: Engine,
        others: Sequence[Engine] = (),
        wide: Engine | None = None,
        layout_choice: LayoutChoice | None = None,
    ) -> None:
        self.manifest = manifest
        self.encoder = encoder
        self.engine = engine
        self.lanes = (engine, *others)
        self.wide = wide
        self.layout_choice = layout_choice

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
        """Logits [rows, classes] in the order of ``rows``, computed in the batches that take the least time together.

        Raises:
            EngineFailed: a non-finite or misshapen answer.
        """
        curve = next((entry.curve for entry in self.manifest.engines if entry.id == self.engine.id), None)
        return run_batches(self.engine, rows, self.model, curve=curve)

    def close(self) -> None:
        """Free the engine, in every lane and the wide one."""
        for engine in (*self.lanes, *([self.wide] if self.wide else [])):
            engine.close()


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
        threads: intra-op threads of the engine, of each lane; by default what export found fastest for a lone text on
            as many cores as there are here, else all cores; in a lane one, or more where cores are more than lanes.
        exclusive: nothing else runs on the cores, so waiting threads may spin.
        all_lanes: load the engine as often as its threads fit into the cores, for calls side by side, and beside them a
            wide one on all the cores where a measurement says that lone or long texts gain clearly from it; each copy
            holds the model's weights.

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
        opening = _Opening(entry, folder, manifest, exclusive)
        try:
            if all_lanes:
                return _with_lanes(opening, encoder, threads)
            alone = opening.proven(threads or lone_threads(entry, usable_cores()))
            return Predictor(manifest, encoder, alone)
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


@dataclass(frozen=True)
class _Opening:
    """An engine that is about to be loaded."""

    entry: EngineEntry
    folder: Path
    manifest: Manifest
    exclusive: bool

    def proven(self, threads: int) -> Engine:
        """The engine; it has replayed the golden samples, which warms it up too."""
        engine = load_engine(self.entry, self.folder, EngineOptions(threads, self.exclusive))
        try:
            replay_golden(engine, self.entry, self.manifest)
        except BaseException:
            engine.close()
            raise
        return engine

    def warm_up(self, engine: Engine, seconds: float = WARM_SECONDS) -> None:
        """Where the runtime makes kernels for each new shape, :func:`~.lanes.warm_up`."""
        runtime = RUNTIMES.get(self.entry.runtime)
        if runtime is not None and runtime.compiles_shapes:
            warm_up(engine, self.manifest.model, seconds)


def _with_lanes(opening: _Opening, encoder: TextEncoder, threads: int | None) -> Predictor:
    cores = usable_cores()
    count, each = fill_cores(threads or 1, cores)
    layout = LayoutChoice(
        count, threads or each, None, "the threads were named" if threads else "one lane has all cores"
    )

    def open_lane() -> Engine:
        lane = opening.proven(layout.threads)
        try:
            opening.warm_up(lane)
        except BaseException:
            lane.close()
            raise
        return lane

    opened = side_by_side(open_lane, count)
    try:
        wide = None
        if threads is None and count > 1 and opening.manifest.golden:
            wide, layout = _wide(opening, opened[0], cores, layout)
    except BaseException:
        for engine in opened:
            engine.close()
        raise
    return Predictor(opening.manifest, encoder, opened[0], opened[1:], wide, layout)


def _wide(opening: _Opening, lane: Engine, cores: int, layout: LayoutChoice) -> tuple[Engine | None, LayoutChoice]:
    """The wide engine where it pays; where it can't be loaded the lanes serve without it."""
    rows = [golden_row(sample.input_ids, sample.token_type_ids) for sample in opening.manifest.golden]
    wide = None
    try:
        wide = opening.proven(cores)
        layout = compare_wide(lane, wide, rows, opening.manifest.model, layout, cores)
    except (EngineUnavailable, EngineFailed) as error:
        layout = replace(layout, reason=f"an engine on all cores can't be had: {error.line()}")
    if wide and layout.wide is None:
        wide.close()
        wide = None
    elif wide:
        opening.warm_up(wide, WIDE_WARM_SECONDS)
    return wide, layout


def _candidates(manifest: Manifest, engine: str | None) -> list[EngineEntry]:
    first = manifest.engine(engine)
    if engine is not None:
        if first.state is not EngineState.READY:
            raise EngineUnavailable(f"engine {first.id} is {first.state}", found=first.reason, wanted="ready")
        return [first]
    others = [entry for entry in manifest.engines if entry.id != first.id]
    return [entry for entry in [first, *others] if entry.state is EngineState.READY]
