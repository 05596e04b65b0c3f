"""What is served, and what can be asked of it without running it: life, metadata, configuration, statistics, index."""

from __future__ import annotations

from collections.abc import Sequence

from ..bundle.errors import Unavailable
from ..wire.descriptions import IndexEntry, ModelConfig, ModelStatistics
from ..wire.tensors import ModelMetadata, ServerMetadata
from .describe import index, model_config, server_metadata
from .models import ModelSet
from .served import Served
from .served_model import Capacity


class Catalogue:
    """The served models, and whether they may be asked yet and still.

    Args:
        capacity: limits and policy of each model.
        expected: names of models that are being loaded, which are known though not ready yet.
    """

    def __init__(self, capacity: Capacity, expected: Sequence[str]) -> None:
        self._capacity = capacity
        self._expected = frozenset(expected)
        self._models = ModelSet()
        self._opened = self._draining = False

    def live(self) -> bool:
        """Whether the process is worth keeping: False once a model's worker has ended, which only a restart mends."""
        return all(served.alive() for served in self._models.all())

    def ready(self) -> bool:
        """Whether all models answer: not with nothing loaded, while loading or draining, or with a dead worker."""
        models = self._models.all()
        return self._opened and not self._draining and bool(models) and all(served.ready() for served in models)

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether that model answers.

        Raises:
            NotFound: no such model or version.
        """
        if not self._opened and name in self._expected:
            return False
        return self._models.find(name, version).ready() and self._opened and not self._draining

    def server_metadata(self) -> ServerMetadata:
        """Name, version, extensions."""
        return server_metadata()

    def model_metadata(self, name: str, version: str = "") -> ModelMetadata:
        """What a model takes and gives.

        Raises:
            NotFound: no such model or version.
            Unavailable: it is still being loaded.
        """
        return self._models.metadata(self._find(name, version))

    def model_config(self, name: str, version: str = "") -> ModelConfig:
        """How a model may be asked, for load generators.

        Raises:
            As :meth:`model_metadata`.
        """
        return model_config(self._find(name, version), self._capacity)

    def statistics(self, name: str = "", version: str = "") -> list[ModelStatistics]:
        """Sums since the start: of a version, of all versions of a name, or of all that is served.

        Raises:
            As :meth:`model_metadata`.
        """
        asked = self._models.all()
        if name:
            found = self._find(name, version)
            asked = [found] if version else [served for served in asked if served.name == name]
        return [served.statistics.read(served.name, served.version) for served in asked]

    def index(self, *, ready: bool = False) -> list[IndexEntry]:
        """Each version of each model that is served or being loaded, and its state; with ``ready`` only such."""
        entries = index(self._models.all(), self._expected, opened=self._opened, draining=self._draining)
        return [entry for entry in entries if entry.state == "READY" or not ready]

    def served(self) -> list[Served]:
        """All served models, each version for itself."""
        return self._models.all()

    def _find(self, name: str, version: str) -> Served:
        if not self._opened and name in self._expected:
            raise Unavailable(f"model {name} is being loaded")
        return self._models.find(name, version)
