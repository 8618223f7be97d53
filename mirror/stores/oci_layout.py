"""A store in an OCI image layout directory: the embedded default, which keeps what passes through it.

It needs no other software, and other software can use it: `skopeo copy oci:DIRECTORY:NAME ...` reads from it,
and what a program copies into it is served as well. The directory is a cache with a size limit, so the least
recently used blob goes first, whoever put it there; blobs that are still being written come on top of the limit.

What the store knows is held in memory and changes on the event loop alone; `layout_files` does the reading and
writing, in threads. Changes of the directory are made one at a time, and one that has begun is finished even
when its caller is cancelled, so memory and directory agree after each. Where another program changed the
directory, the store finds out through inotify while it is watched, and otherwise when it misses a file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asyncinotify import Inotify, Mask

from mirror.errors import NotFoundError
from mirror.oci import OCTET_STREAM, Descriptor, Digest, Kind
from mirror.source import Content, FileBody
from mirror.stores import ContentAdded, ContentRemoved, TagRemoved, TagSet
from mirror.stores.layout_files import LayoutFiles, PartialBlob, digest_of
from mirror.stores.layout_index import BrokenIndexError, LayoutIndex, TagName, TagRecord
from mirror.stores.layout_ingest import LayoutIngest
from mirror.stores.referring import find_referring

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Coroutine
    from pathlib import Path

    from mirror.oci import Repository
    from mirror.source import Request
    from mirror.stores import StoreEvent

INGESTS_MAX: Final = 64
"""Blobs written at the same time; each has a file open and takes disk space beyond the limit."""

AWAITED_TAGS_MAX: Final = 256
"""Tags remembered before their manifest is in the store; the oldest goes first."""

TAG_REFRESH_S: Final = 60
"""A tag that still means the same is written again only after this time, since each write rewrites index.json."""

RESCAN_INTERVAL_S: Final = 60.0
"""How often the directory is listed when the kernel has no inotify left to give."""

_CHANGES: Final = Mask.MOVED_TO | Mask.MOVED_FROM | Mask.CLOSE_WRITE | Mask.DELETE | Mask.ONLYDIR
T = TypeVar("T")
_log = logging.getLogger(__name__)


class OciLayout:
    """The store in the directory `path`, which keeps at most `bytes_max` bytes of blobs.

    Making one reads the directory and blocks while it does, so it is done before the event loop has work. Raises
    `LayoutError` or `OSError` when the directory cannot be used. One process at a time keeps things in a
    directory.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        assert bytes_max >= 0
        self._files = LayoutFiles(path)
        self._bytes_max = bytes_max
        self._bytes = 0
        self._blobs: OrderedDict[Digest, int] = OrderedDict()  # sizes; the least recently used comes first
        self._index = LayoutIndex.empty()
        self._tags: dict[TagName, TagRecord] = {}  # those of the index whose manifest is here
        self._awaited: dict[TagName, TagRecord] = {}
        self._ingesting: set[Digest] = set()
        self._changing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._news: list[StoreEvent] = []
        self._stirred = asyncio.Event()
        self._watched = False
        self._files.prepare()
        removed = [gone for blob in self._files.scan() for gone in self._admit(blob.digest, blob.size)]
        self._files.remove(removed)
        self._adopt(self._files.edit_index(lambda index: index.without(removed)))

    async def resolve(self, request: Request) -> Descriptor:
        """Describe an object by digest or by tag; for a tag, what it meant when it was last remembered."""
        digest = self._meant(request)
        if request.kind is Kind.BLOB:
            return Descriptor(OCTET_STREAM, digest, self._blobs[digest])
        descriptor = await asyncio.to_thread(self._files.describe_manifest, digest)
        if descriptor is None:
            raise await self._missed(digest)
        return descriptor

    async def open(self, request: Request) -> Content:
        """Open an object. It stays readable to its end, whatever goes from the store meanwhile."""
        digest = self._meant(request)
        opened = await self._opened(digest, request.kind)
        if opened is None:
            raise await self._missed(digest)
        if digest in self._blobs:
            self._blobs.move_to_end(digest)
        file, descriptor = opened
        assert descriptor.size is not None
        positions = range(descriptor.size) if request.range is None else request.range.resolve(descriptor.size)
        return Content(descriptor, positions, FileBody(file, positions), origin="store")

    @property
    def keeps(self) -> bool:
        """True: what passes through whole stays, within the limit."""
        return True

    @property
    def answering_since(self) -> float | None:
        """None: what it keeps it verifies itself, and nobody else commits what passes through."""
        return None

    async def ingest(self, request: Request, size: int) -> LayoutIngest | None:
        """Start keeping the object that `request` names by digest, from its first byte on.

        None when it is too large, known under that name or on its way already, or when `INGESTS_MAX` others are.
        """
        digest = request.digest
        known = request.repository in await self.origins(digest)
        if size > self._bytes_max or known or digest in self._ingesting or len(self._ingesting) >= INGESTS_MAX:
            return None
        self._ingesting.add(digest)
        return LayoutIngest(self._files.begin(digest, self._bytes_max, request.repository), self._end)

    async def origins(self, digest: Digest) -> frozenset[Repository]:
        """The repositories in whose names the object came."""
        return await asyncio.to_thread(self._files.origins, digest) if digest in self._blobs else frozenset()

    async def referring(self, subject: Digest) -> dict[Digest, bytes]:
        """The manifests here that refer to another one."""
        return await asyncio.to_thread(find_referring, self._files.path / "blobs", subject)

    async def remember(self, request: Request, digest: Digest) -> None:
        """Note that the tag of `request` means `digest`; written down once that manifest is in the store.

        Until then the tag keeps its old meaning: the last manifest that the store can give.
        """
        assert not isinstance(request.reference, Digest), "only tags change their meaning"
        name = (request.repository, request.reference)
        now = int(time.time())
        known = self._tags.get(name)
        if known is not None and known.digest == digest and now - known.at < TAG_REFRESH_S:
            return
        self._awaited.pop(name, None)
        self._awaited[name] = TagRecord(digest, now)
        while len(self._awaited) > AWAITED_TAGS_MAX:
            del self._awaited[next(iter(self._awaited))]
        await self._change(self._write_tags())

    async def watch(self) -> AsyncGenerator[list[StoreEvent], None]:
        """The listing, then every change; ends only by an error that nothing here can mend."""
        assert not self._watched, "one watcher at a time"
        self._watched = True
        self._news = [ContentAdded(digest) for digest in self._blobs]
        self._news += [TagSet(*name, record.digest, record.at) for name, record in self._tags.items()]
        follower = asyncio.create_task(self._follow())
        follower.add_done_callback(lambda _: self._stirred.set())
        try:
            while not follower.done():
                batch, self._news = self._news, []
                self._stirred.clear()
                yield batch
                await self._stirred.wait()
            follower.result()
        finally:
            self._watched = False
            follower.cancel()
            await asyncio.wait([follower])

    def check(self) -> None:
        """Assert what holds after every change: the limit, the sum, and no tag without its manifest."""
        assert self._bytes == sum(self._blobs.values()) <= self._bytes_max
        assert all(record.digest in self._blobs for record in self._tags.values())
        assert len(self._ingesting) <= INGESTS_MAX
        assert len(self._awaited) <= AWAITED_TAGS_MAX

    # What is known: these change memory, tell the watcher, and do no I/O.

    def _meant(self, request: Request) -> Digest:
        reference = request.reference
        if not isinstance(reference, Digest):
            record = self._tags.get((request.repository, reference))
            if record is None:
                raise NotFoundError(f"the store does not know {request.repository}:{reference}")
            reference = record.digest
        if reference not in self._blobs:
            raise NotFoundError(f"the store does not have {reference}")
        return reference

    def _admit(self, digest: Digest, size: int) -> list[Digest]:
        """Take a blob in as the most recently used; the digests whose files have to go for it."""
        if size > self._bytes_max:
            _log.warning("%s has %d bytes, more than the store's limit of %d", digest, size, self._bytes_max)
            return [digest]
        if digest in self._blobs:
            return []
        self._blobs[digest] = size
        self._bytes += size
        self._tell(ContentAdded(digest))
        if digest in self._index.digests:
            self._adopt(self._index)
        surplus: list[Digest] = []
        while self._bytes > self._bytes_max:
            surplus.append(next(iter(self._blobs)))
            self._dismiss(surplus[-1])
        return surplus

    def _dismiss(self, digest: Digest) -> None:
        self._bytes -= self._blobs.pop(digest)
        self._tell(ContentRemoved(digest))
        if digest in self._index.digests:
            self._adopt(self._index)

    def _adopt(self, index: LayoutIndex) -> None:
        """Know the tags that the index names and whose manifests are here."""
        self._index = index
        tags = {name: record for name, record in index.tags.items() if record.digest in self._blobs}
        before, self._tags = self._tags, tags
        for name in before:
            if name not in tags:
                self._tell(TagRemoved(*name))
        for name, record in tags.items():
            if before.get(name) != record:
                self._tell(TagSet(*name, record.digest, record.at))

    def _tell(self, event: StoreEvent) -> None:
        if self._watched:
            self._news.append(event)
            self._stirred.set()

    # What is done about it: one change of the directory at a time, each finished once begun.

    async def _change(self, steps: Coroutine[None, None, T]) -> T:
        async def alone() -> T:
            async with self._changing:
                return await steps

        task = asyncio.create_task(alone())
        self._running.add(task)  # the event loop alone would not keep it from the garbage collector
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _end(self, blob: PartialBlob, *, keep: bool) -> bool:
        """Keep what was ingested, or drop it; whether it is now in the store. Raises `CorruptError`."""
        return await self._change(self._keep(blob) if keep else self._drop(blob))

    async def _keep(self, blob: PartialBlob) -> bool:
        try:
            size = await asyncio.to_thread(blob.keep)
        finally:
            self._ingesting.discard(blob.digest)
        if size is None:
            return False
        await self._settle(self._admit(blob.digest, size))
        return True

    async def _drop(self, blob: PartialBlob) -> bool:
        await asyncio.to_thread(blob.drop)
        self._ingesting.discard(blob.digest)
        return False

    async def _settle(self, removed: Collection[Digest]) -> None:
        if removed:
            await asyncio.to_thread(self._files.remove, removed)
        await self._write_tags(removed)

    async def _write_tags(self, removed: Collection[Digest] = ()) -> None:
        """Bring index.json up to date: without `removed`, and with the awaited tags whose manifest came."""
        ready = {name: record for name, record in self._awaited.items() if record.digest in self._blobs}
        gone = [digest for digest in removed if digest in self._index.digests]
        if not ready and not gone:
            return

        def change(index: LayoutIndex) -> LayoutIndex:
            index = index.without(gone)
            for name, record in ready.items():
                descriptor = self._files.describe_manifest(record.digest)
                if descriptor is not None:
                    index = index.with_tag(name, record.at, descriptor)
            return index

        for name in ready:
            del self._awaited[name]
        try:
            self._adopt(await asyncio.to_thread(self._files.edit_index, change))
        except OSError as error:
            _log.warning("cannot write %s: %s", self._files.index, error)

    async def _opened(self, digest: Digest, kind: Kind) -> tuple[int, Descriptor] | None:
        if (opened := self._files.open_cached(digest, kind)) is not None:
            return opened
        opening = asyncio.ensure_future(asyncio.to_thread(self._files.open, digest, kind))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)  # clients hang up early all the time; none may cost a descriptor
            raise

    async def _missed(self, digest: Digest) -> NotFoundError:
        await self._change(self._reconcile(digest))
        return NotFoundError(f"the store does not have {digest}, or it is not of this kind")

    # What other programs did.

    async def _follow(self) -> None:
        """Follow the directory; what the kernel could not tell (too many changes at once) is found by listing."""
        while True:
            try:
                with Inotify() as inotify:
                    for directory in (self._files.path, *self._files.blobs):
                        inotify.add_watch(directory, _CHANGES)
                    await self._rescan()
                    await self._hear(inotify)
            except OSError as error:
                _log.warning("cannot watch %s (%s), so it is listed again and again", self._files.path, error)
                await self._rescan()
                await asyncio.sleep(RESCAN_INTERVAL_S)

    async def _hear(self, inotify: Inotify) -> None:
        async for event in inotify:
            if event.mask & (Mask.Q_OVERFLOW | Mask.IGNORED):
                return
            if event.path == self._files.index:
                await self._change(self._reread_index())
            elif event.path is not None and event.path.parent in self._files.blobs:
                digest = digest_of(event.path.parent.name, event.path.name)
                if digest is not None:
                    await self._recheck(digest)

    async def _rescan(self) -> None:
        found = {blob.digest: blob for blob in await asyncio.to_thread(self._files.listing)}
        differing = [digest for digest in self._blobs if digest not in found]
        differing += [digest for digest in found if digest not in self._blobs]
        for digest in differing:
            await self._recheck(digest)
        await self._change(self._reread_index())

    async def _recheck(self, digest: Digest) -> None:
        """Look at one blob that came or went. What others bring is hashed, since nobody else has yet."""
        if digest in self._ingesting:
            return
        if digest in self._blobs or await asyncio.to_thread(self._files.verify, digest):
            await self._change(self._reconcile(digest))

    async def _reconcile(self, digest: Digest) -> None:
        size = await asyncio.to_thread(self._files.size, digest)
        if size is None and digest in self._blobs:
            self._dismiss(digest)
            await self._settle([digest])
        elif size is not None and digest not in self._blobs:
            await self._settle(self._admit(digest, size))

    async def _reread_index(self) -> None:
        try:
            self._adopt(await asyncio.to_thread(self._files.read_index))
        except (BrokenIndexError, OSError) as error:
            _log.warning("%s is not read: %s", self._files.index, error)


def _close(opening: asyncio.Future[tuple[int, Descriptor] | None]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opened = opening.result()
        if opened is not None:
            os.close(opened[0])
