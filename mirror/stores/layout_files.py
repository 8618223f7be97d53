"""The files of an OCI image layout directory: what is asked of the disk, and nothing remembered.

Every method here blocks, so the store calls them in threads. Files are completed in a directory of our own
beside `blobs/` and renamed into place: whoever lists `blobs/` never sees half a blob.

Nothing is synced to the disk at a commit. A layout is a cache: what a power cut takes is fetched again. What a
power cut can leave behind is a complete name on incomplete bytes, and only for what was written in the last
half minute or so, because the kernel writes back older pages by itself. So `scan` hashes just those files, and
only when the machine was started since.

Source: OCI image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import stat
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from mirror.cached_files import open_cached, read_cached
from mirror.errors import CorruptError
from mirror.intake import NoRoomError, receive, write_all
from mirror.oci import (
    MANIFEST_BYTES_MAX,
    OCTET_STREAM,
    Descriptor,
    Digest,
    InvalidReferenceError,
    Kind,
    manifest_media_type,
)
from mirror.stores.layout_index import BrokenIndexError, LayoutIndex
from mirror.stores.origins import note_origins, read_origins

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence
    from io import FileIO
    from pathlib import Path

    from mirror.oci import Repository

INDEX_BYTES_MAX: Final = 32 * 1024 * 1024
"""A larger index.json is taken for broken."""

UNSAFE_AGE_S: Final = 120
"""How long bytes may stay in memory only: four times the kernel's default (`vm.dirty_expire_centisecs`)."""

USE_NOTED_S: Final = 60.0
"""How exactly the time of a blob's last use is noted: each note may have to wait for the disk."""

PARSED_BYTES_MAX: Final = 64 * 1024
"""A larger manifest is not parsed on the event loop."""

LAYOUT_VERSION: Final = "1.0.0"

_ALGORITHMS: Final = ("sha256", "sha512")
_log = logging.getLogger(__name__)


class LayoutError(OSError):
    """The directory cannot be used as an image layout. Nothing was changed."""


class FoundBlob(NamedTuple):
    """A blob's file: when it was last used and written (seconds of Unix time), its digest and size in bytes."""

    used: float
    written: float
    digest: Digest
    size: int


class LayoutFiles:
    """The directory at `path`. One process at a time may write to it through this class."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = str(path)
        self.index = path / "index.json"
        self.blobs = [path / "blobs" / algorithm for algorithm in _ALGORITHMS]
        self._unfinished = path / ".skvaller-unfinished"
        self._numbers = itertools.count()

    def prepare(self) -> None:
        """Make the directory a layout if it is none, and remove what a crash left. Raises `LayoutError`."""
        marker = self.path / "oci-layout"
        try:
            for directory in (*self.blobs, self._unfinished):
                directory.mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                marker.write_bytes(orjson.dumps({"imageLayoutVersion": LAYOUT_VERSION}))
            version = orjson.loads(marker.read_bytes()).get("imageLayoutVersion")
            for leftover in self._unfinished.iterdir():
                leftover.unlink()
        except (OSError, orjson.JSONDecodeError, AttributeError) as error:
            raise LayoutError(f"{self.path} cannot be used as an image layout: {error}") from error
        if version != LAYOUT_VERSION:
            raise LayoutError(f"{marker}: version {version!r} is not {LAYOUT_VERSION}")

    def listing(self) -> list[FoundBlob]:
        """Every blob, the least recently used first; what else lies there is left out with a warning."""
        found: list[FoundBlob] = []
        for directory in self.blobs:
            for entry in os.scandir(directory):
                digest = digest_of(directory.name, entry.name)
                if digest is None or not entry.is_file(follow_symlinks=False):
                    _log.warning("%s is not a blob and is left alone", entry.path)
                    continue
                with suppress(FileNotFoundError):  # it went meanwhile
                    status = entry.stat(follow_symlinks=False)
                    used = max(status.st_atime, status.st_mtime)
                    found.append(FoundBlob(used, status.st_mtime, digest, status.st_size))
        return sorted(found)

    def scan(self) -> list[FoundBlob]:
        """The listing without what a power cut may have spoilt; for the start."""
        found = self.listing()
        started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        last = max((blob.written for blob in found if blob.written < started), default=0.0)
        return [blob for blob in found if not last - UNSAFE_AGE_S <= blob.written <= last or self.verify(blob.digest)]

    def size(self, digest: Digest) -> int | None:
        """The size in bytes of the blob's file, or None when there is none."""
        try:
            status = self._blob(digest).lstat()
        except FileNotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def verify(self, digest: Digest) -> bool:
        """Whether the blob's file has the bytes that its name promises; a warning when it has not."""
        try:
            with os.fdopen(self._descriptor(digest), "rb") as file:
                good = hashlib.file_digest(file, digest.hasher).hexdigest() == digest.hex
        except OSError:
            return False
        if not good:
            _log.warning("%s does not have the bytes of its name and is left alone", self._blob(digest))
        return good

    def open(self, digest: Digest, kind: Kind) -> tuple[int, Descriptor] | None:
        """Open a blob and describe it; None when it is not there or is not of this kind.

        The caller owns the file descriptor. The time of its last use is noted in the file, where a restart
        finds it. Blocks.
        """
        try:
            descriptor = self._descriptor(digest)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            media_type: str | None = OCTET_STREAM
            if kind is Kind.MANIFEST:
                small = status.st_size <= MANIFEST_BYTES_MAX
                media_type = manifest_media_type(os.pread(descriptor, status.st_size, 0)) if small else None
            if media_type is not None:
                _note_use(descriptor, status)
                return descriptor, Descriptor(media_type, digest, status.st_size)
        except OSError as error:
            _log.warning("cannot read %s: %s", self._blob(digest), error)
        os.close(descriptor)
        return None

    def open_cached(self, digest: Digest, kind: Kind) -> tuple[int, Descriptor] | None:
        """The same without waiting for the disk; None when that cannot be, and then `open` has to tell."""
        try:
            descriptor = open_cached(f"{self._root}/blobs/{digest.algorithm}/{digest.hex}")
        except OSError:
            return None
        if descriptor is None:
            return None
        status = os.fstat(descriptor)
        if time.time() - status.st_atime < USE_NOTED_S:
            media_type: str | None = OCTET_STREAM
            if kind is Kind.MANIFEST:
                data = read_cached(descriptor, 0, status.st_size) if status.st_size <= PARSED_BYTES_MAX else None
                media_type = None if data is None else manifest_media_type(data)
            if media_type is not None:
                return descriptor, Descriptor(media_type, digest, status.st_size)
        os.close(descriptor)
        return None

    def describe_manifest(self, digest: Digest) -> Descriptor | None:
        """The descriptor of a manifest, its media type read from its bytes."""
        opened = self.open(digest, Kind.MANIFEST)
        if opened is None:
            return None
        os.close(opened[0])
        return opened[1]

    def remove(self, digests: Iterable[Digest]) -> None:
        """Delete blobs. Whoever has one open reads on."""
        for digest in digests:
            try:
                self._blob(digest).unlink(missing_ok=True)
            except OSError as error:
                _log.warning("cannot remove %s: %s", self._blob(digest), error)

    def read_index(self) -> LayoutIndex:
        """The index as it is now; the empty one when there is no file. Raises `BrokenIndexError` and `OSError`."""
        try:
            if self.index.stat().st_size > INDEX_BYTES_MAX:
                raise BrokenIndexError(f"it has more than {INDEX_BYTES_MAX} bytes")
            return LayoutIndex.parse(self.index.read_bytes())
        except FileNotFoundError:
            return LayoutIndex.empty()

    def edit_index(self, change: Callable[[LayoutIndex], LayoutIndex]) -> LayoutIndex:
        """Read the index, change it, replace the file at once; the index as it is now. Raises `OSError`.

        A broken file is renamed, never overwritten: it may be all that is left of somebody's work.
        """
        try:
            before = self.read_index()
        except BrokenIndexError as error:
            aside = self.index.with_name(f"index.json.broken-{time.time_ns()}")
            self.index.rename(aside)
            _log.error("%s is broken (%s); it was renamed to %s", self.index, error, aside)
            before = LayoutIndex.empty()
        after = change(before)
        if after != before or not self.index.exists():
            temporary = self._temporary()
            try:
                temporary.write_bytes(after.encode())
                temporary.replace(self.index)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        return after

    def begin(self, digest: Digest, bytes_max: int, origin: Repository) -> PartialBlob:
        """A blob that is to come from a repository. Does not block: its file is made by the first write."""
        return PartialBlob(digest, bytes_max, self._temporary(), self._blob(digest), origin)

    def origins(self, digest: Digest) -> frozenset[Repository]:
        """The repositories that a blob is known to belong to."""
        return read_origins(self._blob(digest))

    def _blob(self, digest: Digest) -> Path:
        return self.path / "blobs" / digest.algorithm / digest.hex

    def _descriptor(self, digest: Digest) -> int:
        return os.open(self._blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _temporary(self) -> Path:
        return self._unfinished / str(next(self._numbers))


class PartialBlob:
    """A blob on its way to the disk, hashed as it comes. What goes wrong is logged once and ends it quietly.

    The methods may be called from different threads: a caller that is cancelled while a write runs in a thread
    gives the file up from another one.
    """

    def __init__(self, digest: Digest, bytes_max: int, temporary: Path, target: Path, origin: Repository) -> None:
        self.digest = digest
        self._origin = origin
        self._bytes_max = bytes_max
        self._temporary = temporary
        self._target = target
        self._hash = digest.hasher()
        self._size = 0
        self._lock = threading.Lock()
        self._ended = False
        self._file: FileIO | None = None

    def write(self, chunks: Sequence[bytes]) -> bool:
        """Append bytes; whether it did, which it does no more once the blob was given up."""
        with self._lock:
            try:
                for chunk in chunks:
                    self._append(chunk)
            except NoRoomError as error:
                self._give_up(str(error))
            return not self._ended

    def write_from(self, connection: socket.socket, wanted: int) -> int:
        """Append what has come on a connection; see `mirror.stores.Ingest`."""
        with self._lock:
            try:
                return receive(connection, wanted, self._append)
            except NoRoomError as error:
                self._give_up(str(error))
                raise

    def reader(self) -> int:
        """A descriptor on what was written, the caller's to close; after a `write` that succeeded."""
        assert self._file is not None, "nothing was written yet"
        return os.dup(self._file.fileno())

    def keep(self) -> int | None:
        """Move the blob to its place, if its bytes are right; raises `CorruptError` when they are not.

        Returns its size in bytes, or None when it is not kept.
        """
        with self._lock:
            if self._ended:
                return None
            if self._hash.hexdigest() != self.digest.hex:
                self._give_up("its bytes do not have this digest")
                raise CorruptError(f"the bytes are not {self.digest}")
            try:
                note_origins(self._temporary, read_origins(self._target) | {self._origin})
                self._temporary.replace(self._target)
            except OSError as error:
                self._give_up(str(error))
                return None
            self._end()
            return self._size

    def drop(self) -> None:
        """Give the blob up and free its space; does nothing after `keep`."""
        with self._lock:
            self._end()

    def _append(self, part: bytes | memoryview) -> None:
        self._size += len(part)
        if self._ended or self._size > self._bytes_max:
            raise NoRoomError(f"it is larger than the store's limit of {self._bytes_max} bytes")
        if self._file is None:
            try:
                self._file = self._temporary.open("x+b", buffering=0)
            except OSError as error:
                raise NoRoomError(error.errno, error.strerror) from error
        self._hash.update(part)
        write_all(self._file, part)

    def _give_up(self, reason: str) -> None:
        if self._ended:
            return
        _log.warning("%s is not kept: %s", self.digest, reason)
        self._end()

    def _end(self) -> None:
        self._ended = True
        if self._file is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
            self._file = None


def digest_of(algorithm: str, name: str) -> Digest | None:
    """The digest that a file `blobs/<algorithm>/<name>` stands for, or None when its name is no digest."""
    try:
        return Digest.parse(f"{algorithm}:{name}")
    except InvalidReferenceError:
        return None


def _note_use(descriptor: int, status: os.stat_result) -> None:
    """Set the time of last access, which most file systems are mounted not to do at every read."""
    try:
        os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
    except PermissionError:
        return  # another user's file: its age stays what it was
