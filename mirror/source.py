"""One interface for content: the local store, the peers and the upstream registry answer the same two questions.

- `resolve`: which object is meant? (a HEAD; answered by a `Descriptor`)
- `open`: give me its bytes, or a range of them. (a GET; answered by a `Content`)

Policy is a source made of other sources: `FirstOf` here, `mirror.pull.Pull` above it. No source knows HTTP's
server side; `mirror.registry` alone does.
"""

from __future__ import annotations

import os
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from mirror.errors import NotFoundError, UnavailableError
from mirror.oci import Digest
from mirror.pieces import FilePiece, read_piece
from mirror.trail import Trail

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from mirror.floor import Judge
    from mirror.oci import ByteRange, Descriptor, Kind, Reference, Repository
    from mirror.pieces import Piece


@dataclass(frozen=True, slots=True)
class Request:
    """What a client wants: an object of a repository by tag or digest, whole or in part.

    `authorization` is the client's own header. It goes to the registry named by the repository and to nobody
    else, so it is kept out of every representation. `left_out` names members that are not to be asked again: they
    began this answer, and broke off, or were left for being `slow`. `all_or_nothing` tells that the client takes a
    whole image from whoever gives its manifest. `size` is how many bytes the object has to have, where that is known.
    `hashes` tells that whoever asks hashes what comes, so that a source need not read a small blob whole before it
    gives the first byte. What is done for the request is noted in its `trail`.
    """

    repository: Repository
    kind: Kind
    reference: Reference
    range: ByteRange | None = None
    accept: str = ""
    authorization: str | None = field(default=None, repr=False)
    left_out: frozenset[str] = frozenset()
    slow: frozenset[str] = frozenset()
    all_or_nothing: bool = False
    size: int | None = None
    hashes: bool = field(default=False, compare=False)
    trail: Trail = field(default_factory=Trail, repr=False, compare=False)

    @property
    def digest(self) -> Digest:
        """The digest asked for; only for requests by digest."""
        assert isinstance(self.reference, Digest), "a request by tag has no digest before it is resolved"
        return self.reference

    def by_digest(self, digest: Digest) -> Request:
        """The same request for the object that its tag was found to mean."""
        return replace(self, reference=digest)

    def in_part(self, part: ByteRange | None) -> Request:
        """The same request for another part of the object."""
        return replace(self, range=part)

    def without(self, members: Iterable[str], slow: Iterable[str] = ()) -> Request:
        """The same request for others than these members, of which some were only `slow`."""
        return replace(self, left_out=self.left_out.union(members), slow=self.slow.union(slow))


class Body(Protocol):
    """The bytes of a content, to be read once; `aclose` ends it early and releases what it holds."""

    def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes in order, in pieces; see `mirror.pieces` for what the consumer owes.

        Raises `UnavailableError` when they end too early.
        """
        ...

    async def aclose(self) -> None:
        """Release descriptors and connections; may be called at any time, more than once."""
        ...


@dataclass(slots=True)
class Content:
    """An open object: what it is, which part of it is given (`positions`), by whom, and the bytes.

    `positions` is None when the source did not tell the object's size (then the body is the whole object).
    `origin` is one of `store`, `peer`, `upstream`; `holder` names the member for `peer`, `zone` where that is.
    `source` is what it counts as: the origin, but `in_flight` when another request here began to fetch it, and
    `peer_in_flight` when the peer is itself still fetching it. `givers` are all who gave a part of the bytes: it grows
    when a body goes on from another source. `lineage` names the members through which the bytes come, nearest first,
    and `relays` those through which any of them came that did not give them: it grows likewise.
    `judge` decides when the source is too slow, where more is known than the floor rate. `unshared` is to be called
    when others cannot follow what was opened for them as well.
    """

    descriptor: Descriptor
    positions: range | None
    body: Body
    origin: str
    holder: str = ""
    givers: list[str] = field(default_factory=list)
    zone: str = ""
    source: str = ""
    lineage: tuple[str, ...] = ()
    relays: list[str] = field(default_factory=list)
    judge: Judge | None = None
    unshared: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.source = self.source or self.origin
        if not self.givers:
            self.givers = [self.holder or self.origin]

    @property
    def partial(self) -> bool:
        """Whether this is less than the whole object."""
        return self.positions is not None and len(self.positions) != self.descriptor.size


class Source(Protocol):
    """Where content comes from."""

    async def resolve(self, request: Request) -> Descriptor:
        """Say which object is meant. Raises `SourceError`."""
        ...

    async def open(self, request: Request) -> Content:
        """Open an object or the part of it that `request.range` names. Raises `SourceError`.

        The first bytes are at hand when this returns: whoever answers a client can still choose another source
        until then. Positions are empty when the range lies outside the object (416).
        """
        ...


@dataclass(slots=True)
class FileBody:
    """A part of a file. Owns the descriptor: an object deleted meanwhile is still read to its end."""

    descriptor: int
    positions: range
    closed: bool = False

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The whole part as one piece."""
        piece = FilePiece(self.descriptor, self.positions.start, len(self.positions))
        if piece.length:
            yield piece
        if piece.sent < piece.length:
            raise UnavailableError(f"the file cannot be read to its end: {piece.failure}")

    async def aclose(self) -> None:
        """Close the file."""
        if not self.closed:
            self.closed = True
            os.close(self.descriptor)


@dataclass(slots=True)
class MemoryBody:
    """Bytes already in memory: small objects that were verified before their first byte goes out."""

    data: bytes

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """All bytes at once."""
        yield self.data

    async def aclose(self) -> None:
        """Nothing to release."""


class FirstOf:
    """The first of several sources that has the object.

    A source that lacks it or fails is passed over. When none is left the reason is the strongest one met: a
    source that did not answer may have had the object (503), and only when all answered it is not found (404).
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)

    async def resolve(self, request: Request) -> Descriptor:
        """The first descriptor that a source gives."""
        failure: UnavailableError | None = None
        for source in self._sources:
            try:
                return await source.resolve(request)
            except NotFoundError:
                continue
            except UnavailableError as error:
                failure = error
        raise failure or NotFoundError(f"no source has {request.reference}")

    async def open(self, request: Request) -> Content:
        """The first content that a source gives."""
        failure: UnavailableError | None = None
        for source in self._sources:
            try:
                return await source.open(request)
            except NotFoundError:
                continue
            except UnavailableError as error:
                failure = error
        raise failure or NotFoundError(f"no source has {request.reference}")


async def read_all(body: Body, bytes_max: int) -> bytes:
    """Read a small body whole, and close it; more than `bytes_max` is an `UnavailableError`."""
    parts: list[bytes] = []
    size = 0
    try:
        async with aclosing(read_chunks(body)) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > bytes_max:
                    raise UnavailableError(f"more than {bytes_max} bytes came")
                parts.append(chunk)
    finally:
        await body.aclose()
    return b"".join(parts)


async def read_chunks(body: Body) -> AsyncGenerator[bytes, None]:
    """The pieces of a body as chunks of bytes; closing the body is left to the caller. Raises as `Body.pieces` does."""
    async with aclosing(body.pieces()) as pieces:
        async for piece in pieces:
            async with aclosing(read_piece(piece)) as chunks:
                async for chunk in chunks:
                    yield chunk
