"""A containerd content directory: opening what is in it, and following what comes and goes.

    <directory>/blobs/<algorithm>/<hex>     complete, verified content, renamed into place, never written again
    <directory>/ingest/...                  downloads under way; not looked at

inotify tells of single files (IN_MOVED_TO, IN_DELETE). Whatever makes its picture doubtful (a directory that
comes or goes, a queue that overflowed, a quiet `rescan_interval_s`) is answered in one way: watch anew, list
everything, tell the difference. Watches are set before the listing, so nothing falls between the two. Where
inotify is not to be had, listing again and again takes its place.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from asyncinotify import Inotify, Mask

from mirror.cached_files import open_cached
from mirror.errors import NotFoundError, UnavailableError
from mirror.oci import Digest, InvalidReferenceError
from mirror.stores import ContentAdded, ContentRemoved
from mirror.stores.referring import find_referring

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from asyncinotify import Event

    from mirror.stores import StoreEvent

ALGORITHMS: Final = ("sha256", "sha512")

POLL_INTERVAL_S: Final = 1.0
"""How often the directory is listed while it cannot be watched. A listing of 10,000 files takes about 10 ms."""

RESTART_PAUSE_S: Final = 0.02
"""The least time between two listings, however fast directories come and go."""

BATCH_EVENTS_MAX: Final = 4096
"""Changes told at once; the kernel queues 16,384 by default."""

_CREATED = Mask.CREATE
_ARRIVED = Mask.MOVED_TO
_LEFT = Mask.DELETE | Mask.MOVED_FROM
_DIRECTORY_ITSELF = Mask.DELETE_SELF | Mask.MOVE_SELF
_DOUBTFUL = _DIRECTORY_ITSELF | Mask.Q_OVERFLOW | Mask.IGNORED | Mask.UNMOUNT | Mask.ISDIR

_log = logging.getLogger(__name__)


class ContentDirectory:
    """The content of one containerd. Objects may vanish at any time; one that is open stays readable."""

    def __init__(self, path: Path, rescan_interval_s: float) -> None:
        self._path = path
        self._rescan_interval_s = rescan_interval_s
        self._warned = ""

    async def status(self, digest: Digest) -> os.stat_result:
        """An object's size and the time of its commit (`st_mtime`). Raises `NotFoundError`, `UnavailableError`."""
        with _failures_told(digest):
            return await asyncio.to_thread(os.stat, self._file(digest))

    async def size(self, digest: Digest) -> int:
        """The size of an object in bytes. Raises `NotFoundError`, `UnavailableError`."""
        return (await self.status(digest)).st_size

    async def read(self, digest: Digest, bytes_max: int) -> bytes:
        """A small object, whole. Raises `NotFoundError` (also when it is larger), `UnavailableError`."""

        def read() -> bytes:
            with self._file(digest).open("rb") as file:
                return file.read(bytes_max + 1)

        with _failures_told(digest):
            data = await asyncio.to_thread(read)
        if len(data) > bytes_max:
            raise NotFoundError(f"{digest} is larger than {bytes_max} bytes")
        return data

    async def referring(self, subject: Digest) -> dict[Digest, bytes]:
        """The manifests here that refer to another one."""
        return await asyncio.to_thread(find_referring, self._path / "blobs", subject)

    async def open(self, digest: Digest) -> tuple[int, int]:
        """A file descriptor, which is the caller's to close, and the size. Raises as `size` does."""

        def open_file() -> tuple[int, int]:
            descriptor = os.open(self._file(digest), os.O_RDONLY)
            return descriptor, os.fstat(descriptor).st_size

        with _failures_told(digest):
            if (descriptor := open_cached(str(self._file(digest)))) is not None:
                return descriptor, os.fstat(descriptor).st_size
            opening = asyncio.ensure_future(asyncio.to_thread(open_file))
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_close_opened)  # the thread goes on, and nobody else would close it
                raise

    async def changes(self) -> AsyncGenerator[list[StoreEvent], None]:
        """The whole listing (maybe empty), then every change. Never ends, and never raises."""
        told: set[Digest] = set()
        first = True
        while True:
            with ExitStack() as stack:
                inotify, trouble = self._watch(stack)
                try:
                    batch = await self._rescan(told)
                except OSError as error:
                    inotify, batch, trouble = None, [], _advice(error)
                self._warn(trouble)
                if batch or first:
                    yield batch
                    first = False
                doubtful = inotify is None
                while inotify is not None and not doubtful:
                    batch, doubtful = await self._next_changes(inotify, told)
                    if batch:
                        yield batch
            await asyncio.sleep(POLL_INTERVAL_S if inotify is None else RESTART_PAUSE_S)

    def _file(self, digest: Digest) -> Path:
        return self._path / "blobs" / digest.algorithm / digest.hex

    def _watch(self, stack: ExitStack) -> tuple[Inotify | None, str]:
        """Watch every directory that exists, outermost first; None and the reason when that is not possible."""
        mask = _CREATED | _ARRIVED | _LEFT | _DIRECTORY_ITSELF
        blobs = self._path / "blobs"
        try:
            inotify = stack.enter_context(Inotify(cache_size=256, sync_timeout=0))
            nearest = next(path for path in (self._path, *self._path.parents) if path.exists())
            inotify.add_watch(nearest, mask)  # raises if it went just now; the rest may come and go
            for directory in (*reversed(self._path.parents), self._path, blobs):
                if directory.is_relative_to(nearest):
                    with suppress(FileNotFoundError):  # the directory above it will tell when it comes
                        inotify.add_watch(directory, mask)
            for algorithm in ALGORITHMS:
                with suppress(FileNotFoundError):
                    inotify.add_watch(blobs / algorithm, _ARRIVED | _LEFT | _DIRECTORY_ITSELF)
        except OSError as error:
            return None, _advice(error)
        if nearest in {self._path, self._path.parent}:
            # containerd 1.7 and later make it when they pull their first image; until then only their root is there.
            return inotify, ""
        return inotify, f"{self._path.parent} does not exist (yet); is it mounted where the agent runs?"

    async def _rescan(self, told: set[Digest]) -> list[StoreEvent]:
        """List everything, bring `told` up to date, and return the difference. Raises `OSError`."""
        present = await asyncio.to_thread(self._listing)
        batch: list[StoreEvent] = [ContentRemoved(digest) for digest in sorted(told - present)]
        batch += [ContentAdded(digest) for digest in sorted(present - told)]
        told.clear()
        told.update(present)
        return batch

    def _listing(self) -> set[Digest]:
        present: set[Digest] = set()
        for algorithm in ALGORITHMS:
            try:
                with os.scandir(self._path / "blobs" / algorithm) as entries:
                    names = [entry.name for entry in entries]
            except (FileNotFoundError, NotADirectoryError):
                continue
            present.update(digest for name in names if (digest := _digest(algorithm, name)))
        return present

    async def _next_changes(self, inotify: Inotify, told: set[Digest]) -> tuple[list[StoreEvent], bool]:
        """Wait for changes; returns them, and whether the picture became doubtful."""
        batch: list[StoreEvent] = []
        try:
            async with asyncio.timeout(self._rescan_interval_s):
                event: Event | None = await inotify.get()
        except TimeoutError:
            return batch, True
        while event is not None:
            if event.mask & _DOUBTFUL:
                return batch, True
            path = event.path
            digest = _digest(path.parent.name, path.name) if path is not None else None
            if digest is not None and event.mask & _ARRIVED and digest not in told:
                told.add(digest)
                batch.append(ContentAdded(digest))
            elif digest is not None and event.mask & _LEFT and digest in told:
                told.remove(digest)
                batch.append(ContentRemoved(digest))
            event = inotify.sync_get() if len(batch) < BATCH_EVENTS_MAX else None
        return batch, False

    def _warn(self, trouble: str) -> None:
        """Say once what is wrong (nothing, when it is empty); the same again only after a change."""
        if trouble and trouble != self._warned:
            _log.warning("containerd's content: %s", trouble)
        self._warned = trouble


def _advice(error: OSError) -> str:
    """What is wrong, and what helps."""
    if error.errno in {errno.ENOSPC, errno.EMFILE, errno.ENFILE}:
        return (
            f"no inotify watch or file descriptor is left ({error}), so it is listed every {POLL_INTERVAL_S:g} s; "
            "raise fs.inotify.max_user_watches, fs.inotify.max_user_instances or the limit of open files"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"no permission ({error}); run the agent as a user who may read it"
    return str(error)


def _digest(algorithm: str, name: str) -> Digest | None:
    try:
        return Digest.parse(f"{algorithm}:{name}")
    except InvalidReferenceError:
        return None


@contextmanager
def _failures_told(digest: Digest) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"containerd does not have {digest}") from error
    except OSError as error:
        raise UnavailableError(f"containerd's {digest} cannot be read: {error}") from error


def _close_opened(opening: asyncio.Future[tuple[int, int]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result()[0])
