"""The models that are served, by name and version, and how they come out of the store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..bundle.errors import NotFound
from ..bundle.names import Reference
from ..bundle.store import Store
from ..runtime.predictor import Predictor, load
from ..wire.tensors import ModelMetadata
from .served import Served

T = TypeVar("T")


class ModelSet:
    """Served models by name and version."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, Served]] = {}
        self._chosen: dict[str, str] = {}

    def add(self, served: Served, *, chosen: bool) -> None:
        """Serve one more; ``chosen`` makes it the answer to requests without a version."""
        self._models.setdefault(served.name, {})[served.version] = served
        if chosen or served.name not in self._chosen:
            self._chosen[served.name] = served.version

    def find(self, name: str, version: str = "") -> Served:
        """The model of that name and version; an empty version is the chosen one.

        Raises:
            NotFound: no such model or version is served.
        """
        versions = self._models.get(name)
        if versions is None:
            raise NotFound(f"model {name!r}", found=f"served: {', '.join(sorted(self._models)) or 'none'}")
        served = versions.get(version or self._chosen[name])
        if served is None:
            raise NotFound(f"version {version!r} of model {name!r}", found=f"served: {', '.join(sorted(versions))}")
        return served

    def versions(self, name: str) -> tuple[str, ...]:
        """Served versions of a name, the chosen one first; none of a name that is not served."""
        chosen = self._chosen.get(name)
        return tuple(sorted(self._models.get(name, ()), key=lambda version: (version != chosen, version)))

    def metadata(self, served: Served) -> ModelMetadata:
        """What a model takes and gives, with all served versions of its name."""
        return dataclasses.replace(served.metadata, versions=self.versions(served.name))

    def all(self) -> list[Served]:
        """All served models."""
        return [served for versions in self._models.values() for served in versions.values()]


@dataclass(frozen=True)
class Loaded:
    """A model from the store, ready to be served.

    Attributes:
        predictor: verified, its golden samples replayed.
        reference: where it is.
        chosen: asked for without a version.
    """

    predictor: Predictor
    reference: Reference
    chosen: bool


async def load_models(
    store: Path, specs: Sequence[str], *, engine: str | None = None, threads: int | None = None
) -> list[Loaded]:
    """Load models side by side in threads: verify every file, load the engine in every lane, replay the golden samples.

    Args:
        store: the store's folder.
        specs: ``name`` or ``name:version``; empty for all names of the store.
        engine: id of an engine; by default each bundle's.
        threads: intra-op threads of each lane; by default as :func:`nlpdeploy.runtime.load` says.

    Raises:
        NotFound: no such model, or an empty store.
        CorruptBundle, EngineUnavailable, EngineFailed: of the first one that can't be loaded; raised once no other is
            being loaded any more, since an interpreter that ends under a runtime at work crashes.
    """
    shelf = Store(store)
    wanted = list(dict.fromkeys(specs or shelf.names()))
    if not wanted:
        raise NotFound(f"models in store {store}", found="an empty store", mend="`nlpdeploy export CKPT` makes one")
    references = [(shelf.resolve(spec), ":" not in spec and "/" not in spec) for spec in wanted]

    def load_one(reference: Reference, chosen: bool) -> Loaded:
        return Loaded(load(reference.path, engine=engine, threads=threads, all_lanes=True), reference, chosen)

    jobs = [_in_daemon_thread(partial(load_one, reference, chosen)) for reference, chosen in references]
    ended = await asyncio.gather(*jobs, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in ended if isinstance(outcome, Loaded)]


def _in_daemon_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    # A daemon, unlike a pool's thread: an interrupted start ends at once and not when the last model is loaded.
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(finish: Callable[[], None]) -> None:
        if not future.done():
            finish()

    def work() -> None:
        try:
            finish = partial(future.set_result, function())
        except Exception as error:  # noqa: BLE001  (raised again where it is awaited)
            finish = partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits any more
            loop.call_soon_threadsafe(settle, finish)

    threading.Thread(target=work, name="load model", daemon=True).start()
    return future
