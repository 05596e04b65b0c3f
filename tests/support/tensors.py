"""Random requests and responses of the protocol, for round trips."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nlpdeploy.wire.codec_raw import NUMBERS
from nlpdeploy.wire.tensors import InferRequest, InferResponse, Tensor

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
parameters = st.dictionaries(
    names.filter(lambda name: name != "binary_data_output"),
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | names,
    max_size=3,
)


@st.composite
def tensors(draw: st.DrawFn, *, as_json: bool = False) -> Tensor:
    """A tensor of any datatype; ``as_json`` for one that JSON can carry."""
    dtype = draw(st.sampled_from([*NUMBERS, "BYTES"]).filter(lambda name: not (as_json and name == "FP16")))
    shape = draw(shapes)
    if dtype == "BYTES":
        element = names.map(str.encode) if as_json else st.binary(max_size=9)
        count = int(np.prod(shape, dtype=int))
        data = np.empty(count, dtype=object)
        data[:] = draw(st.lists(element, min_size=count, max_size=count))
        return Tensor(draw(names), dtype, data.reshape(shape))
    finite = {"allow_nan": not as_json, "allow_infinity": not as_json} if dtype.startswith("FP") else {}
    elements = hnp.from_dtype(NUMBERS[dtype], **finite)
    return Tensor(draw(names), dtype, draw(hnp.arrays(NUMBERS[dtype], shape, elements=elements)))


def requests(*, as_json: bool = False) -> st.SearchStrategy[InferRequest]:
    """Any request."""
    return st.builds(
        InferRequest,
        model=names,
        inputs=st.lists(tensors(as_json=as_json), max_size=3).map(tuple),
        version=st.just("") | names,
        id=st.just("") | names,
        outputs=st.lists(names, max_size=2).map(tuple),
        parameters=parameters,
    )


def responses(*, as_json: bool = False) -> st.SearchStrategy[InferResponse]:
    """Any response."""
    return st.builds(
        InferResponse,
        model=names,
        version=names,
        id=st.just("") | names,
        outputs=st.lists(tensors(as_json=as_json), max_size=3).map(tuple),
        parameters=parameters,
    )


def same_tensors(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Names, datatypes, shapes and values alike, NaN equal to NaN."""
    return len(got) == len(wanted) and all(map(_same, got, wanted))


def _same(got: Tensor, wanted: Tensor) -> bool:
    form = (got.name, got.dtype, got.shape, got.data.dtype) == (
        wanted.name,
        wanted.dtype,
        wanted.shape,
        wanted_dtype(wanted),
    )
    return form and (got.data.tolist() == wanted.data.tolist() or np.array_equal(got.data, wanted.data, equal_nan=True))


def wanted_dtype(tensor: Tensor) -> np.dtype[Any]:
    """The numpy dtype of a datatype."""
    return NUMBERS.get(tensor.dtype, np.dtype(object))
