"""Constants of an fp32 graph in half precision: where masks and bounds are clamped to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .rounding import TYPES, Precision, RoundedTensor, round_tensor
from .standard import constant_array

if TYPE_CHECKING:
    import onnx_ir as ir

BOUNDING = ("Clip", "Max", "Min")
"""Operators that a constant beyond the range means as a bound."""


class Roundings:
    """Rounded constants by tensor, each made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, Precision, bool], tuple[Any, Any, RoundedTensor]] = {}

    def rounded(self, value: ir.Value, precision: Precision) -> tuple[Any, RoundedTensor]:
        """The array in the half type, and what was lost.

        Raises:
            EngineFailed: the initializer has no values.
        """
        # The tensor is kept beside its result, so that no other one can get its id.
        key = (id(value.const_value), precision, bounds_others(value))
        if key not in self._made:
            array = constant_array(value)
            bound = mask_bound(value, array, precision)
            self._made[key] = (value.const_value, *round_tensor(str(value.name), array, precision, bound=bound))
        return self._made[key][1:]


def mask_bound(constant: ir.Value, array: npt.NDArray[np.float32], precision: Precision) -> float | None:
    """Where a constant beyond the range is clamped to; None: the end of the range.

    A mask (one number beyond the range, and zeros) goes to half of the range: scores are added to masks, and a row of
    infinities alone would be NaN. What bounds others (Clip, Max, Min) goes to the end.
    """
    half = TYPES[precision]
    beyond = np.abs(array) > np.float32(half.largest)
    rest = array[~beyond]
    is_mask = bool(beyond.any()) and not rest.any() and bool((array[beyond] == array[beyond][0]).all())
    if not is_mask or bounds_others(constant):
        return None
    return half.largest / 2


def bounds_others(constant: ir.Value) -> bool:
    """Whether a constant is what other values are cut off at."""
    return any(use.node.op_type in BOUNDING for use in constant.uses())
