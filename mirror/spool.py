"""Where an object lies while it is in flight: unlinked files, within a limit for all of them together.

A file on disk, not in memory: written pages count as cache, which the kernel takes back under pressure, and what is
gone within half a minute never reaches the disk at all. (A tmpfs would count as this process's memory.)

An object that would take more than half of what is left gets a *window*: a file from which what everybody has passed
is punched out as it goes on. So a few large objects leave room for others: what has none cannot be shared, and with a
herd behind it each of its nodes would ask the registry. Only whole blocks of `PUNCH_BYTES` are punched, at multiples of
it: the page cache holds files in large folios, and punching a part of one that sendfile has just queued sends zeros to
the client.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import tempfile
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from mirror.errors import CorruptError
from mirror.intake import NoRoomError, receive, splice, write_all

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from io import FileIO
    from pathlib import Path

    from mirror.oci import Digest

FILES_MAX: Final = 256
"""Objects in the spool at the same time; each has two descriptors."""
PUNCH_BYTES: Final = 8 * 1024 * 1024
WINDOW_BYTES: Final = 128 * 1024 * 1024
"""What an object that is not kept whole may hold at a time."""
RESERVED_BYTES: Final = 8 * 1024 * 1024
"""Blocks are asked for so many bytes at a time, ahead of what is written: ext4 would do so for each page, which takes
half of the CPU that writing takes. Steps of 4 to 16 MiB are alike."""
WINDOW_BYTES_MIN: Final = 4 * PUNCH_BYTES
"""The least that a window needs, to be written at one end while it is read and punched at the other."""

_PUNCH_HOLE: Final = 0x02
_KEEP_SIZE: Final = 0x01
_log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Spool:
    """At most `bytes_max` bytes in `FILES_MAX` files, which have no name in `directory`."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._left = bytes_max
        self._files = 0

    def take(self, digest: Digest, size: int, *, verify: bool) -> SpoolFile | None:
        """A file for an object of `size` bytes, whole or as a window; None when the spool is full."""
        share = max(self._left // 2, WINDOW_BYTES_MIN)
        room = size if size <= share else min(WINDOW_BYTES, share)
        if self._files >= FILES_MAX or room > self._left:
            return None
        self._files += 1
        self._left -= room
        return SpoolFile(self, room, digest if verify else None)

    def give_back(self, room: int) -> None:
        """A file is gone."""
        self._files -= 1
        self._left += room

    def make(self) -> FileIO:
        """A new file; blocks. Raises `OSError`."""
        return tempfile.TemporaryFile(dir=self._directory, buffering=0)


class SpoolFile:
    """An object on its way through; a `mirror.stores.Ingest` that nobody keeps. Hashed when `digest` is given.

    `room` is how many bytes it may hold at a time. The blocking work is done in threads, under a lock: a caller that
    is cancelled meanwhile gives the file up from another one.
    """

    keeps = False

    def __init__(self, spool: Spool, room: int, digest: Digest | None) -> None:
        self.room = room
        self._spool = spool
        self._digest = digest
        self._hash = digest.hasher() if digest else None
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._written = 0
        self._reserved = 0
        self._punched = 0
        self._ended = False

    @property
    def verifies(self) -> bool:
        """Whether `commit` tells if the bytes are right."""
        return self._hash is not None

    async def write(self, chunks: Sequence[bytes]) -> bool:
        """Append bytes; False when the disk does not take them."""
        try:
            return await asyncio.to_thread(self._write, chunks)
        except OSError as error:
            _log.warning(
                "the spool does not take more, so objects are not shared while they come; is spool_dir full? %s", error
            )
            return False

    async def write_from(self, connection: socket.socket, wanted: int) -> int:
        """Append what comes on a connection; see `mirror.stores.Ingest`."""
        return await asyncio.to_thread(self._write_from, connection, wanted)

    def reader(self) -> int:
        """A descriptor on what was written, the caller's to close; after the first `write`."""
        assert self._file is not None, "nothing was written yet"
        return os.dup(self._file.fileno())

    async def punch(self, start: int, stop: int) -> bool:
        """Free the room of some bytes that nobody will read again; False when this filesystem cannot."""
        assert start % PUNCH_BYTES == stop % PUNCH_BYTES == 0, "a part of a folio must not be punched"
        return await asyncio.to_thread(self._punch, start, stop)

    async def commit(self) -> bool:
        """Say whether it is kept (never). Raises `CorruptError` when the bytes were hashed and are wrong."""
        if self._hash is not None and self._digest is not None:
            digest = await asyncio.to_thread(self._hash.hexdigest)
            if digest != self._digest.hex:
                raise CorruptError(f"the bytes are not {self._digest}")
        return False

    async def abort(self) -> None:
        """Free the space; closing a large file takes up to 0.1 s, so that is for a thread as well."""
        if not self._ended:
            self._ended = True
            try:
                await asyncio.to_thread(self._close)
            finally:
                self._spool.give_back(self.room)

    def _write(self, chunks: Sequence[bytes]) -> bool:
        with self._lock:
            file = self._open()
            if file is not None:
                for chunk in chunks:
                    self._reserve(file, len(chunk))
                    self._append(file, chunk)
            return file is not None

    def _write_from(self, connection: socket.socket, wanted: int) -> int:
        with self._lock:
            try:
                file = self._open()
            except OSError as error:
                raise NoRoomError(error.errno, error.strerror) from error
            if file is None:
                raise NoRoomError("it was given up")
            self._reserve(file, wanted)
            if self._hash is not None:
                return receive(connection, wanted, partial(self._append, file))
            length = splice(connection, wanted, file.fileno())
            self._written += length
            return length

    def _open(self) -> FileIO | None:
        """The file, which the first bytes make; None when it was given up."""
        if self._file is None and not self._ended:
            self._file = self._spool.make()
        return None if self._ended else self._file

    def _append(self, file: FileIO, part: bytes | memoryview) -> None:
        if self._hash is not None:
            self._hash.update(part)
        write_all(file, part)
        self._written += len(part)

    def _reserve(self, file: FileIO, wanted: int) -> None:
        """Ask for blocks, within the room; where there are none, or none can be asked for, writing does as it can."""
        start = max(self._written, self._reserved)
        stop = min(start + RESERVED_BYTES, self._punched + self.room)
        if start < self._written + wanted and start < stop:
            _fallocate(file.fileno(), _KEEP_SIZE, start, stop - start)
            self._reserved = stop

    def _punch(self, start: int, stop: int) -> bool:
        with self._lock:
            if self._ended or self._file is None:
                return False
            mode = _PUNCH_HOLE | _KEEP_SIZE
            self._punched = stop
            return int(_fallocate(self._file.fileno(), mode, start, stop - start)) == 0

    def _close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
