"""An engine asked and judged at one go, as the pipeline does it in two."""

from __future__ import annotations

from nlpdeploy.bundle.evidence import ParityResult
from nlpdeploy.bundle.specs import ModelSpec
from nlpdeploy.export.parity import ReferenceAnswers, engine_answers, judge_parity
from nlpdeploy.runtime.engine import Engine


def check_parity(
    engine: Engine, precision: str, answers: ReferenceAnswers, model: ModelSpec, *, tolerance: float | None = None
) -> ParityResult:
    """Ask the engine what the reference was asked, and judge."""
    return judge_parity(engine_answers(engine, answers, model), precision, answers, model, tolerance=tolerance)
