"""What ``--upstream`` and ``--upstream-key-file`` say: servers elsewhere that answer for a model, and their keys."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bundle.errors import InvalidInput, NotFound
from ..bundle.names import check_name
from ..wire.address import Address, parse_address

SCHEME = "torchserve://"
FORM = "NAME=torchserve://HOST:PORT[,HOST:PORT…][/MODEL[/VERSION]]"
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True)
class Upstream:
    """A model that one or several TorchServe instances answer for.

    Attributes:
        name: as callers name it.
        instances: at least one; where each listens for inference over HTTP.
        model: its name in TorchServe.
        version: its version there; empty for the default one.
        keys: files with the tokens that instances ask for, by ``host:port``.
    """

    name: str
    instances: tuple[Address, ...]
    model: str
    version: str = ""
    keys: Mapping[str, Path] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Path of a prediction."""
        return f"/predictions/{self.model}" + (f"/{self.version}" if self.version else "")


def read_upstreams(specs: Iterable[str], key_files: Sequence[str] = ()) -> tuple[Upstream, ...]:
    """The upstreams in so many ``--upstream``; several for one name add instances to it.

    Args:
        specs: of the form :data:`FORM`.
        key_files: ``FILE`` for all instances, or ``HOST:PORT=FILE`` for one, which goes first.

    Raises:
        InvalidInput: another form, an instance twice, a name with two models, a key file for no instance, or one that
            holds no token.
    """
    found: dict[str, Upstream] = {}
    for spec in specs:
        read = _read(spec)
        known = found.get(read.name)
        if known is None:
            found[read.name] = read
            continue
        if (known.model, known.version) != (read.model, read.version):
            other = f"{known.target} and {read.target}"
            raise InvalidInput(f"--upstream {read.name}", found=other, wanted="one model in all instances of a name")
        found[read.name] = Upstream(read.name, (*known.instances, *read.instances), read.model, read.version)
    for upstream in found.values():
        if len(set(upstream.instances)) != len(upstream.instances):
            raise InvalidInput(f"--upstream {upstream.name}", found="one instance twice", wanted="each once")
    return tuple(_with_keys(found.values(), key_files))


def _read(spec: str) -> Upstream:
    name, _, place = spec.partition("=")
    if not place.startswith(SCHEME):
        raise InvalidInput("--upstream", found=repr(spec), wanted=FORM)
    hosts, *path = place.removeprefix(SCHEME).split("/")
    path = [segment for segment in path if segment] if path != [""] else []
    if len(path) > 2 or not all(_SEGMENT.fullmatch(segment) for segment in path):
        raise InvalidInput("--upstream", found=repr(spec), wanted=FORM)
    try:
        instances = tuple(parse_address(f"http://{host}") for host in hosts.split(","))
    except InvalidInput:
        raise InvalidInput("--upstream", found=repr(spec), wanted=FORM) from None
    check_name(name)
    return Upstream(name, instances, path[0] if path else name, path[1] if len(path) > 1 else "")


def _with_keys(upstreams: Iterable[Upstream], key_files: Sequence[str]) -> Iterable[Upstream]:
    upstreams = tuple(upstreams)
    known = {instance.authority for upstream in upstreams for instance in upstream.instances}
    for_all: Path | None = None
    own: dict[str, Path] = {}
    for given in key_files:
        place, separator, file = given.partition("=")
        if separator and _is_place(place):
            if place not in known:
                wanted = f"an instance of an --upstream: {', '.join(sorted(known)) or 'none is given'}"
                raise InvalidInput("--upstream-key-file", found=place, wanted=wanted)
            own[place] = Path(file)
        else:
            for_all = Path(given)
    for path in {*own.values(), *([for_all] if for_all else [])}:
        with contextlib.suppress(NotFound):  # which the server may still have to write
            KeyFile(path).token()
    for upstream in upstreams:
        keys = {place.authority: own.get(place.authority, for_all) for place in upstream.instances}
        given_keys = {place: path for place, path in keys.items() if path is not None}
        yield Upstream(upstream.name, upstream.instances, upstream.model, upstream.version, given_keys)


def _is_place(text: str) -> bool:
    try:
        parse_address(f"http://{text}")
    except InvalidInput:
        return False
    return True


class KeyFile:
    """A token on disk, read again whenever the file has changed: a TorchServe makes a new one when it starts.

    Args:
        path: TorchServe's ``key_file.json``, or a file that holds the token alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int], str] | None = None

    def token(self) -> str:
        """The token for inference; it must not get into logs or messages.

        Raises:
            NotFound: no such file: its server has not made it yet.
            InvalidInput: it can't be read, or no token is in it.
        """
        try:
            stat = self.path.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._read is None or self._read[0] != state:
                self._read = state, _token(self.path.read_bytes())
        except FileNotFoundError:
            raise NotFound(f"key file {self.path}") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no token in it"
            wanted = "TorchServe's key_file.json, or a file with nothing but the token"
            raise InvalidInput(f"key file {self.path} ({reason})", wanted=wanted) from None
        return self._read[1]


def _token(content: bytes) -> str:
    text = content.decode("ascii").strip()
    if text.startswith("{"):
        try:
            text = json.loads(text)["inference"]["key"]
        except (KeyError, TypeError):
            raise ValueError from None
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise ValueError
    return text
