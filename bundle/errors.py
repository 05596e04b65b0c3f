"""The kinds of error, in one tree. Every room raises these and nothing else on purpose.

NlpdeployError
├── InvalidInput        an argument, a file's content or a tensor is wrong; the caller can mend it
├── NotFound            no such model, version, checkpoint, file or column
├── Unsupported         understood, but this architecture, task, schema or call is not served
├── CorruptBundle       a bundle's files are not the ones that were published
├── StoreFailed         the store can't be read or written: permission, space, a file system without renames
├── EngineUnavailable   the engine can't be built or loaded here: a package, an instruction set or a device is missing
├── EngineFailed        the engine ran and its answer is unusable: non-finite, wrong shape, or the runtime raised
├── ParityFailed        the engine's answers are too far from the checkpoint's
├── TooLarge            a message, a body or a request is above its limit
├── Overloaded          the queue is full or the deadline can't be met; worth trying again later
├── DeadlineExceeded    the caller's time is over; the work was not or no longer done
├── Cancelled           the caller left
└── Unavailable         draining, or not ready yet

Each foreign error is mapped to one of these at the boundary where it enters. Tables from kind to status stand at the
edges: ``wire/status.py`` for gRPC and HTTP, ``cli/exits.py`` for exit statuses; a test holds both complete.
"""


class NlpdeployError(Exception):
    """Something went wrong that the reader can act on.

    Args:
        what: the thing and what is wrong with it, e.g. ``"label list of config.json"``.
        found: the value found.
        wanted: the value wanted.
        mend: how to mend it: a command, an option, a sentence.
    """

    def __init__(self, what: str, *, found: object = None, wanted: object = None, mend: str | None = None) -> None:
        self.what = what
        self.found = found
        self.wanted = wanted
        self.mend = mend
        super().__init__(self.line())

    def line(self) -> str:
        """The whole message as one line: what; found; wanted; how to mend."""
        parts = [self.what]
        if self.found is not None:
            parts.append(f"found {self.found}")
        if self.wanted is not None:
            parts.append(f"wanted {self.wanted}")
        if self.mend is not None:
            parts.append(self.mend)
        return " ".join("; ".join(parts).split())


class InvalidInput(NlpdeployError):
    """An argument, a file's content or a tensor is wrong; the caller can mend it."""


class NotFound(NlpdeployError):
    """No such model, version, checkpoint, file or column."""


class Unsupported(NlpdeployError):
    """Understood, but this architecture, task, schema or call is not served."""


class CorruptBundle(NlpdeployError):
    """A bundle's files are not the ones that were published.

    Args:
        what: the bundle and what is wrong.
        extra: paths present that the manifest doesn't list.
        missing: paths the manifest lists that are absent.
        changed: paths whose SHA-256 differs.
    """

    def __init__(
        self,
        what: str,
        *,
        extra: tuple[str, ...] = (),
        missing: tuple[str, ...] = (),
        changed: tuple[str, ...] = (),
        mend: str | None = "export the checkpoint again, or roll back with `nlpdeploy models rollback`",
    ) -> None:
        self.extra, self.missing, self.changed = extra, missing, changed
        lists = [("changed", changed), ("missing", missing), ("extra", extra)]
        found = ", ".join(f"{word}: {' '.join(paths)}" for word, paths in lists if paths) or None
        super().__init__(what, found=found, mend=mend)


class StoreFailed(NlpdeployError):
    """The store can't be read or written: permission, space, or a file system without atomic renames."""


class EngineUnavailable(NlpdeployError):
    """The engine can't be built or loaded here: a package, an instruction set or a device is missing."""


class EngineFailed(NlpdeployError):
    """The engine ran and its answer is unusable: non-finite, a wrong shape, or the runtime raised."""


class ParityFailed(NlpdeployError):
    """The engine's answers are too far from the checkpoint's."""


class TooLarge(NlpdeployError):
    """A message, a body or a request is above its limit."""


class Overloaded(NlpdeployError):
    """The queue is full or the deadline can't be met; worth trying again after ``retry_after`` seconds."""

    def __init__(self, what: str, *, retry_after: float, found: object = None, wanted: object = None) -> None:
        self.retry_after = retry_after
        super().__init__(what, found=found, wanted=wanted, mend=f"retry after {retry_after:.3f} s")


class DeadlineExceeded(NlpdeployError):
    """The caller's time is over; the work was not or no longer done."""


class Cancelled(NlpdeployError):
    """The caller left before the answer."""


class Unavailable(NlpdeployError):
    """Draining, or not ready yet."""
