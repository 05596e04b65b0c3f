"""Which GPU an engine runs on, and its memory: device buffers, pinned host memory, a stream, graphs of calls.

``cuda.bindings`` brings CUDA's runtime with it; neither torch nor a toolkit is needed.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.errors import EngineFailed, EngineUnavailable, InvalidInput
from .gpus import Gpu, find_gpus

VARIABLE = "NLPDEPLOY_GPU"
"""Environment variable with the number of the GPU to run on; by default 0."""
_FULL = ("out of memory", "outofmemory", "memoryallocation", "failed to allocate")


def chosen_device(engine_id: str) -> Gpu:
    """The GPU that ``$NLPDEPLOY_GPU`` names, by default the first.

    Raises:
        EngineUnavailable: there is none.
        InvalidInput: none of that number.
    """
    found = find_gpus()
    if found.problem:
        raise EngineUnavailable(f"engine {engine_id} needs an NVIDIA GPU", found=found.problem)
    wish = os.environ.get(VARIABLE, "0")
    if not wish.isdecimal() or int(wish) >= len(found.devices):
        raise InvalidInput(f"${VARIABLE}", found=wish, wanted=f"a number from 0 to {len(found.devices) - 1}")
    return found.devices[int(wish)]


def out_of_memory(what: str, text: str) -> EngineFailed | None:
    """The error for a GPU whose memory is full, where a message means that; else None."""
    if not any(word in text.lower() for word in _FULL):
        return None
    return EngineFailed(
        f"{what}: the GPU's memory is full", found=text, mend="serve fewer workers or models on it, or smaller batches"
    )


class Cuda:
    """CUDA's runtime on one device; every call is checked.

    Args:
        device: CUDA's number of it.

    Raises:
        EngineUnavailable: cuda.bindings is missing.
        EngineFailed: a call failed.
    """

    def __init__(self, device: int) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EngineUnavailable(
                "CUDA's runtime is missing", found=str(error), mend="pip install 'nlpdeploy[rtx]'"
            ) from None
        self.api: Any = runtime
        self.device = device
        self.use()

    def use(self) -> None:
        """Make the device the calling thread's."""
        self.call("cudaSetDevice", self.device)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime; what it gives beside the status.

        Raises:
            EngineFailed: the status is an error; a full memory is called so.
        """
        status, *values = getattr(self.api, name)(*arguments)
        if int(status) != 0:
            text = self.api.cudaGetErrorString(status)[1]
            words = text.decode() if isinstance(text, bytes) else str(status)
            raise out_of_memory(f"CUDA ({name})", words) or EngineFailed(f"CUDA: {name}", found=words)
        return values[0] if values else None


class Buffer:
    """Memory of the device with pinned memory of the host beside it, grown when a call needs more.

    Args:
        cuda: the device.
        dtype: of the host's view.
    """

    def __init__(self, cuda: Cuda, dtype: Any) -> None:
        self._cuda = cuda
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._bytes = 0
        self.device = 0
        self._host = 0

    def reserve(self, elements: int) -> bool:
        """Make room; whether the addresses changed."""
        wanted = elements * self._dtype.itemsize
        if wanted <= self._bytes:
            return False
        self.free()
        self.device = int(self._cuda.call("cudaMalloc", wanted))
        self._host = int(self._cuda.call("cudaHostAlloc", wanted, 0))
        self._bytes = wanted
        return True

    def view(self, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The host's memory as an array of a shape that was reserved."""
        size = int(np.prod(shape)) * self._dtype.itemsize
        memory = (ctypes.c_byte * size).from_address(self._host)
        view: npt.NDArray[Any] = np.frombuffer(memoryview(memory).cast("B"), dtype=self._dtype).reshape(shape)
        return view

    def upload(self, elements: int, stream: Any) -> None:
        """Copy to the device, in the stream's order."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        size = elements * self._dtype.itemsize
        self._cuda.call("cudaMemcpyAsync", self.device, self._host, size, kind, stream)

    def download(self, elements: int, stream: Any) -> None:
        """Copy from the device, in the stream's order."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        size = elements * self._dtype.itemsize
        self._cuda.call("cudaMemcpyAsync", self._host, self.device, size, kind, stream)

    def free(self) -> None:
        """Give both memories back."""
        if self._bytes:
            self._bytes = 0
            self._cuda.call("cudaFree", self.device)
            self._cuda.call("cudaFreeHost", self._host)
