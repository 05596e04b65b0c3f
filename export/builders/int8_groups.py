"""How many values of a token's state share one scale in int8 products, chosen by what it costs in accuracy.

The wider the group, the fewer scales are found and applied: one a token is the fastest. The narrower, the less an
outlier in one channel coarsens the others, which the states of BERT's feed-forward layers are known for (Bondarenko et
al. 2021, https://arxiv.org/abs/2109.12948). How much a model suffers is its own affair, so its own texts are asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...bundle.manifest import EngineEntry
from ...runtime.batching import lay_out
from ...runtime.engine import EngineOptions
from ...runtime.tasks import Floats
from ...runtime.text import Row
from ..grid import evenly
from ..limits import limits, logit_spread

FIXED_WIDTHS = (256, 128, 64)
"""Tried after the widest, which for a BERT is the hidden state's width; the last is taken where none is near enough."""
ASKED_ROWS = 128
ROWS_A_CALL = 8
SHARE = 0.5
"""Of an int8 engine's limits, so that texts which weren't asked, and padding's larger grid, have the rest."""
ROUNDING = 1e-4
"""Of the logits' spread: an answer nearer to fp32's was not computed in int8 at all."""


@dataclass(frozen=True)
class Group:
    """A width and why it was taken.

    Attributes:
        width: values to a scale.
        note: the errors that were measured, in words.
    """

    width: int
    note: str


def widest_group(
    entry: EngineEntry, compressed: Path, exact: Path, rows: Sequence[Row], pad_id: int, widths: Sequence[int]
) -> Group:
    """The widest group with which the engine stays within half of what int8 is allowed, on real rows.

    Args:
        entry: the engine that is being built; its options hold the precision of all that is no int8 product.
        compressed: the .xml with int8 weights.
        exact: the .xml with fp32 weights, which the errors are measured against, computed in fp32.
        rows: real rows, at least one.
        pad_id: of the model.
        widths: of the states that the int8 products read; a group must divide each of them.

    Raises:
        EngineFailed: OpenVINO can't load or run one of the files.
    """
    from ...runtime.openvino import GROUP_SIZE, PRECISION_HINT

    common = math.gcd(*widths)
    asked = sorted(evenly(rows, ASKED_ROWS), key=len)
    want = _logits(replace(entry, options={**entry.options, PRECISION_HINT: "f32"}), exact, asked, pad_id)
    spread = logit_spread(want)
    allowed = limits("int8", spread=spread, noise_floor=0.0)
    tried: list[str] = []
    for width in (common, *(width for width in FIXED_WIDTHS if width < common and common % width == 0)):
        got = _logits(replace(entry, options={**entry.options, GROUP_SIZE: width}), compressed, asked, pad_id)
        error = np.abs(got - want)
        worst, mean = float(error.max()) / spread, float(error.mean()) / spread
        if worst < ROUNDING:
            tried.append(f"{width}: not supported")
            continue
        tried.append(f"{width}: worst error {worst:.2g}, mean {mean:.2g} of the logits' spread")
        if worst <= SHARE * allowed.tolerance / spread and mean <= SHARE * allowed.mean / spread:
            return Group(width, "; ".join(tried))
    return Group(FIXED_WIDTHS[-1], "; ".join(tried))


def _logits(entry: EngineEntry, file: Path, rows: Sequence[Row], pad_id: int) -> Floats:
    """Logits [rows, classes], a few rows to a call."""
    from ...runtime.openvino import load_engine

    engine = load_engine(entry, file, EngineOptions(threads=1))
    try:
        calls = (rows[start : start + ROWS_A_CALL] for start in range(0, len(rows), ROWS_A_CALL))
        feeds = (lay_out(call, entry.layout, entry.inputs, pad_id) for call in calls)
        return np.concatenate([engine.run(feed)["logits"] for feed in feeds])
    finally:
        engine.close()
