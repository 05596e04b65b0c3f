"""The GPU benchmark: how its numbers become a table, and what it says where there is no GPU."""

import pytest

from benchmarks import gpu
from nlpdeploy.runtime.gpus import find_gpus


def test_all_contenders_are_called_in_every_round():
    called = []
    calls = {name: (lambda feed, name=name: called.append(name)) for name in ("a", "b", "c")}
    found = gpu.medians(calls, {}, rounds=5)
    assert set(found) == {"a", "b", "c"}
    for start in range(0, len(called), 3):
        assert sorted(called[start : start + 3]) == ["a", "b", "c"]
    assert len(called) == 3 * (gpu.WARM + 5)


def test_the_table_has_ratios_of_one_run():
    lines = gpu.table({"1x128": {"torch fp32": 9.0, "tensorrt-fp16": 3.0}}).splitlines()
    assert "tensorrt-fp16" in lines[0]
    assert lines[1].split() == ["1x128", "9.000", "3.00", "x"]


@pytest.mark.skipif(find_gpus().problem is None, reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path, capsys):
    assert gpu.main([str(tmp_path), str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("skipped: no NVIDIA driver")
