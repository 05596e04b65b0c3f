"""TensorRT engines: for the GPU of this machine, or ahead of time for one that it lacks."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...bundle.errors import EngineFailed, InvalidInput, StoreFailed
from ...bundle.manifest import EngineEntry, Option
from ...bundle.specs import EngineState, Layout, TensorSpec
from ...runtime.gpus import find_gpus
from .files import engine_folder, size_bytes
from .tensorrt_build import HERE, TARGETS, WORKSPACE_BYTES, BuildOptions, Built, build_plan, unknown_target
from .tensorrt_cache import cache_key, cached, keep
from .tensorrt_layers import LayerEvidence, prove_precision, read_layers
from .tensorrt_library import DATA_CENTRE, EXTRAS, RTX, Progress, version
from .tensorrt_profile import Profile, check_profiles

PLAN_NAME, SIDECAR_NAME = "model.engine", "engine.json"
PRECISIONS = ("fp16", "fp32")
_AHEAD = re.compile(r"tensorrt-rtx-(?P<precision>fp16|fp32)-(?P<target>sm\d+)")
_SPARE = 1.25
"""Free space over the size of the weights that a build must find."""


@dataclass(frozen=True)
class TypedGraph:
    """A strongly typed ONNX graph, ready to be built.

    Attributes:
        file: the graph.
        inputs: INT64 [-1, -1] each.
        outputs: ``logits`` FP32 [-1, classes].
        opset: of the default domain.
        kept: names of nodes that compute in fp32 though the rest doesn't.
        widening: names of its Cast nodes to fp32.
        graph_bytes: size of its weights.
        fp32_bytes: size of the fp32 graph's weights.
        note: what was made of the fp32 graph, in words.
    """

    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    kept: tuple[str, ...]
    widening: tuple[str, ...]
    graph_bytes: int
    fp32_bytes: int
    note: str


@dataclass(frozen=True)
class TensorRTBuilder:
    """Builds one TensorRT engine.

    Attributes:
        id: the engine's id.
        precision: ``fp16`` or ``fp32``.
        target: ``here``, or the architecture that it is built for ahead of time, e.g. ``sm86``.
    """

    id: str
    precision: str
    target: str
    layout: Layout = Layout.PADDED

    @property
    def library(self) -> str:
        """The package that builds it and runs it."""
        if self.target == HERE and importlib.util.find_spec(DATA_CENTRE) is not None:
            return DATA_CENTRE
        return RTX

    @property
    def runtime(self) -> str:
        """Name in ``runtime/catalogue``."""
        return self.library

    @property
    def ahead(self) -> bool:
        """Whether it is built for a GPU that this machine need not have."""
        return self.target != HERE

    def unavailable(self) -> str | None:
        """See ``Builder.unavailable``."""
        if importlib.util.find_spec(self.library) is None:
            return f"engine {self.id} needs TensorRT: pip install 'nlpdeploy[{EXTRAS[self.library]}]'"
        problem = find_gpus().problem
        if not self.ahead and problem:
            return (
                f"engine {self.id}: TensorRT needs an NVIDIA GPU in this machine: {problem}; "
                f"--gpu {TARGETS[2]} builds for one that it lacks"
            )
        return None

    def build_typed(
        self,
        graph: TypedGraph,
        bundle: Path,
        profiles: Sequence[Profile],
        usable: int,
        rebuild: str,
        progress: Progress = lambda stage, done, total: None,
        workspace_bytes: int = WORKSPACE_BYTES,
    ) -> EngineEntry:
        """Build, or take what was built before from the same graph, and prove its precision.

        Args:
            graph: strongly typed, of the builder's precision.
            bundle: the bundle's folder; the engine goes under ``engines/<id>/``, the layer table under ``evidence/``.
            profiles: the shapes.
            usable: most tokens of a row.
            rebuild: the command line that makes the engine again.
            progress: told the build's phases.
            workspace_bytes: most scratch memory of a kernel.

        Returns:
            An entry, unproven where the engine was built ahead of time.

        Raises:
            EngineUnavailable, InvalidInput, EngineFailed: see :func:`build_plan` and :func:`prove_precision`.
            StoreFailed: too little space.
        """
        check_profiles(profiles, usable)
        _check_space(bundle, graph.graph_bytes)
        exact = self.precision == "fp32"
        options = BuildOptions(self.library, self.target, tuple(profiles), exact, workspace_bytes)
        gpu = self.target if self.ahead else find_gpus().devices[0].architecture
        used = version(self.library)
        key = cache_key(graph.file, options, used, gpu)
        built = cached(key)
        again = built is not None
        if built is None:
            built = build_plan(graph.file, options, progress)
            keep(key, built)
        else:
            progress(f"{self.id}: unchanged, nothing is built again", 1, 1)
        with _writing(bundle, len(built.plan)):
            evidence = self._evidence(built, graph, bundle)
        made: dict[str, Option] = {
            "build": "taken from the cache: graph, options, builder and target are the same" if again else "built now",
            "builder": f"{self.library} {used}",
            "profiles": "; ".join(map(str, profiles)),
            "layers": str(evidence),
            "graph": graph.note,
            "opset": graph.opset,
            "rebuild": rebuild,
        }
        with _writing(bundle, len(built.plan)):
            folder = engine_folder(bundle, self.id)
            (folder / PLAN_NAME).write_bytes(built.plan)
            self._write_sidecar(folder, built, options, gpu, key, made)
        return EngineEntry(
            id=self.id,
            runtime=self.runtime,
            precision=self.precision,
            layout=self.layout,
            state=EngineState.UNPROVEN if self.ahead else EngineState.READY,
            reason=None,
            file=(folder / PLAN_NAME).relative_to(bundle).as_posix(),
            inputs=graph.inputs,
            outputs=graph.outputs,
            options=made,
            valid_for={"gpu": gpu, self.library: used},
            size_bytes=size_bytes(folder),
        )

    def _evidence(self, built: Built, graph: TypedGraph, bundle: Path) -> LayerEvidence:
        if not built.layers:
            raise EngineFailed(f"engine {self.id}: the build gave no layer table", wanted="the types of all kernels")
        table = bundle / "evidence" / f"layers-{self.id}.txt"
        table.parent.mkdir(exist_ok=True)
        table.write_text(built.layers, encoding="utf-8")
        return prove_precision(
            read_layers(built.layers),
            precision=self.precision,
            kept=graph.kept,
            widening=graph.widening,
            weights_bytes=built.weights_bytes,
            graph_bytes=graph.graph_bytes,
            fp32_bytes=graph.fp32_bytes,
        )

    def _write_sidecar(
        self, folder: Path, built: Built, options: BuildOptions, gpu: str, key: str, made: dict[str, Option]
    ) -> None:
        plain = {
            "engine": self.id,
            "gpu": gpu,
            "sha256": hashlib.sha256(built.plan).hexdigest(),
            "bytes": len(built.plan),
            "weights_bytes": built.weights_bytes,
            "scratch_bytes": built.scratch_bytes,
            "warnings": list(built.warnings),
            "cache_key": key,
            "options": asdict(options),
            **{name: value for name, value in made.items() if name != "build"},
        }
        text = json.dumps(plain, ensure_ascii=False, indent=2, sort_keys=True)
        (folder / SIDECAR_NAME).write_text(text + "\n", encoding="utf-8")


def local_builders() -> tuple[TensorRTBuilder, ...]:
    """Builders for the GPU of this machine."""
    return tuple(TensorRTBuilder(f"tensorrt-{precision}", precision, HERE) for precision in PRECISIONS)


def ahead_builder(engine_id: str) -> TensorRTBuilder | None:
    """The builder of an id such as ``tensorrt-rtx-fp16-sm86``; None where it is none.

    Raises:
        InvalidInput: it is one, for an architecture that can't be built for.
    """
    found = _AHEAD.fullmatch(engine_id)
    if found is None:
        return None
    if found["target"] not in TARGETS:
        raise unknown_target(found["target"])
    return TensorRTBuilder(engine_id, found["precision"], found["target"])


def ahead_ids(targets: Sequence[str]) -> tuple[str, ...]:
    """The engines that ``--gpu`` means: fp16 for each architecture.

    Raises:
        InvalidInput: no architecture, one that can't be built for, or one twice.
    """
    for target in targets:
        if target not in TARGETS:
            raise unknown_target(target)
    if not targets or len(set(targets)) != len(targets):
        raise InvalidInput("--gpu", found=",".join(targets) or "none", wanted="each architecture once")
    return tuple(f"tensorrt-rtx-fp16-{target}" for target in targets)


def _check_space(folder: Path, weights: int) -> None:
    free, needed = shutil.disk_usage(folder).free, int(_SPARE * weights)
    if free < needed:
        raise _no_room(folder, needed, f"{free / 1e6:.0f} MB free")


@contextlib.contextmanager
def _writing(folder: Path, size: int) -> Iterator[None]:
    """Space that was there before the build may be taken after it."""
    try:
        yield
    except OSError as error:
        raise _no_room(folder, size, error.strerror or str(error)) from None


def _no_room(folder: Path, size: int, found: str) -> StoreFailed:
    return StoreFailed(
        f"store {folder}: too little space for the engine", found=found, wanted=f"{size / 1e6:.0f} MB",
        mend="free some, or choose another --store",
    )  # fmt: skip
