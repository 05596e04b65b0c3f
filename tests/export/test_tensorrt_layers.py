"""What a build's layer table proves, and what it doesn't let pass."""

import pytest

from nlpdeploy.bundle.errors import EngineFailed, InvalidInput
from nlpdeploy.export.builders.tensorrt_layers import Kernel, prove_precision, read_layers
from nlpdeploy.export.builders.tensorrt_profile import Profile, check_profiles, profiles_of

TENSOR = "{{ Name: {}, Dimensions: [-1,384], Strides: [384,1], StrideOrder: [1,0], Datatype: {}, Format: ({}) {} }}"


def tensor(kind, name="t"):
    return TENSOR.format(name, kind, "Arbitrary", "Format with stride order = [1,0]")


def line(name, kind, reads, gives, nodes):
    scale = tensor("Float", "alpha")
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {tensor(reads)}], Constants: [ {scale}], "
        f"Outputs: [ {tensor(gives)}], TacticName: x, StreamId: 0, Metadata: {metadata}"
    )


def table(*lines):
    return "Layers:\n" + "\n".join(lines) + "\nBindings:\nlogits"


def products(*kinds, nodes=("m",)):
    return tuple(Kernel("k", "gemm", frozenset({a}), frozenset({b}), nodes) for a, b in kinds)


def prove(kernels, precision="fp16", kept=(), widening=(), weights=50, graph=50, fp32=100):
    return prove_precision(
        kernels, precision=precision, kept=kept, widening=widening, weights_bytes=weights * 1_000_000,
        graph_bytes=graph * 1_000_000, fp32_bytes=fp32 * 1_000_000,
    )  # fmt: skip


def test_a_table_is_read_line_by_line_and_scale_factors_decide_nothing():
    kernels = read_layers(
        table(line("a", "gemm", "Half", "Half", ("m1", "m2")), line("b", "kgen", "Int64", "Bool", ()))
    )
    assert kernels == (
        Kernel("a", "gemm", frozenset({"Half"}), frozenset({"Half"}), ("m1", "m2")),
        Kernel("b", "kgen", frozenset({"Int64"}), frozenset({"Bool"}), ()),
    )


def test_streams_that_wait_for_each_other_are_lines_too():
    """As large models have them: their kernels run on two streams."""
    text = "Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, EventId: 1, Metadata: "
    kernels = read_layers(table(f"Name: s, LayerType: signal, {text}", f"Name: w, LayerType: wait, {text}"))
    assert [(kernel.kind, kernel.nodes) for kernel in kernels] == [("signal", ()), ("wait", ())]


@pytest.mark.parametrize("text", ["", "Layers:\n", "Layers:\nBindings:\n"])
def test_no_table_is_no_proof(text):
    with pytest.raises(EngineFailed, match="no layer table"):
        read_layers(text)


def test_a_line_in_another_form_is_not_passed_over():
    with pytest.raises(EngineFailed, match="can't be read"):
        read_layers("Layers:\nName: a, Kind: gemm\n")


def test_one_float_product_fails_the_engine_with_its_node_and_the_numbers():
    kernels = products(("Half", "Half"), ("Half", "Half")) + products(("Float", "Float"), nodes=("node_MatMul_7",))
    with pytest.raises(EngineFailed, match=r"1 of 3 matrix products in Float, the first: node_MatMul_7.*0\.50"):
        prove(kernels)
    kept = prove(kernels, kept=("node_MatMul_7",))
    assert (kept.products, kept.kept) == ({"Half": 2, "Float": 1}, 1)


def test_halves_that_leave_as_fp32_are_halves_only_where_the_graph_casts():
    kernels = products(("Half", "Float"), nodes=("head", "Cast_logits"))
    assert prove(kernels, widening=("Cast_logits",)).products == {"Half": 1}
    with pytest.raises(EngineFailed, match="head"):
        prove(kernels)
    with pytest.raises(EngineFailed, match="head"):
        prove(products(("Float", "Float"), nodes=("head", "Cast_logits")), widening=("Cast_logits",))


def test_half_in_an_fp32_engine_fails_it():
    assert prove(products(("Float", "Float")), "fp32", weights=100, graph=100).products == {"Float": 1}
    with pytest.raises(EngineFailed, match="in Half"):
        prove(products(("Float", "Half")), "fp32", weights=100, graph=100)


@pytest.mark.parametrize(("precision", "weights"), [("fp16", 100), ("fp16", 63), ("fp32", 50), ("fp32", 150)])
def test_weights_of_another_size_fail_the_engine(precision, weights):
    kind = "Half" if precision == "fp16" else "Float"
    with pytest.raises(EngineFailed, match="size"):
        prove(products((kind, kind)), precision, weights=weights, graph=50 if precision == "fp16" else 100)


def test_profiles_follow_the_lengths_and_stop_at_the_usable_length():
    alone, batch = profiles_of([5] * 60 + [20] * 35 + [300] * 5, 128)
    assert (alone.rows, alone.length) == ((1, 1, 1), (1, 8, 128))
    assert (batch.rows, batch.length) == ((1, 8, 32), (1, 24, 128))
    assert len(profiles_of([5], 128, rows=1)) == 1
    assert profiles_of([], 17)[0].length == (1, 17, 17)


@pytest.mark.parametrize("length", [(0, 1, 2), (3, 2, 4), (1, 5, 4)])
def test_a_profile_that_contradicts_itself_is_refused(length):
    with pytest.raises(InvalidInput, match="least <= usual <= most"):
        Profile((1, 1, 1), length)


def test_profiles_past_the_usable_length_or_none_at_all_are_refused():
    with pytest.raises(EngineFailed, match=r"1024 tokens; wanted at most 512"):
        check_profiles([Profile((1, 1, 1), (1, 64, 1024))], 512)
    with pytest.raises(EngineFailed, match="none"):
        check_profiles([], 512)
