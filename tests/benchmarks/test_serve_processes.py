"""Memory, processor time and the end of a process with its children."""

import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.serve.processes import ProcessTree, parse_pss

ROLLUP = """55d0c0a00000-7ffd1b9fe000 ---p 00000000 00:00 0                          [rollup]
Rss:               10240 kB
Pss:                4321 kB
Pss_Dirty:          2048 kB
SwapPss:               7 kB
"""

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; held = bytearray(30_000_000); time.sleep(60)"])
print("up", flush=True)
time.sleep(60)
"""


def test_the_pss_of_the_whole_process_is_read_and_no_other_line():
    assert parse_pss(ROLLUP) == 4321 * 1024


@pytest.mark.parametrize("text", ["", "Rss: 10 kB\n", "Pss: 10 MB\n"])
def test_a_rollup_without_it_is_an_error(text):
    with pytest.raises(ValueError, match="Pss"):
        parse_pss(text)


@pytest.fixture
def parent():
    child = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    yield child
    ProcessTree(child.pid).stop(child.poll, grace=0.0)
    child.communicate()


def test_children_count_and_end_with_their_parent(parent):
    tree = ProcessTree(parent.pid)
    end = time.monotonic() + 20
    while (tree.pss_bytes() or 0) < 30_000_000 and time.monotonic() < end:
        time.sleep(0.05)
    members = tree.members()
    assert len(members) == 2
    assert tree.pss_bytes() > 30_000_000  # the child's own
    assert tree.cpu_seconds() > 0
    assert tree.has_mapped("python")
    assert tree.has_mapped("libtorch") is False
    tree.stop(parent.poll, grace=0.5)
    assert parent.wait(5) != 0
    _, alive = psutil.wait_procs(members, timeout=5)
    assert not alive


def test_the_time_of_children_that_have_ended_stays_in_the_sum():
    program = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'sum(range(10_000_000))'])\n"
        "print(flush=True)\n"
        "input()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        tree = ProcessTree(child.pid)
        own = sum(psutil.Process(child.pid).cpu_times()[:2])
        assert len(tree.members()) == 1
        assert tree.cpu_seconds() > own + 0.05
        child.communicate(b"\n")


def test_a_tree_that_is_gone_has_nothing(parent):
    tree = ProcessTree(parent.pid)
    tree.stop(parent.poll, grace=0.0)
    parent.wait(5)
    assert tree.members() == []
    assert tree.cpu_seconds() == 0.0
    assert tree.pss_bytes() is None
