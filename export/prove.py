"""``models prove``: engines that were built for other hardware, proven on it, and published as a new version."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..bundle.digest import verified_manifest
from ..bundle.errors import EngineUnavailable, InvalidInput, ParityFailed
from ..bundle.manifest import MANIFEST_NAME, EngineEntry, Manifest, to_plain
from ..bundle.names import Reference
from ..bundle.specs import EngineState
from ..bundle.store import Store
from ..runtime.catalogue import load_engine
from ..runtime.cores import usable_cores
from ..runtime.engine import Engine, EngineOptions
from .answers import ReferenceAnswers
from .curve_fit import fit_curve
from .parity import engine_answers, judge_parity
from .replay import read_replay
from .report import write_report
from .request import Progress

CURVE_SECONDS = 4.0


@dataclass(frozen=True)
class Proof:
    """What became of a bundle's unproven engines.

    Attributes:
        reference: the version with the proven engines.
        manifest: its manifest, sealed.
        proven: ids that are ready now.
        elsewhere: by id why an engine is still unproven: it is for other hardware.
    """

    reference: Reference
    manifest: Manifest
    proven: tuple[str, ...]
    elsewhere: dict[str, str]


def prove(
    store: Store,
    spec: str,
    *,
    engines: Sequence[str] = (),
    promote: bool = True,
    progress: Progress = lambda stage, done, total: None,
) -> Proof:
    """Run the parity grid and all real texts on every unproven engine that this machine can load.

    Args:
        store: where the bundle is and the proven version goes.
        spec: name, or name and version.
        engines: ids to prove; by default all that are unproven.
        promote: make the proven version the one that serves.
        progress: told what is going on.

    Raises:
        InvalidInput: nothing to prove, or an id that isn't unproven.
        EngineUnavailable: this machine has the hardware of none of them.
        EngineFailed: one can't be loaded on its own hardware.
        ParityFailed: one answers too far from the checkpoint; nothing is published.
        NlpdeployError: the bundle or the store can't be read or written.
    """
    reference = store.resolve(spec)
    manifest = verified_manifest(reference.path)
    asked = _asked(manifest, spec, engines)
    answers = read_replay(reference.path)
    proven: dict[str, EngineEntry] = {}
    elsewhere: dict[str, str] = {}
    for entry in asked:
        try:
            engine = load_engine(entry, reference.path, EngineOptions(usable_cores()))
        except EngineUnavailable as error:
            elsewhere[entry.id] = error.line()
            continue
        try:
            proven[entry.id] = _proven(entry, engine, manifest, answers, progress)
        finally:
            engine.close()
    if not proven:
        raise EngineUnavailable(
            f"{reference}: none of its unproven engines runs on this machine",
            found=next(iter(elsewhere.values())),
            wanted=f"a machine for one of {', '.join(elsewhere)}",
        )
    published = _publish(store, reference.path, manifest, proven, promote)
    return Proof(published, store.manifest(str(published)), tuple(proven), elsewhere)


def _asked(manifest: Manifest, spec: str, engines: Sequence[str]) -> list[EngineEntry]:
    unproven = [entry for entry in manifest.engines if entry.state is EngineState.UNPROVEN]
    known = {entry.id for entry in unproven}
    for name in engines:
        if name not in known:
            raise InvalidInput("--engine", found=name, wanted=f"one of {', '.join(sorted(known)) or 'none'}")
    if not unproven:
        raise InvalidInput(f"prove {spec}", found="no unproven engine", wanted="one that was built with --gpu")
    return [entry for entry in unproven if not engines or entry.id in engines]


def _proven(
    entry: EngineEntry, engine: Engine, manifest: Manifest, answers: ReferenceAnswers, progress: Progress
) -> EngineEntry:
    model = manifest.model
    given = engine_answers(engine, answers, model, progress=progress)
    # The tolerance is the one that the export was told, or took.
    tolerance = entry.parity.tolerance if entry.parity and "caller" in entry.parity.tolerance_source else None
    parity = judge_parity(given, entry.precision, answers, model, tolerance=tolerance)
    if not parity.passed:
        raise ParityFailed(
            f"engine {entry.id} on this machine", found=parity.reason, wanted="answers like the checkpoint's",
            mend="nothing was published",
        )  # fmt: skip
    progress(f"fitting the latency curve of {entry.id}", 0, 0)
    curve = fit_curve(engine, answers.rows, model, budget_seconds=CURVE_SECONDS)
    options = {name: value for name, value in entry.options.items() if name != "parity"}
    return replace(
        entry, state=EngineState.READY, reason=None, parity=parity, curve=curve,
        options={**options, "parity": "on the hardware, over the rows that the export asked"},
    )  # fmt: skip


def _publish(
    store: Store, source: Path, manifest: Manifest, proven: dict[str, EngineEntry], promote: bool
) -> Reference:
    with store.staging(manifest.name) as staging:
        shutil.copytree(source, staging.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST_NAME))
        _add_evidence(staging.path, proven)
        entries = tuple(proven.get(entry.id, entry) for entry in manifest.engines)
        derived = dataclasses.replace(
            manifest,
            engines=tuple(_short(entry) if entry.id in proven else entry for entry in entries),
            derived_from=manifest.digest,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            files={},
            digest="",
        )
        write_report(derived, staging.path)
        return store.publish(staging, derived, promote=promote, why=f"proven: {', '.join(proven)}")


def _add_evidence(folder: Path, proven: dict[str, EngineEntry]) -> None:
    """Put the parity on the hardware in the place of the emulated one, which is kept beside it."""
    path = folder / "evidence" / "parity.json"
    parity = json.loads(path.read_text(encoding="utf-8"))
    emulated = {name: parity[name] for name in proven if name in parity}
    parity |= {name: to_plain(entry.parity) for name, entry in proven.items()}
    for file, content in ((path, parity), (path.with_name("parity-emulated.json"), emulated)):
        text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True)
        file.write_text(text + "\n", encoding="utf-8")


def _short(entry: EngineEntry) -> EngineEntry:
    if entry.parity is None:
        return entry
    return replace(entry, parity=replace(entry.parity, cases=(), flipped=(), error_counts=()))
