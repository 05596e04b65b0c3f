"""Is this answer one? A server under load must not pass by answering fast and wrong.

The form of a right answer is taken from the server's own first one, before the traffic; the labels, where they are
known, from a file of expected answers. Pure but for its counters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..bundle.errors import InvalidInput, NlpdeployError, NotFound
from ..wire.tensors import InferResponse, Tensor
from .client import Client

_KEPT_BODIES, _KEPT_BYTES = 5000, 8192


@dataclass(frozen=True)
class OutputForm:
    """An output as every answer to one row must carry it.

    Attributes:
        name: of the output.
        dtype: the protocol's word.
        shape: with 1 in front, for the one row.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


def answer_form(response: InferResponse) -> tuple[OutputForm, ...]:
    """The form of a first answer to one row.

    Raises:
        InvalidInput: no outputs, or one whose first axis is not the row sent.
    """
    if not response.outputs:
        raise InvalidInput("the server's first answer", found="no outputs", wanted="at least one")
    for tensor in response.outputs:
        if tensor.shape[:1] != (1,):
            raise InvalidInput(
                f"output {tensor.name} of the server's first answer",
                found=f"shape {list(tensor.shape)}",
                wanted="1 row",
            )
    return tuple(OutputForm(tensor.name, tensor.dtype, tensor.shape) for tensor in response.outputs)


@dataclass(frozen=True, slots=True)
class _Told:
    """What one body says: what is wrong with its form, its label, and who answered."""

    problem: str
    label: str | None = None
    digest: str | None = None
    engine: str | None = None


@dataclass
class AnswerCheck:
    """Checks the answers of one block and counts who gave them.

    A body that has come before, byte for byte, is not taken apart again: what it costs would be charged to the server.

    Attributes:
        form: outputs that each answer must carry.
        expected: the right label by data row; None in a row that has none; empty if only the form is checked.
        digests: answers by ``bundle_digest``, of those that carry one.
        engines: answers by ``engine``.
    """

    form: Sequence[OutputForm]
    expected: Sequence[str | None] = ()
    digests: Counter[str] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)
    _known: dict[bytes, _Told] = field(default_factory=dict)

    def problem(self, client: Client, body: bytes, row: int) -> str:
        """What is wrong with the answer to a data row; empty if nothing is."""
        told = self._known.get(body)
        if told is None:
            told = self._read(client, body)
            if len(body) <= _KEPT_BYTES:
                if len(self._known) >= _KEPT_BODIES:
                    self._known.clear()
                self._known[body] = told
        if told.digest is not None:
            self.digests[told.digest] += 1
        if told.engine is not None:
            self.engines[told.engine] += 1
        if told.problem or told.label is None:
            return told.problem
        wanted = self.expected[row] if self.expected else None
        if wanted is not None and told.label != wanted:
            return f"label {told.label!r}, expected {wanted!r}"
        return "" if told.label else "the label is empty"

    def _read(self, client: Client, body: bytes) -> _Told:
        try:
            response = client.read(body)
        except NlpdeployError as error:
            return _Told(error.line())
        digest, engine = (
            str(response.parameters[name]) if name in response.parameters else None
            for name in ("bundle_digest", "engine")
        )
        outputs = {tensor.name: tensor for tensor in response.outputs}
        problem = self._form_problem(outputs)
        return _Told(problem, None if problem else _label(outputs), digest, engine)

    def _form_problem(self, outputs: Mapping[str, Tensor]) -> str:
        for form in self.form:
            tensor = outputs.get(form.name)
            if tensor is None:
                return f"output {form.name} is missing"
            if (tensor.dtype, tensor.shape) != (form.dtype, form.shape):
                return f"output {form.name} is {tensor.dtype} {list(tensor.shape)}, not {form.dtype} {list(form.shape)}"
            if tensor.dtype.startswith("FP") and not np.isfinite(tensor.data.astype(np.float64)).all():
                return f"output {form.name} is not finite"
        return ""


def _label(outputs: Mapping[str, Tensor]) -> str | None:
    if "label" not in outputs:
        return None
    label = outputs["label"].data[0]
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def read_expected(path: Path, rows: int) -> tuple[str | None, ...]:
    """Expected labels: a JSON list with an entry a data row: a label, null, or an object with ``label``.

    That last form is what ``nlpdeploy predict NAME - --json`` prints for the same texts.

    Raises:
        NotFound: no such file.
        InvalidInput: another form, or another number of rows.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"expected answers {path}", found="no such file") from error
    except (ValueError, OSError) as error:
        raise InvalidInput(f"expected answers {path}", found=error, wanted="a JSON list") from error
    if not isinstance(entries, list) or len(entries) != rows:
        found = f"{len(entries)} entries" if isinstance(entries, list) else type(entries).__name__
        raise InvalidInput(f"expected answers {path}", found=found, wanted=f"a list of {rows}, one a data row")
    labels = [entry.get("label") if isinstance(entry, dict) else entry for entry in entries]
    if not all(label is None or isinstance(label, str) for label in labels):
        raise InvalidInput(
            f"expected answers {path}", found="an entry that is no label", wanted="texts, null or objects"
        )
    return tuple(labels)
