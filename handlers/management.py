"""What TorchServe's management API says of its models."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.errors import StoreFailed, Unavailable
from .server_files import LOOPBACK

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class ModelState:
    """A model as TorchServe describes it.

    Attributes:
        settings: by TorchServe's names, the free places of an idle queue as ``jobQueueSize``.
        ready: process ids of the workers that are READY.
    """

    settings: Mapping[str, int]
    ready: tuple[int, ...]


def read_key(key_file: Path, kind: str) -> str:
    """A token of TorchServe's key file; ``kind`` is ``inference`` or ``management``.

    Raises:
        StoreFailed: the file is not what TorchServe writes.
    """
    try:
        return str(json.loads(key_file.read_text(encoding="utf-8"))[kind]["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreFailed(f"key file {key_file} ({error})") from None


class Management:
    """Asks the management API.

    Args:
        port: its port on loopback.
        key_file: TorchServe's key file; None where it asks for no token.
    """

    def __init__(self, port: int, key_file: Path | None) -> None:
        self._port, self._key_file = port, key_file

    def listening(self) -> bool:
        """Whether it answers yet."""
        try:
            self._get("/models")
        except (OSError, http.client.HTTPException, Unavailable, StoreFailed):
            return False  # the key file comes first, and in pieces
        return True

    def model(self, name: str, version: str) -> ModelState:
        """A model's state.

        Raises:
            Unavailable: TorchServe has no such model, or doesn't answer.
        """
        try:
            (described,) = self._get(f"/models/{name}/{version}")
            settings = {key: value for key, value in described.items() if type(value) is int}
            settings["jobQueueSize"] = described["jobQueueStatus"]["remainingCapacity"]
            workers = described["workers"]
            return ModelState(settings, tuple(int(w["pid"]) for w in workers if w["status"] == "READY"))
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"TorchServe's management API on port {self._port} ({error})") from None

    def _get(self, path: str) -> Any:
        headers = {}
        if self._key_file is not None:
            headers["Authorization"] = f"Bearer {read_key(self._key_file, 'management')}"
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            said = " ".join(body.decode("utf-8", "replace").split())[:200]
            raise Unavailable(f"TorchServe's management API: GET {path}", found=f"{response.status} {said}", wanted=200)
        return json.loads(body)
