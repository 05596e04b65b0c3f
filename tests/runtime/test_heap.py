"""A process that keeps freed memory: the kernel isn't asked for the same pages again and again."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap is Linux's")

# As in an engine's calls, some blocks live at the same time: more than glibc keeps by itself.
_PROGRAM = """
import ctypes, json, resource, sys
from nlpdeploy.runtime.heap import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def once():
    blocks = []
    for size in (1 << 20, 3 << 20, 1 << 20, 2 << 20, 3 << 20):
        blocks.append(libc.malloc(size))
        ctypes.memset(blocks[-1], 1, size)
    for block in blocks:
        libc.free(block)

once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    once()
print(json.dumps({"kept": kept, "faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before}))
"""


def heap(what: str, **environment: str) -> dict[str, int]:
    own = {name: value for name, value in os.environ.items() if "MALLOC" not in name.upper()}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, what], env={**own, **environment}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_blocks_that_were_freed_are_used_again_without_page_faults():
    kept, left = heap("keep"), heap("leave")
    assert kept["kept"]
    assert kept["faults"] < left["faults"] / 10


@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_what_the_user_says_of_malloc_stays(environment):
    assert not heap("keep", **environment)["kept"]
