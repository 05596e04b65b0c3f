"""fp32 values in half precision: what is clamped, what is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Precision = Literal["fp16", "bf16"]


@dataclass(frozen=True)
class HalfType:
    """A 16-bit float type.

    Attributes:
        onnx: its name in ONNX, ``FLOAT16`` or ``BFLOAT16``.
        schema: its name in operator schemas.
        largest: largest finite value.
        smallest: smallest positive value; half of it and less rounds to zero.
        normal: smallest value with all bits of the significand; below it values lose bits.
    """

    onnx: str
    schema: str
    largest: float
    smallest: float
    normal: float

    @property
    def overflowing(self) -> float:
        """Values from here on, in size, round to infinity."""
        return self.largest * (1.0 + (2.0**-12 if self.onnx == "FLOAT16" else 2.0**-9))

    @property
    def vanishing(self) -> float:
        """Values up to here, in size, round to zero (to the even neighbour)."""
        return self.smallest / 2


TYPES: dict[Precision, HalfType] = {
    "fp16": HalfType("FLOAT16", "tensor(float16)", 65504.0, 2.0**-24, 2.0**-14),
    "bf16": HalfType("BFLOAT16", "tensor(bfloat16)", (2.0 - 2.0**-7) * 2.0**127, 2.0**-133, 2.0**-126),
}


@dataclass(frozen=True)
class RoundedTensor:
    """What rounding changed in one initializer beyond its last bits.

    Attributes:
        name: of the initializer.
        elements: how many values it has.
        clamped: values beyond the range, infinities among them, which were set to its end.
        underflowed: values that became zero.
        error: root of the squared rounding error over that of the squares, clamped values left out; about 2e-4 where
            nothing is lost but the last bits (bf16: 2e-3).
        largest: largest size before.
    """

    name: str
    elements: int
    clamped: int
    underflowed: int
    error: float
    largest: float


def numpy_type(precision: Precision) -> Any:
    """The numpy dtype of a precision."""
    if precision == "fp16":
        return np.dtype(np.float16)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def round_tensor(
    name: str, values: npt.NDArray[np.float32], precision: Precision, *, bound: float | None = None
) -> tuple[Any, RoundedTensor]:
    """Round to the nearest half; what is beyond the range is set to ``bound``, infinities too, NaN stays.

    Args:
        name: for the report.
        values: float32, any shape.
        precision: the half type.
        bound: where to clamp to, in size; the type's largest value by default.

    Returns:
        The array in the half type, and what was lost.
    """
    half = TYPES[precision]
    sizes = np.abs(values)
    # In float64 for the comparison: bf16's end lies less than half a step below fp32's.
    beyond = sizes > np.float32(half.largest)
    clamped = int(np.count_nonzero(beyond))
    if clamped:
        end = np.float32(half.largest if bound is None else bound)
        values = np.where(beyond, np.copysign(end, values), values)
    rounded = values.astype(numpy_type(precision))
    back = rounded.astype(np.float32)
    underflowed = int(np.count_nonzero((back == 0) & (values != 0)))
    kept = np.where(beyond, np.float32(0), values) if clamped else values
    lost = np.where(beyond, np.float32(0), back - values) if clamped else back - values
    scale = float(np.max(np.abs(kept), initial=0.0))
    error = 0.0
    if scale > 0 and np.isfinite(scale):
        # Divided first, so that neither tiny nor huge values leave the range when squared.
        norm = float(np.sqrt(np.sum((kept / scale).astype(np.float64) ** 2)))
        error = float(np.sqrt(np.sum((lost / scale).astype(np.float64) ** 2))) / norm
    largest = float(np.max(sizes, initial=0.0))
    return rounded, RoundedTensor(name, int(values.size), clamped, underflowed, error, largest)
