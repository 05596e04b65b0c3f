"""All samples of a run by part, measure and way, one value a round: what tables and verdicts are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from ..samples import Spread, spread


class Book:
    """Samples by (part, measure, way); the order of adding is the order of the rounds.

    A part is e.g. ``16 clients``, a measure ``rate``, a way ``ours, HTTP predict``.
    """

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str, str], list[float]] = defaultdict(list)

    def add(self, part: str, way: str, **measures: float | None) -> None:
        """Note the measures of one round; None is no measure."""
        for measure, value in measures.items():
            if value is not None:
                self._samples[part, measure, way].append(float(value))

    def samples(self, part: str, measure: str, way: str) -> list[float]:
        """One value a round; empty where nothing was measured."""
        return self._samples.get((part, measure, way), [])

    def spread(self, part: str, measure: str, way: str) -> Spread | None:
        """The samples summed up; None where there are none."""
        found = self.samples(part, measure, way)
        return spread(found) if found else None

    def median(self, part: str, measure: str, way: str) -> float | None:
        """The samples' median; None where there are none."""
        found = self.spread(part, measure, way)
        return found.median if found else None

    def ways(self, part: str, measure: str, among: Sequence[str]) -> list[str]:
        """Those of ``among`` that have samples."""
        return [way for way in among if self.samples(part, measure, way)]

    def best(self, part: str, measure: str, among: Sequence[str], *, most: bool) -> str | None:
        """The way with the best median; None where none has samples."""
        found = {way: self.median(part, measure, way) or 0.0 for way in self.ways(part, measure, among)}
        if not found:
            return None
        return (max if most else min)(found, key=found.__getitem__)

    def plain(self) -> dict[str, dict[str, dict[str, object]]]:
        """By part, measure and way: the samples and their spread, for JSON."""
        plain: dict[str, dict[str, dict[str, object]]] = {}
        for (part, measure, way), values in self._samples.items():
            entry = {**asdict(spread(values)), "samples": values}
            plain.setdefault(part, {}).setdefault(measure, {})[way] = entry
        return plain
