"""The checkpoint's answers inside a bundle, so that an engine can be proven where the checkpoint is not.

``evidence/replay.npz`` has every row that parity asks and what the checkpoint answered: plain arrays, nothing pickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..bundle.errors import CorruptBundle, NotFound
from ..runtime.tasks import Floats
from ..runtime.text import Row
from .answers import ReferenceAnswers
from .grid import Case

NAME = "evidence/replay.npz"


def write_replay(bundle: Path, answers: ReferenceAnswers) -> None:
    """Write ``evidence/replay.npz``; its folder exists."""
    rows = [*answers.rows, *(row for case in answers.grid for row in case.rows)]
    about = {
        "cases": [[case.name, len(case.rows), case.beyond_task] for case in answers.grid],
        "rows": len(answers.rows),
        "noise_floor": answers.noise_floor,
        "dropped": list(answers.dropped),
    }
    np.savez_compressed(
        bundle / NAME,
        about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        lengths=np.array([len(row) for row in rows], dtype=np.int64),
        input_ids=np.concatenate([row.input_ids for row in rows]),
        token_type_ids=np.concatenate([row.token_type_ids for row in rows]),
        logits=np.concatenate([answers.logits, *answers.grid_logits]),
    )


def read_replay(bundle: Path) -> ReferenceAnswers:
    """What :func:`write_replay` wrote.

    Raises:
        NotFound: the bundle has none.
        CorruptBundle: it can't be read.
    """
    path = bundle / NAME
    if not path.is_file():
        raise NotFound(f"{NAME} of bundle {bundle}", mend="export the checkpoint again")
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            ends = np.cumsum(stored["lengths"])[:-1]
            ids, types = (np.split(stored[name], ends) for name in ("input_ids", "token_type_ids"))
            logits = stored["logits"]
        rows = [Row(i, t) for i, t in zip(ids, types, strict=True)]
        return _answers(about, rows, logits)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise CorruptBundle(f"{NAME} of bundle {bundle} can't be read ({error})", changed=(NAME,)) from None


def _answers(about: dict[str, object], rows: Sequence[Row], logits: Floats) -> ReferenceAnswers:
    real = int(str(about["rows"]))
    cases, case_logits, at = [], [], real
    for name, count, beyond in about["cases"]:  # type: ignore[attr-defined]
        cases.append(Case(name, tuple(rows[at : at + count]), beyond))
        case_logits.append(logits[at : at + count])
        at += count
    return ReferenceAnswers(
        grid=tuple(cases),
        grid_logits=tuple(case_logits),
        rows=tuple(rows[:real]),
        logits=logits[:real],
        noise_floor=float(str(about["noise_floor"])),
        dropped=tuple(about["dropped"]),  # type: ignore[arg-type]
    )
