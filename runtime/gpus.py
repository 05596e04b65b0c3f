"""The NVIDIA GPUs of this machine, asked of the driver alone: nothing needs to be installed, nothing is imported."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


@dataclass(frozen=True)
class Gpu:
    """A device.

    Attributes:
        index: CUDA's number of it.
        name: e.g. ``NVIDIA A10``.
        capability: compute capability, e.g. (8, 6).
        memory_bytes: all of its memory.
    """

    index: int
    name: str
    capability: tuple[int, int]
    memory_bytes: int

    @property
    def architecture(self) -> str:
        """As in engine ids, e.g. ``sm86``."""
        return "sm{}{}".format(*self.capability)


@dataclass(frozen=True)
class Gpus:
    """What the driver says.

    Attributes:
        driver: the newest CUDA version that it runs, e.g. ``13.0``; None without a driver.
        devices: in CUDA's order.
        problem: why there are none; None where there are.
    """

    driver: str | None
    devices: tuple[Gpu, ...]
    problem: str | None


@cache
def find_gpus() -> Gpus:
    """Ask the driver, once in a process."""
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError as error:
        return Gpus(None, (), f"no NVIDIA driver ({error})")
    number = ctypes.c_int()
    status = cuda.cuInit(0)
    cuda.cuDriverGetVersion(ctypes.byref(number))
    driver = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if status or cuda.cuDeviceGetCount(ctypes.byref(number)) or not number.value:
        return Gpus(driver, (), f"the driver finds no GPU (status {status})")
    return Gpus(driver, tuple(_device(cuda, index) for index in range(number.value)), None)


def _device(cuda: ctypes.CDLL, index: int) -> Gpu:
    handle, name, size = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    values = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        values.append(value.value)
    return Gpu(index, name.value.decode(errors="replace"), (values[0], values[1]), size.value)
