"""Which nodes of a graph must stay in fp32 for its half to answer as the checkpoint does, and what proves it.

The half graph is emulated and held against the checkpoint's answers. Where it fails, the ranges of the fp32 graph's
tensors on real text say which nodes to suspect; what can be spared of them is taken out again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bundle.errors import EngineFailed
from ..bundle.evidence import ParityResult
from ..bundle.specs import ModelSpec, TensorSpec
from ..runtime.text import Row
from .answers import EngineAnswers, ReferenceAnswers, engine_answers
from .emulate import Emulator
from .grid import Case, evenly
from .limits import limits, logit_spread
from .parity import judge_parity
from .passes.half_types import touches_float
from .passes.rounding import Precision
from .passes.standard import all_nodes, load_standard
from .precision_choice import KeptNode, PrecisionChoice
from .precision_search import Shrunk, Trials, first_passing, shrink
from .precision_suspects import Suspicion, headroom, stages, suspicions
from .ranges import RangeTrace, trace_feeds, trace_ranges

if TYPE_CHECKING:
    import onnx_ir as ir

SAMPLE_ROWS = 64
SAMPLE_TOKENS = 512
"""Tokens of a grid case, padding included, up to which the search asks it; all cases are asked in the end."""
QUICK_ROWS = 8
MOST_EVALUATIONS = 36
ROUNDS = 3
"""How often rows that fail in the end are taken into the sample and the search goes on."""

Progress = Callable[[str, int, int], None]


def choose_precision(
    file: Path,
    answers: ReferenceAnswers,
    model: ModelSpec,
    *,
    precision: Precision = "fp16",
    engine_id: str = "tensorrt-fp16",
    threads: int = 1,
    tolerance: float | None = None,
    most_evaluations: int = MOST_EVALUATIONS,
    progress: Progress = lambda stage, done, total: None,
) -> PrecisionChoice:
    """Find the nodes to keep in fp32.

    Args:
        file: fp32 graph of standard operators.
        answers: the checkpoint's.
        model: labels, limits and pad id.
        precision: the half type.
        engine_id: the id that emulated engines go by.
        threads: intra-op threads.
        tolerance: an own limit for the largest logit error.
        most_evaluations: emulated graphs that may be tried on a sample, the last full comparisons left out.
        progress: told what is going on.

    Returns:
        The choice; its parity has passed.

    Raises:
        EngineFailed: no set of nodes makes it pass, with the numbers of the nearest try.
        NlpdeployError: the graph can't be made half; see ``passes.half.to_half``.
    """
    graph = load_standard(file)
    emulator = Emulator(graph, precision, engine_id=engine_id, threads=threads)
    bench = _Bench(emulator, answers, model, precision, tolerance, progress)
    trials = Trials(bench.fails, most_evaluations)
    half_alone = trials.ask(())
    found: dict[str, Suspicion] = {}
    trace: RangeTrace | None = None
    shrunk = Shrunk((), {}, minimal=True)
    for _ in range(ROUNDS):
        if half_alone is not None:
            trace = _trace(graph, bench, precision, threads, progress)
            found = suspicions(graph, trace, precision, emulator.roundings)
            shrunk = _search(graph, found, trials)
        full, conversion = bench.full(shrunk.names)
        if full.passed:
            break
        half_alone = half_alone or full.reason
        bench.take_in_failures()
        trials.forget()
    else:
        raise EngineFailed(
            f"{precision} with {len(shrunk.names)} nodes in fp32, emulated", found=full.reason,
            wanted="answers like the checkpoint's", mend="take an engine in fp32 or bf16",
        )  # fmt: skip
    ops = {str(node.name): node.op_type for node in all_nodes(graph)}
    kept = tuple(
        KeptNode(name, ops[name], found[name].why if name in found else "inside of a suspect", shrunk.without.get(name))
        for name in shrunk.names
    )
    nodes = sum(touches_float(node) for node in all_nodes(graph))
    if trace is None:
        trace = _trace(graph, bench, precision, threads, progress)
    return PrecisionChoice(
        precision, kept, nodes, half_alone, trials.spent + bench.fulls, shrunk.minimal, full, conversion,
        headroom(graph, trace, precision, but=frozenset(shrunk.names)),
    )  # fmt: skip


def _trace(graph: ir.Model, bench: _Bench, precision: Precision, threads: int, progress: Progress) -> RangeTrace:
    inputs = tuple(TensorSpec(str(value.name), "INT64", (-1, -1)) for value in graph.graph.inputs)
    feeds = trace_feeds(bench.rows, inputs, bench.model.pad_id)
    return trace_ranges(graph, feeds, precision=precision, threads=threads, progress=progress)


def _search(graph: ir.Model, found: dict[str, Suspicion], trials: Trials) -> Shrunk:
    wide = first_passing(stages(graph, found), trials)
    if wide is None:
        raise EngineFailed(
            "half precision, emulated", found=f"{trials.last}; {trials.spent} sets of nodes tried in fp32",
            wanted="a set of nodes in fp32 with which it answers as the checkpoint does",
        )  # fmt: skip
    return shrink(wide, trials)


class _Bench:
    """What a set of nodes is worth: on a sample while it is searched, on everything in the end."""

    def __init__(
        self,
        emulator: Emulator,
        answers: ReferenceAnswers,
        model: ModelSpec,
        precision: Precision,
        tolerance: float | None,
        progress: Progress,
    ) -> None:
        self.emulator = emulator
        self.model = model
        self.fulls = 0
        self._answers = answers
        self._precision = precision
        self._tolerance = tolerance
        self._progress = progress
        self._tried = 0
        # The spread of a few rows' logits is not that of all.
        spread = logit_spread(answers.logits)
        allowed = limits(precision, spread=spread, noise_floor=answers.noise_floor, tolerance=tolerance)
        self._whole_tolerance = allowed.tolerance
        self._last: EngineAnswers | None = None
        self._last_parity: ParityResult | None = None
        self._sample = _sample(answers, evenly(range(len(answers.rows)), SAMPLE_ROWS), _small_cases(answers))

    @property
    def rows(self) -> list[Row]:
        """The sample's rows, those of the grid among them."""
        return [*self._sample.rows, *(row for case in self._sample.grid for row in case.rows)]

    def fails(self, keep: frozenset[str]) -> str | None:
        """Why half precision with these nodes in fp32 doesn't pass on the sample; None where it does."""
        self._tried += 1
        self._progress("looking for the nodes that need fp32", self._tried, 0)
        engine, _ = self.emulator.engine(keep)
        try:
            # Most sets that don't pass are far off: a few rows show it.
            quick = _sample(self._sample, evenly(range(len(self._sample.rows)), QUICK_ROWS), [0])
            for answers, tolerance in ((quick, self._whole_tolerance), (self._sample, self._tolerance)):
                given = engine_answers(engine, answers, self.model)
                parity = judge_parity(given, self._precision, answers, self.model, tolerance=tolerance)
                if not parity.passed:
                    return parity.reason
        finally:
            engine.close()
        return None

    def full(self, keep: Sequence[str]) -> tuple[ParityResult, str]:
        """Parity over everything, and what became of the graph."""
        self.fulls += 1
        engine, report = self.emulator.engine(keep)
        self._last = engine_answers(engine, self._answers, self.model, progress=self._progress)
        engine.close()
        self._last_parity = judge_parity(
            self._last, self._precision, self._answers, self.model, tolerance=self._tolerance
        )
        return self._last_parity, str(report)

    def take_in_failures(self) -> None:
        """Add the rows and cases that the last full comparison failed on to the sample."""
        assert self._last is not None  # noqa: S101 - a full comparison comes before
        assert self._last_parity is not None  # noqa: S101
        failed = {case.name for case in self._last_parity.cases if not case.passed}
        taken = {case.name for case in self._sample.grid}
        cases = [index for index, case in enumerate(self._answers.grid) if case.name in taken or case.name in failed]
        rows = evenly(range(len(self._answers.rows)), SAMPLE_ROWS)
        if self._last.logits is not None:
            errors = np.abs(self._last.logits.astype(np.float64) - self._answers.logits).max(axis=1)
            errors[np.isnan(errors)] = np.inf
            rows = sorted({*rows, *(int(i) for i in np.argsort(-errors)[: SAMPLE_ROWS // 2])})
        self._sample = _sample(self._answers, rows, cases)


def _small_cases(answers: ReferenceAnswers) -> list[int]:
    sizes = [len(case.rows) * max(len(row) for row in case.rows) for case in answers.grid]
    return [index for index, size in enumerate(sizes) if size <= SAMPLE_TOKENS]


def _sample(answers: ReferenceAnswers, rows: Sequence[int], cases: Sequence[int]) -> ReferenceAnswers:
    """Some of the rows, some of the grid."""
    grid: tuple[Case, ...] = tuple(answers.grid[i] for i in cases)
    return replace(
        answers,
        grid=grid,
        grid_logits=tuple(answers.grid_logits[i] for i in cases),
        rows=tuple(answers.rows[i] for i in rows),
        logits=answers.logits[list(rows)],
    )
