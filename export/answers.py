"""What the reference and an engine answer to the same rows; judged nowhere here (see ``parity``).

The reference is asked for each row alone: a padded batch of the reference can itself be wrong, and how far it is from
its rows alone is the noise floor. An engine runs the grid batch by batch, every row of the grid alone, all real texts
in the batches that a server would make, and some of them alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.errors import EngineFailed
from ..bundle.specs import ModelSpec
from ..runtime.batching import lay_out
from ..runtime.calls import batches_of, run_rows
from ..runtime.engine import Engine
from ..runtime.tasks import Floats
from ..runtime.text import Row
from .grid import Case, evenly

Progress = Callable[[str, int, int], None]
ALONE = "every row of the grid alone"
REAL = "real texts"
REAL_ALONE = "real texts alone"
_SAMPLE = 128


@dataclass(frozen=True)
class ReferenceAnswers:
    """What the untouched checkpoint answers, each row alone.

    Attributes:
        grid: the cases that it could run.
        grid_logits: for each case float32 [rows, classes].
        rows: the real rows.
        logits: their answers, float32 [rows, classes].
        noise_floor: largest difference of the reference to itself, padded batches against rows alone.
        dropped: names of cases beyond the task that the reference could not run.
    """

    grid: tuple[Case, ...]
    grid_logits: tuple[Floats, ...]
    rows: tuple[Row, ...]
    logits: Floats
    noise_floor: float
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseAnswers:
    """One batch, or one set of batches: the engine's logits beside the reference's.

    Attributes:
        name: the case's.
        want: float32 [rows, classes].
        got: float32 [rows, classes], not checked for finiteness; None where there was no comparable answer.
        problem: why ``got`` is None.
    """

    name: str
    want: Floats
    got: Floats | None
    problem: str | None = None


@dataclass(frozen=True)
class EngineAnswers:
    """Everything that an engine was asked, and answered.

    Attributes:
        cases: the grid, its rows alone, the real texts, some of them alone.
        logits: the real rows' answers, float32 [rows, classes]; None where a batch failed.
        company: largest difference of a row alone and in company; infinite where one of them is not finite.
    """

    cases: tuple[CaseAnswers, ...]
    logits: Floats | None
    company: float


def reference_answers(
    reference: Engine,
    grid: Sequence[Case],
    rows: Sequence[Row],
    model: ModelSpec,
    *,
    progress: Progress | None = None,
) -> ReferenceAnswers:
    """Ask the reference for every row alone, equal rows once, and measure its noise floor.

    Raises:
        EngineFailed: the reference can't answer a row, or answers NaN: there is nothing to compare with.
    """
    seen: dict[bytes, Floats] = {}
    total = len(rows) + sum(len(case.rows) for case in grid)
    done = 0

    def alone(asked: Sequence[Row]) -> Floats:
        nonlocal done
        for row in asked:
            key = _key(row)
            if key not in seen:
                seen[key] = run_rows(reference, [row], model)
            done += 1
            if progress and (done % 32 == 0 or done == total):
                progress("asking the checkpoint, row by row", done, total)
        return np.concatenate([seen[_key(row)] for row in asked])

    kept: list[Case] = []
    wanted: list[Floats] = []
    dropped: list[str] = []
    for case in grid:
        try:
            wanted.append(alone(case.rows))
        except EngineFailed:
            if not case.beyond_task:
                raise
            dropped.append(case.name)
        else:
            kept.append(case)
    logits = alone(rows)
    batches = [(case.rows, want) for case, want in zip(kept, wanted, strict=True) if len(case.rows) > 1]
    sample = evenly(range(len(rows)), 2 * _SAMPLE)
    for batch in batches_of([len(rows[i]) for i in sample], reference.layout):
        chosen = [sample[i] for i in batch]
        batches.append((tuple(rows[i] for i in chosen), logits[chosen]))
    noise = max((_noise(reference, asked, want, model) for asked, want in batches), default=0.0)
    return ReferenceAnswers(tuple(kept), tuple(wanted), tuple(rows), logits, noise, tuple(dropped))


def engine_answers(
    engine: Engine, answers: ReferenceAnswers, model: ModelSpec, *, progress: Progress | None = None
) -> EngineAnswers:
    """Run the grid, its rows alone, all real rows in the planner's batches, and a sample of them alone."""
    cases = [
        CaseAnswers(case.name, want, *_ask(engine, [case.rows], model))
        for case, want in zip(answers.grid, answers.grid_logits, strict=True)
    ]
    distinct: dict[bytes, tuple[Row, Floats]] = {}
    for case, want in zip(answers.grid, answers.grid_logits, strict=True):
        distinct.update((_key(row), (row, want[i])) for i, row in enumerate(case.rows))
    grid_rows = [row for row, _ in distinct.values()]
    got, problem = _ask(engine, [[row] for row in grid_rows], model)
    alone = dict(zip(distinct, got, strict=True)) if got is not None else {}
    cases.append(CaseAnswers(ALONE, np.stack([want for _, want in distinct.values()]), got, problem))

    order = batches_of([len(row) for row in answers.rows], engine.layout)
    batches = [[answers.rows[i] for i in batch] for batch in order]
    logits, problem = _ask(engine, batches, model, f"comparing {engine.id} with the checkpoint", progress)
    if logits is not None:
        sorted_logits, logits = logits, np.empty_like(logits)
        logits[[i for batch in order for i in batch]] = sorted_logits
    cases.append(CaseAnswers(REAL, answers.logits, logits, problem))

    sample = evenly(range(len(answers.rows)), _SAMPLE)
    got, problem = _ask(engine, [[answers.rows[i]] for i in sample], model)
    cases.append(CaseAnswers(f"{len(sample)} {REAL_ALONE}", answers.logits[sample], got, problem))

    differences = [
        _difference(np.stack([alone[_key(row)] for row in case.rows]), given.got)
        for case, given in zip(answers.grid, cases, strict=False)
        if alone and given.got is not None and len(case.rows) > 1
    ]
    if got is not None and logits is not None:
        differences.append(_difference(got, logits[sample]))
    return EngineAnswers(tuple(cases), logits, max(differences, default=0.0))


def _ask(
    engine: Engine,
    batches: Sequence[Sequence[Row]],
    model: ModelSpec,
    stage: str = "",
    progress: Progress | None = None,
) -> tuple[Floats | None, str | None]:
    """Logits of all batches in order, or None and why there are none that could be compared."""
    total = sum(len(batch) for batch in batches)
    parts: list[Floats] = []
    done = 0
    for batch in batches:
        try:
            outputs = engine.run(lay_out(batch, engine.layout, engine.inputs, model.pad_id))
        except EngineFailed as error:
            return None, error.line()
        logits = outputs.get("logits")
        if logits is None:
            return None, f"no output logits; found {', '.join(outputs) or 'none'}"
        wanted = (len(batch), len(model.labels))
        if logits.shape != wanted:
            return None, f"logits of shape {list(logits.shape)}, wanted {list(wanted)}"
        # An engine may hand out the same memory at every call.
        parts.append(np.array(logits, dtype=np.float32))
        done += len(batch)
        if progress:
            progress(stage, done, total)
    return np.concatenate(parts), None


def _noise(reference: Engine, rows: Sequence[Row], want: Floats, model: ModelSpec) -> float:
    try:
        return _difference(run_rows(reference, rows, model), want)
    except EngineFailed:
        return math.inf  # alone it answers, in a batch it doesn't: no padded answer of it can be trusted


def _difference(one: Floats, other: Floats) -> float:
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.inf
    return float(np.abs(one - other).max())


def _key(row: Row) -> bytes:
    return row.input_ids.tobytes() + b"|" + row.token_type_ids.tobytes()
