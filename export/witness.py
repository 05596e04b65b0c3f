"""A second witness of a half graph without its hardware: OpenVINO's own half precision, on CPUs that compute in it.

Emulation rounds between nodes; such a CPU rounds as it computes. The two know nothing of each other. The witness is
heard where the whole graph is half, as OpenVINO makes all of a graph half. What it says is recorded; emulation decides.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.errors import EngineFailed, EngineUnavailable
from ..bundle.evidence import ParityResult
from ..bundle.manifest import EngineEntry
from ..bundle.specs import EngineState, Layout, ModelSpec, TensorSpec
from ..runtime.catalogue import RUNTIMES, load_engine
from ..runtime.cores import usable_cores
from ..runtime.engine import EngineOptions
from .answers import ReferenceAnswers, engine_answers
from .builders.openvino import RUNTIME
from .parity import judge_parity
from .request import Progress

HINT = "f16"
CAPABILITY = "FP16"
"""How OpenVINO calls a CPU that computes in half (AVX512-FP16, AMX-FP16, or Arm's)."""


@dataclass(frozen=True)
class Witness:
    """What OpenVINO said of a half graph.

    Attributes:
        silent: why it wasn't asked; None where it was.
        parity: its answers against the checkpoint's; None where it wasn't asked.
    """

    silent: str | None
    parity: ParityResult | None

    def __str__(self) -> str:
        """A line for terminals and reports."""
        if self.parity is None:
            return f"no second witness: {self.silent}"
        told = "agrees" if self.parity.passed else f"DISAGREES, {self.parity.reason}"
        return (
            f"second witness, OpenVINO in {HINT} on this CPU: {told}; {self.parity.agreement:.2%} of the labels, "
            f"max error {self.parity.max_abs_error:.2g} of at most {self.parity.tolerance:.2g}"
        )

    def to_plain(self) -> dict[str, Any]:
        """For ``evidence/precision-fp16.json``."""
        if self.parity is None:
            return {"asked": False, "reason": self.silent}
        error = self.parity.max_abs_error
        return {
            "asked": True,
            "passed": self.parity.passed,
            "reason": self.parity.reason,
            "max_abs_error": error if math.isfinite(error) else None,
            "tolerance": self.parity.tolerance,
            "agreement": self.parity.agreement,
            "rows": self.parity.rows,
        }


def call_witness(
    file: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    answers: ReferenceAnswers,
    model: ModelSpec,
    *,
    kept: Collection[str],
    tolerance: float | None = None,
    hint: str = HINT,
    capabilities: Collection[str] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Witness:
    """Have OpenVINO answer what the checkpoint was asked, from the half graph and in half.

    Args:
        file: the half graph.
        inputs: its inputs.
        outputs: its outputs.
        answers: the checkpoint's.
        model: labels, limits and pad id.
        kept: its nodes that stay in fp32.
        tolerance: an own limit for the largest logit error.
        hint: OpenVINO's precision; anything but ``f16`` shows the way there, and nothing else.
        capabilities: what the CPU computes in; by default OpenVINO is asked.
        progress: told what is going on.
    """
    silent = why_silent(cpu_capabilities() if capabilities is None else capabilities, kept)
    if silent is not None:
        return Witness(silent, None)
    entry = EngineEntry(
        f"openvino-{hint}-witness", RUNTIME, "fp16", Layout.PADDED, EngineState.READY, file=file.name,
        inputs=tuple(inputs), outputs=tuple(outputs), options={"INFERENCE_PRECISION_HINT": hint},
    )  # fmt: skip
    try:
        engine = load_engine(entry, file.parent, EngineOptions(usable_cores()))
    except (EngineUnavailable, EngineFailed) as error:
        return Witness(error.line(), None)
    try:
        given = engine_answers(engine, answers, model, progress=progress)
    finally:
        engine.close()
    return Witness(None, judge_parity(given, "fp16", answers, model, tolerance=tolerance))


def why_silent(capabilities: Collection[str], kept: Collection[str]) -> str | None:
    """Why the witness can't be heard on a CPU with these capabilities; None where it can."""
    if not capabilities:
        return f"OpenVINO is not installed ({RUNTIMES[RUNTIME].install_line()})"
    if CAPABILITY not in capabilities:
        kinds = ", ".join(sorted(name for name in capabilities if name.startswith(("FP", "BF"))))
        return f"OpenVINO computes in {kinds or 'no floats'} on this CPU, not in {CAPABILITY}"
    if kept:
        return f"OpenVINO would make the {len(kept)} nodes half that stay fp32"
    return None


def cpu_capabilities() -> frozenset[str]:
    """What OpenVINO says that this CPU computes in, e.g. ``{"FP32", "BF16", "INT8"}``; empty where it is missing."""
    if not RUNTIMES[RUNTIME].installed():
        return frozenset()
    from ..runtime.openvino import cpu_capabilities as ask

    return ask()
