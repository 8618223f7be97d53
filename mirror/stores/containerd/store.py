"""The store made of a containerd's content directory and image records. See the package's docstring."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.errors import CorruptError, NotFoundError, UnavailableError
from mirror.oci import MANIFEST_BYTES_MAX, OCTET_STREAM, Descriptor, Digest, Kind, manifest_media_type
from mirror.source import Content, FileBody, MemoryBody
from mirror.stores.containerd.client import Absence, connect
from mirror.stores.containerd.content import ContentDirectory
from mirror.stores.containerd.names import ImageNames, read_sources
from mirror.stores.containerd.pins import Pins
from mirror.stores.containerd.unpinned import Unpinned

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from typing import Never

    from mirror.oci import Repository
    from mirror.source import Request
    from mirror.stores import Ingest, StoreEvent


@dataclass(frozen=True, slots=True)
class ContainerdSettings:
    """Which containerd, and what of it."""

    socket: Path = Path("/run/containerd/containerd.sock")
    """Where containerd listens, as the agent sees it."""

    namespaces: tuple[str, ...] = ("k8s.io",)
    """The containerd namespaces whose image names are shown. Content is shown from all: its digest is its name."""

    content_dir: Path | None = None
    """The directory that holds containerd's `blobs`, where the agent sees it at another place than containerd
    (mounted elsewhere in a container). None: where containerd says it is."""

    reconcile_interval_s: float = 60.0
    """How often names and content are listed although nothing was told. It bounds how long a missed event is
    missed; less costs a listing of all image records and of the content directory each time."""

    pin_bytes_max: int = 0
    """How many bytes of what arrives are kept although containerd would throw them away; 0 pins nothing, and
    releases what an earlier run pinned. More costs disk, also for images that were removed."""


class ContainerdStore:
    """What a node's containerd has. Knows content and names only while `watch` runs; opens nothing but files."""

    def __init__(self, settings: ContainerdSettings) -> None:
        self._settings = settings
        self._absence = Absence(settings.socket)
        self._names = ImageNames(settings.socket, settings.namespaces, settings.reconcile_interval_s, self._absence)
        self._directory: ContentDirectory | None = None

    async def resolve(self, request: Request) -> Descriptor:
        """Which object is meant. Raises `NotFoundError`, or `UnavailableError` when the disk fails."""
        digest = self._digest(request)
        if request.kind is Kind.BLOB:
            return Descriptor(OCTET_STREAM, digest, await self._content.size(digest))
        return (await self._manifest(digest))[0]

    async def open(self, request: Request) -> Content:
        """Open an object. Raises as `resolve` does, and `CorruptError` for a manifest that the disk spoiled."""
        digest = self._digest(request)
        if request.kind is Kind.MANIFEST:
            descriptor, data = await self._manifest(digest)
            positions = request.range.resolve(len(data)) if request.range else range(len(data))
            return Content(descriptor, positions, MemoryBody(data[positions.start : positions.stop]), "store")
        file, size = await self._content.open(digest)
        positions = request.range.resolve(size) if request.range else range(size)
        return Content(Descriptor(OCTET_STREAM, digest, size), positions, FileBody(file, positions), "store")

    async def watch(self) -> AsyncGenerator[list[StoreEvent], None]:
        """Content and tags, then every change, as `Store.watch` promises.

        Nothing is told before the content directory is known: without `content_dir` that waits for containerd's
        first answer. The tags of a containerd that is away are missing from the first batch, and come later.
        """
        directory = ContentDirectory(
            self._settings.content_dir or await self._find_directory(), self._settings.reconcile_interval_s
        )
        self._directory = directory
        pinning = self._pinning(directory)
        async with aclosing(directory.changes()) as content, aclosing(self._names.changes()) as names:
            yield await anext(content) + await anext(names)
            async with aclosing(_merged(content, names, _eventless(pinning.keep))) as batches:
                async for batch in batches:
                    pinning.note(batch)
                    yield batch

    @property
    def keeps(self) -> bool:
        """False: what containerd pulls it keeps itself."""
        return False

    @property
    def answering_since(self) -> float | None:
        """Since when containerd answers; None while it is away."""
        return self._names.answering_since

    async def ingest(self, request: Request, size: int) -> Ingest | None:
        """None: what containerd pulls it keeps itself."""
        return None

    async def origins(self, digest: Digest) -> frozenset[Repository]:
        """The repositories from which containerd pulled an object, as it noted itself in some of the namespaces.

        It labels what it pulls within milliseconds, and what was imported never. Raises `UnavailableError`.
        """
        async with connect(self._settings.socket) as containerd:
            labels = [await containerd.content_labels(each, digest) for each in self._settings.namespaces]
        return frozenset(repository for each in labels for repository in read_sources(each))

    async def referring(self, subject: Digest) -> Mapping[Digest, bytes]:
        """The manifests in containerd that refer to another one. Raises `UnavailableError`."""
        return await self._content.referring(subject)

    async def remember(self, request: Request, digest: Digest) -> None:
        """Nothing: tags are containerd's image records."""

    @property
    def _content(self) -> ContentDirectory:
        if self._directory is None:
            raise UnavailableError("containerd has not told yet where its content is")
        return self._directory

    def _digest(self, request: Request) -> Digest:
        """The digest that a request is about, through the image records when it names a tag."""
        if isinstance(request.reference, Digest):
            return request.reference
        digest = self._names.digest(request.repository, request.reference)
        if digest is None:
            raise NotFoundError(f"containerd has no image {request.repository}:{request.reference}")
        return digest

    async def _manifest(self, digest: Digest) -> tuple[Descriptor, bytes]:
        """A manifest with its bytes, which are verified: they are few, and a power cut can leave an empty file."""
        data = await self._content.read(digest, MANIFEST_BYTES_MAX)
        matches, media_type = await asyncio.to_thread(lambda: (digest.matches(data), manifest_media_type(data)))
        if not matches:
            raise CorruptError(f"the file of {digest} has other bytes; remove it with `ctr content rm`")
        if media_type is None:
            raise NotFoundError(f"{digest} is not a manifest")
        return Descriptor(media_type, digest, len(data)), data

    def _pinning(self, directory: ContentDirectory) -> Pins | Unpinned:
        socket, namespaces = self._settings.socket, self._settings.namespaces
        if self._settings.pin_bytes_max:
            return Pins(socket, namespaces, self._settings.pin_bytes_max, directory, self._absence)
        return Unpinned(socket, namespaces, directory, self._absence)

    async def _find_directory(self) -> Path:
        while True:
            try:
                async with connect(self._settings.socket) as containerd:
                    directory = await containerd.content_directory()
            except UnavailableError as reason:
                await self._absence.wait(reason)
            else:
                self._absence.over()
                return directory


async def _eventless(work: Callable[[], Awaitable[Never]]) -> AsyncGenerator[list[StoreEvent], None]:
    """A stream that tells nothing and runs `work`, so that a failure of it ends the streams it is merged with."""
    yield await work()


async def _merged(
    *streams: AsyncGenerator[list[StoreEvent], None],
) -> AsyncGenerator[list[StoreEvent], None]:
    """The batches of several streams as they come, in each stream's order."""
    waiting = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while True:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for batch in [batch for batch in waiting if batch.done()]:
                stream = waiting.pop(batch)
                yield batch.result()
                waiting[asyncio.ensure_future(anext(stream))] = stream
    finally:
        for batch in waiting:
            batch.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
