"""The values that prove an engine: parity against the checkpoint, accuracy, latency and its curve.

They are written by ``export/``, stored in the manifest and in ``evidence/``, and read by ``runtime/``, ``serve/`` and
the reports. Times are seconds unless a name says ``_ms``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .compare import Deviation


@dataclass(frozen=True)
class ParityCase:
    """One point of the parity grid.

    Attributes:
        name: what was run, e.g. ``batch 8, length 128, padded`` or ``real texts``.
        output: the output compared, e.g. ``logits``.
        deviation: how far the engine was; infinite where it gave no comparable answer.
        flips: rows whose label differs from the reference's.
        flips_outside_margin: of those, rows where the reference preferred its own label by more than the flip margin.
        passed: within the limits.
        reason: why it did not pass, with the number; None where it did.
    """

    name: str
    output: str
    deviation: Deviation
    flips: int
    flips_outside_margin: int
    passed: bool
    reason: str | None = None


@dataclass(frozen=True)
class Flip:
    """A real row whose label is not the reference's.

    Attributes:
        row: index among the real rows.
        reference: the reference's label (multi-label: the labels that changed).
        engine: the engine's.
        margin: by how much the reference preferred its own, in logits.
        error: largest absolute logit error of the row.
    """

    row: int
    reference: str
    engine: str
    margin: float
    error: float


@dataclass(frozen=True)
class ParityResult:
    """The verdict on one engine's numbers.

    Attributes:
        passed: every case passed.
        reason: the first failure with its number; None where it passed.
        tolerance: largest absolute error allowed on logits, and where it comes from.
        tolerance_source: e.g. ``fp32: 100 x noise floor 3.1e-07, at least 1e-04``.
        flip_margin: the most by which the reference may have preferred its own label where the engine's differs.
        noise_floor: largest difference of the reference to itself between row by row and padded batches.
        rows: real rows compared.
        flips: label flips over the real rows.
        flips_outside_margin: flips over the flip margin, of real rows and of the grid.
        flip_bound: exact (Clopper-Pearson) upper 95 % confidence bound on the flip rate.
        agreement: 1 - flips / rows.
        company: largest difference of a row's logits alone and in mixed company (0.0 where rows are independent).
        max_abs_error: largest absolute logit error over all cases.
        mean_abs_error: mean absolute logit error over the real rows.
        cosine: smallest row cosine over the real rows.
        cases: the grid in full.
        flipped: the flips over the real rows, widest margin first, at most 50.
        error_counts: histogram of the real rows' largest logit errors: (upper edge, rows up to it and above the edge
            before).
        dropped: cases beyond the task that the checkpoint itself could not run, and nobody was asked.
    """

    passed: bool
    reason: str | None
    tolerance: float
    tolerance_source: str
    flip_margin: float
    noise_floor: float
    rows: int
    flips: int
    flips_outside_margin: int
    flip_bound: float
    agreement: float
    company: float
    max_abs_error: float
    mean_abs_error: float
    cosine: float
    cases: tuple[ParityCase, ...] = ()
    flipped: tuple[Flip, ...] = ()
    error_counts: tuple[tuple[float, int], ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """The task's own measure on labelled data, paired with the reference's on the same rows.

    Attributes:
        rows: labelled rows used.
        accuracy: the value of ``measure``; the higher the better, at most 1.
        macro_f1: F1 averaged over classes that occur in data or answers; None for regression.
        drop: the reference's accuracy minus this one (positive: worse).
        drop_high: upper 95 % bound on the drop from the rows on which the two differ.
        measure: ``accuracy``: share of rows with the right label; ``exact match``: share of rows with exactly the right
            set of labels (multi-label); ``R2``: share of the labels' variance that the answers explain (regression).
    """

    rows: int
    accuracy: float
    macro_f1: float | None
    drop: float
    drop_high: float
    measure: str = "accuracy"


@dataclass(frozen=True)
class LatencyCurve:
    """Seconds that one engine call takes, fitted by non-negative least squares over measured points.

    latency(tokens, rows) = base + per_token * tokens + per_row * rows + per_square * tokens^2 / rows

    ``tokens`` counts the elements of the call's tensor: padded rows x longest, so that ``tokens^2 / rows`` is the
    attention's cost; packed the length of the one row, with ``rows`` = 1 however many texts it holds.
    """

    base: float
    per_token: float
    per_row: float
    per_square: float
    points: tuple[tuple[int, int, float], ...] = ()
    """The measured points: (rows, length, median seconds)."""

    def seconds(self, tokens: int, rows: int) -> float:
        """Forecast of one call with ``rows`` rows of ``tokens`` elements altogether."""
        return (
            self.base + self.per_token * tokens + self.per_row * rows + self.per_square * tokens * tokens / max(rows, 1)
        )


@dataclass(frozen=True)
class Latency:
    """Measured speed at batch 1 over the user's own length mix, interleaved with the other engines.

    Attributes:
        p50_ms: median of one text's engine call in milliseconds.
        p95_ms: nearest-rank 95th percentile.
        speedup: the reference's median divided by this one, paired text by text in one run.
        texts_per_second: of one thread, in the batches that the engine's layout makes of 64 texts at a time. A busy
            server runs such threads side by side, one a core.
        samples: calls behind the quantiles.
    """

    p50_ms: float
    p95_ms: float
    speedup: float
    texts_per_second: float
    samples: int

    @property
    def busy_ms(self) -> float:
        """Milliseconds of one core that a text takes where texts come in batches."""
        return 1e3 / self.texts_per_second
