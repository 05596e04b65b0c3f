"""Engine calls: rows laid out as the engine wants them, run, checked; many of them in the planner's batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..bundle.evidence import LatencyCurve
from ..bundle.specs import Layout, ModelSpec
from .batching import lay_out, plan, token_budget
from .engine import Engine
from .tasks import Floats, checked_logits
from .text import Row

MAX_ROWS = 32
MAX_TOKENS = token_budget(Layout.PADDED)


def run_batches(
    engine: Engine,
    rows: Sequence[Row],
    model: ModelSpec,
    progress: Callable[[int], None] | None = None,
    curve: LatencyCurve | None = None,
) -> Floats:
    """Logits [rows, classes] in the order of ``rows``, computed in the planner's batches (:func:`batches_of`).

    Args:
        engine: any engine.
        rows: rows in any order.
        model: the model's labels and pad id.
        progress: told the number of rows done after each batch.
        curve: the engine's, where it is known: batches are then those that take the least time together.

    Raises:
        EngineFailed: a non-finite or misshapen answer, or the runtime raised.
    """
    answer = np.empty((len(rows), len(model.labels)), dtype=np.float32)
    done = 0
    for batch in batches_of([len(row) for row in rows], engine.layout, curve):
        answer[batch] = run_rows(engine, [rows[i] for i in batch], model)
        done += len(batch)
        if progress:
            progress(done)
    return answer


def batches_of(lengths: Sequence[int], layout: Layout, curve: LatencyCurve | None = None) -> list[list[int]]:
    """The batches that a layout is run in: of like length where rows are padded, in order where they are packed."""
    return plan(lengths, max_tokens=token_budget(layout), max_rows=MAX_ROWS, layout=layout, curve=curve)


def run_rows(engine: Engine, rows: Sequence[Row], model: ModelSpec) -> Floats:
    """One engine call: lay out, run, check. Logits [rows, classes] in order.

    Raises:
        EngineFailed: a non-finite or misshapen answer, or the runtime raised.
    """
    feed = lay_out(rows, engine.layout, engine.inputs, model.pad_id)
    return checked_logits(engine.run(feed), len(rows), len(model.labels))
