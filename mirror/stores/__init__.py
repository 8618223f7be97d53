"""Stores: where this node's own images live.

A store is a `Source` that also tells what comes and goes (`watch`), so that the cluster's index says exactly what
this node can serve: complete, committed content only.

`oci_layout` keeps an OCI image layout directory and what passes through it; `containerd` shows what a node's
containerd has and keeps nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mirror.source import Source

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from mirror.oci import Digest, Repository, Tag
    from mirror.source import Request


@dataclass(frozen=True, slots=True)
class ContentAdded:
    """An object is complete and committed: from now on it can be opened by digest."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class ContentRemoved:
    """An object is gone."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class TagSet:
    """The store knows that a tag means a manifest; `at` is when it learned so, in seconds of Unix time."""

    repository: Repository
    tag: Tag
    digest: Digest
    at: int


@dataclass(frozen=True, slots=True)
class TagRemoved:
    """The store no longer knows the tag."""

    repository: Repository
    tag: Tag


StoreEvent = ContentAdded | ContentRemoved | TagSet | TagRemoved


class Ingest(Protocol):
    """An object on its way into a file: written in order, read as it grows, then committed or given up."""

    @property
    def keeps(self) -> bool:
        """Whether a store wants the object, whoever else does."""
        ...

    @property
    def verifies(self) -> bool:
        """Whether `commit` finds wrong bytes out."""
        ...

    async def write(self, chunks: Sequence[bytes]) -> bool:
        """Append bytes; False when they were not written, and nothing more will be (the disk is full)."""
        ...

    async def write_from(self, connection: socket.socket, wanted: int) -> int:
        """Append what has come on a non-blocking connection, at most `wanted` bytes; how many, 0 at the stream's end.

        Raises `BlockingIOError` when nothing has come, `mirror.intake.NoRoomError` when nothing more will be written,
        and `OSError` when the connection failed. Nobody else may use the connection meanwhile, nor close it.
        """
        ...

    def reader(self) -> int:
        """A descriptor on what was written, the caller's to close; after the first `write`."""
        ...

    async def commit(self) -> bool:
        """Verify and keep the object; whether it is now in the store. Raises `CorruptError` for wrong bytes."""
        ...

    async def abort(self) -> None:
        """Give the object up and free its space; does nothing after `commit`."""
        ...


class Holdings(Source, Protocol):
    """What this node has, as a pull sees it."""

    @property
    def keeps(self) -> bool:
        """Whether what passes through is kept here."""
        ...


class Store(Holdings, Protocol):
    """This node's own content."""

    def watch(self) -> AsyncGenerator[list[StoreEvent], None]:
        """What the store has, then every change, in batches; the first batch is the whole listing.

        It never ends by itself: it outlives restarts of the runtime behind the store, and after anything missed
        it yields the difference to what it said before. Each element is told once when it comes and once when
        it goes. One watcher at a time.
        """
        ...

    @property
    def answering_since(self) -> float | None:
        """Since when (`time.monotonic`) the runtime that commits into this store answers; None: it does not."""
        ...

    async def origins(self, digest: Digest) -> frozenset[Repository]:
        """The repositories that an object is known to belong to; none for one that is nobody's, or not here.

        Raises `UnavailableError` when that cannot be found out now.
        """
        ...

    async def referring(self, subject: Digest) -> Mapping[Digest, bytes]:
        """The manifests in the store that refer to another one, with their bytes; see `mirror.stores.referring`."""
        ...

    async def ingest(self, request: Request, size: int) -> Ingest | None:
        """Start keeping an object of `size` bytes that passes through; None when this store does not."""
        ...

    async def remember(self, request: Request, digest: Digest) -> None:
        """Take note that upstream says `request`'s tag means `digest`; stores that keep nothing ignore it."""
        ...
