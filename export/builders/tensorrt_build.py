"""One build with ``tensorrt`` or ``tensorrt_rtx``: graph in, plan and layer table out. Every return is looked at.

Neither package raises: what fails gives None, False or -1 and a message to the logger. TensorRT for RTX builds for
architectures that this machine lacks; TensorRT builds for the GPU in it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...bundle.errors import EngineFailed, InvalidInput
from .tensorrt_layers import TABLE
from .tensorrt_library import Progress, figure, first_error, journal_of, load_library, monitor_of, parse_error
from .tensorrt_profile import Profile

TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Architectures that TensorRT for RTX builds for ahead of time."""
HERE = "here"
"""The target that is the GPU of this machine."""
WORKSPACE_BYTES = 4 << 30
_WEIGHTS = "Total Weights Memory: "
_SCRATCH = "Max Scratch Memory: "
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class BuildOptions:
    """What a build is told beside the graph; part of the cache's key.

    Attributes:
        library: ``tensorrt`` or ``tensorrt_rtx``.
        target: e.g. ``sm86``, or ``here``.
        profiles: the shapes.
        exact: fp32 products without TF32, which keeps ten bits of a float.
        workspace_bytes: most scratch memory of a kernel.
    """

    library: str
    target: str
    profiles: tuple[Profile, ...]
    exact: bool
    workspace_bytes: int = WORKSPACE_BYTES


@dataclass(frozen=True)
class Built:
    """What came of a build.

    Attributes:
        plan: the serialised engine.
        layers: the layer table.
        weights_bytes: as the build counted them; 0 where it didn't say.
        scratch_bytes: most scratch memory at the largest shapes.
        warnings: what the build warned of, each once.
    """

    plan: bytes = field(repr=False)
    layers: str = field(repr=False)
    weights_bytes: int
    scratch_bytes: int
    warnings: tuple[str, ...]


def build_plan(file: Path, options: BuildOptions, progress: Progress = lambda stage, done, total: None) -> Built:
    """Build an engine from a strongly typed ONNX graph.

    The build runs on a thread of its own, so that an interrupt reaches the caller, cancels the build within a step of
    it and goes on.

    Raises:
        EngineUnavailable: the library is missing.
        InvalidInput: a target that the library doesn't know.
        EngineFailed: the graph can't be parsed, the profiles contradict it or themselves, or the build failed; with
            the library's first message.
    """
    trt = load_library(options.library)
    journal = journal_of(options.library)
    done: list[Built] = []
    failed: list[BaseException] = []
    cancel, over = threading.Event(), threading.Event()

    def work() -> None:
        try:
            done.append(_Build(trt, journal, options, cancel, progress).run(file))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            failed.append(error)
        finally:
            over.set()

    # An event tells the end: a join that is interrupted takes the thread for stopped while it still runs.
    worker = threading.Thread(target=work, name="tensorrt-build")
    try:
        worker.start()
        while not over.wait(_POLL_SECONDS):
            pass
    except BaseException:
        cancel.set()
        if worker.ident is not None:
            over.wait()
        raise
    if failed:
        raise failed[0]
    return done[0]


class _Build:
    """The steps of one build, in order."""

    def __init__(self, trt: Any, journal: Any, options: BuildOptions, cancel: threading.Event, tell: Progress) -> None:
        self._trt = trt
        self._journal = journal
        self._options = options
        self._cancel = cancel
        self._tell = tell

    def run(self, file: Path) -> Built:
        messages: list[tuple[int, str]] = []
        with self._journal.into(messages):
            builder = self._given(self._trt.Builder(self._journal), "builder", messages)
            network = self._network(builder, file, messages)
            config = self._config(builder, network, messages)
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            if self._cancel.is_set():
                raise EngineFailed("the build was cancelled")
            found = first_error(messages)
            mend = "give more with --gpu-workspace" if "workspace limit" in found else None
            raise EngineFailed(f"{self._options.library} can't build {file.name}", found=found, mend=mend)
        return _built(bytes(memoryview(plan)), messages)

    def _network(self, builder: Any, file: Path, messages: list[tuple[int, str]]) -> Any:
        trt = self._trt
        # TensorRT 11 and TensorRT for RTX know no other kind; 10 has to be told.
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = self._given(builder.create_network(1 << int(flag) if flag is not None else 0), "network", messages)
        parser = trt.OnnxParser(network, self._journal)
        if not parser.parse_from_file(str(file)):
            raise EngineFailed(f"{self._options.library} can't parse {file.name}", found=parse_error(parser, messages))
        return network

    def _config(self, builder: Any, network: Any, messages: list[tuple[int, str]]) -> Any:
        trt, options = self._trt, self._options
        config = self._given(builder.create_builder_config(), "configuration", messages)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if options.exact and hasattr(trt.BuilderFlag, "TF32"):
            config.clear_flag(trt.BuilderFlag.TF32)
        self._aim(config)
        for profile in options.profiles:
            self._add_profile(builder, network, config, profile, messages)
        config.progress_monitor = monitor_of(options.library, f"building with {options.library} for {options.target}")(
            self._cancel, self._tell
        )
        return config

    def _aim(self, config: Any) -> None:
        """Set the architecture to build for."""
        target = self._options.target
        if target == HERE:
            return
        capability = getattr(getattr(self._trt, "ComputeCapability", None), target.upper(), None)
        if capability is None or not hasattr(config, "set_compute_capability"):
            raise unknown_target(target)
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(capability, 0):
            raise EngineFailed(f"{self._options.library} refuses the target {target}")

    def _add_profile(
        self, builder: Any, network: Any, config: Any, profile: Profile, messages: list[tuple[int, str]]
    ) -> None:
        made = self._given(builder.create_optimization_profile(), "profile", messages)
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if len(tensor.shape) != 2:
                raise EngineFailed(
                    f"input {tensor.name} of the graph", found=f"{len(tensor.shape)} axes", wanted="[rows, length]"
                )
            made.set_shape(tensor.name, *profile.shapes())
        if config.add_optimization_profile(made) < 0:
            raise EngineFailed(f"{self._options.library} refuses the profile {profile}", found=first_error(messages))

    def _given(self, value: Any, what: str, messages: list[tuple[int, str]]) -> Any:
        if value is None:
            raise EngineFailed(f"{self._options.library} makes no {what}", found=first_error(messages))
        return value


def unknown_target(target: str) -> InvalidInput:
    """The error for a target that can't be built for."""
    return InvalidInput("--gpu", found=repr(target), wanted=f"some of {', '.join(TARGETS)}, with commas between them")


def _built(plan: bytes, messages: Sequence[tuple[int, str]]) -> Built:
    warnings = tuple(dict.fromkeys(text for level, text in messages if level == 2 and "Int64 binding" not in text))
    odd = [text for text in warnings if "not self-consistent" in text]
    if odd:
        raise EngineFailed("the profile's largest shapes contradict the graph", found=" ".join(odd[0].split()))
    tables = [text for _, text in messages if text.startswith(TABLE)]
    return Built(plan, "".join(tables), figure(messages, _WEIGHTS), figure(messages, _SCRATCH), warnings)
