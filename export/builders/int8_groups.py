"""How many values of a token's state share one scale in int8 products, chosen by what it costs in accuracy.

The wider the group, the fewer scales are found and applied: one a token is the fastest. The narrower, the less an
outlier in one channel coarsens the others, which the states of BERT's feed-forward layers are known for (Bondarenko et
al. 2021, https://arxiv.org/abs/2109.12948). How much a model suffers is its own affair, so its own texts are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...bundle.errors import EngineUnavailable
from ...bundle.manifest import EngineEntry
from ...runtime.batching import lay_out
from ...runtime.engine import EngineOptions
from ...runtime.tasks import Floats
from ...runtime.text import Row
from ..grid import evenly
from ..limits import limits, logit_spread

STEP = 16
"""The widest group that is offered is a multiple of it: of BERT's 768 all of them, of TinyBERT's 312 the first 304."""
FIXED_WIDTHS = (256, 128, 64)
"""Offered after the widest; the last is taken where none is near enough."""
ASKED_ROWS = 128
ROWS_A_CALL = 8
SHARE = 0.5
"""Of an int8 engine's limits, so that texts which weren't asked, and padding's larger grid, have the rest."""
ROUNDING = 1e-4
"""Of the logits' spread: answers that are nearer to floats with the same weights were not computed in int8 at all."""


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
        widths: of the states that the int8 products read.

    Raises:
        EngineUnavailable: OpenVINO on this CPU computes some of the products, or all, in floats with any group.
        EngineFailed: OpenVINO can't load or run one of the files.
    """
    from ...runtime.openvino import GROUP_SIZE, PRECISION_HINT

    offered = offered_widths(entry.id, widths)
    asked = sorted(evenly(rows, ASKED_ROWS), key=len)
    want = _logits(replace(entry, options={**entry.options, PRECISION_HINT: "f32"}), exact, asked, pad_id)
    floats = _logits(entry, compressed, asked[-ROWS_A_CALL:], pad_id)
    spread = logit_spread(want)
    allowed = limits("int8", spread=spread, noise_floor=0.0)
    tried: list[str] = []
    for width in offered:
        got = _logits(replace(entry, options={**entry.options, GROUP_SIZE: width}), compressed, asked, pad_id)
        if float(np.abs(got[-ROWS_A_CALL:] - floats).max()) < ROUNDING * spread:
            raise _unavailable(entry.id, f"none with groups of {width}", widths)
        error = np.abs(got - want)
        worst, mean = float(error.max()) / spread, float(error.mean()) / spread
        tried.append(f"{width}: worst error {worst:.2g}, mean {mean:.2g} of the logits' spread")
        if worst <= SHARE * allowed.tolerance / spread and mean <= SHARE * allowed.mean / spread:
            return Group(width, "; ".join(tried))
    return Group(offered[-1], "; ".join(tried))


def offered_widths(engine_id: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Groups with which OpenVINO on this CPU truly computes each of the products in int8, the widest first.

    Args:
        engine_id: of the engine that is being built.
        widths: of the states that the int8 products read.

    Raises:
        EngineUnavailable: there is no such group.
    """
    from ...runtime.openvino import takes_groups

    widest = min(widths) // STEP * STEP
    wanted = [width for width in (widest, *(width for width in FIXED_WIDTHS if width < widest)) if width]
    taken = tuple(group for group in wanted if all(takes_groups(width, group) for width in set(widths)))
    if not taken:
        groups = f"some left in floats with groups of {', '.join(map(str, wanted))}"
        raise _unavailable(engine_id, groups if wanted else f"states too narrow for a group of {STEP}", widths)
    return taken


def _unavailable(engine_id: str, found: str, widths: Sequence[int]) -> EngineUnavailable:
    states = ", ".join(map(str, sorted(set(widths))))
    return EngineUnavailable(
        f"int8 products of engine {engine_id} in OpenVINO on this CPU",
        found=found,
        wanted=f"all {len(widths)}, on states of {states} values",
        mend="onnx-int8 has kernels of its own, and packed rows in f32 need none",
    )


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
