import os

from nlpdeploy.runtime.cores import usable_cores


def affinity():
    return len(os.sched_getaffinity(0))


def test_a_quota_below_the_affinity_counts_rounded_up(tmp_path):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 1


def test_no_quota_leaves_the_affinity(tmp_path):
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == affinity()
    assert usable_cores(tmp_path / "absent") == affinity()


def test_the_older_cgroup_files_are_read_too(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == 1


def test_a_large_quota_does_not_pass_the_affinity(tmp_path):
    (tmp_path / "cpu.max").write_text("6400000 100000\n")
    assert usable_cores(tmp_path) == affinity()
