"""The life of a pull: which source answers, in which order, and what happens when one breaks off.

- By digest: this node's store, then a peer, then the registry.
- By tag: the registry says what a tag means now (a HEAD with the client's own credentials); the bytes then come by
  digest. Only when the registry does not answer is the last that this node or the cluster knew good enough.
- An object that breaks off goes on at the same offset from the next source, within the same answer.
- What passes through whole is kept by a store that keeps such things.

`Pull` is itself a `Source`, made of others. It holds no state: the sources know whom to avoid.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Protocol

from mirror.errors import NotFoundError, SourceError, UnavailableError
from mirror.oci import ByteRange, Descriptor, Digest, Tag
from mirror.pieces import moved, read_piece
from mirror.source import FirstOf

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mirror.oci import Repository
    from mirror.pieces import Piece
    from mirror.source import Body, Content, Request, Source
    from mirror.stores import Ingest, Store

log = logging.getLogger(__name__)

RESUMES_MAX: Final = 4
"""How often one answer goes on from another source before the client is left to ask again."""


class LastKnown(Protocol):
    """What the cluster last knew of tags."""

    def last_known(self, repository: Repository, tag: Tag) -> Digest | None:
        """The digest that some node most recently saw the tag mean."""
        ...


class Pull:
    """Store, then peers, then upstream."""

    def __init__(self, store: Store, peers: Source, upstream: Source, cluster: LastKnown) -> None:
        self._store = store
        self._upstream = upstream
        self._elsewhere = FirstOf([peers, upstream])
        self._anywhere = FirstOf([store, peers, upstream])
        self._cluster = cluster

    async def resolve(self, request: Request) -> Descriptor:
        """Say what is meant; a tag is upstream's to explain as long as it answers."""
        if isinstance(request.reference, Digest):
            return await self._anywhere.resolve(request)
        try:
            descriptor = await self._upstream.resolve(request)
        except UnavailableError as error:
            return await self._resolve_without_upstream(request, error)
        await self._store.remember(request, descriptor.digest)
        return descriptor

    async def open(self, request: Request) -> Content:
        """Open an object; see the module's docstring for the order of sources."""
        if not isinstance(request.reference, Digest):
            request = request.by_digest((await self.resolve(request)).digest)
        try:
            return await self._store.open(request)
        except SourceError as error:
            if not isinstance(error, NotFoundError):
                log.warning("the store cannot give %s: %s", request.digest, error)
        content = await self._elsewhere.open(request)
        if not content.positions:
            return content
        content.body = ResumingBody(self._elsewhere, request, content)
        if not content.partial and (ingest := await self._store.ingest(request)):
            content.body = KeptBody(content.body, ingest)
        return content

    async def _resolve_without_upstream(self, request: Request, failure: UnavailableError) -> Descriptor:
        assert isinstance(request.reference, Tag)
        known = self._cluster.last_known(request.repository, request.reference)
        if known is None:
            raise failure
        log.warning("%s:%s is the cluster's last known: %s", request.repository, request.reference, failure)
        return await self._anywhere.resolve(request.by_digest(known))


class ResumingBody:
    """Bytes that go on from another source, at the same offset, when the first one breaks off."""

    def __init__(self, source: Source, request: Request, content: Content) -> None:
        assert content.positions is not None
        self._source = source
        self._request = request
        self._descriptor = content.descriptor
        self._positions = content.positions
        self._body = content.body

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, from one source or several."""
        position, stop = self._positions.start, self._positions.stop
        for resumes_left in reversed(range(RESUMES_MAX + 1)):
            try:
                async with aclosing(self._body.pieces()) as pieces:
                    async for piece in pieces:
                        yield piece
                        position += moved(piece)
                return
            except UnavailableError as error:
                if position == stop:
                    return
                if not resumes_left:
                    raise
                log.warning("%s broke off at byte %d: %s", self._descriptor.digest, position, error)
                await self._body.aclose()
                self._body = await self._reopen(position, stop)

    async def _reopen(self, position: int, stop: int) -> Body:
        try:
            content = await self._source.open(self._request.in_part(ByteRange(position, stop - 1)))
        except SourceError as error:
            raise UnavailableError(f"no source goes on: {error}") from error
        if content.positions != range(position, stop):
            await content.body.aclose()
            raise UnavailableError(f"a source gave {content.positions} instead of bytes from {position} on")
        return content.body

    async def aclose(self) -> None:
        """Release the source in use."""
        await self._body.aclose()


class KeptBody:
    """Bytes that are also written into the store as they pass; committed when the last one has."""

    def __init__(self, body: Body, ingest: Ingest) -> None:
        self._body = body
        self._ingest = ingest

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, unchanged."""
        async with aclosing(self._body.pieces()) as pieces:
            async for piece in pieces:
                async with aclosing(read_piece(piece)) as chunks:
                    async for chunk in chunks:
                        await self._ingest.write(chunk)
                        yield chunk
        await self._ingest.commit()

    async def aclose(self) -> None:
        """Release the source; what was not committed is given up."""
        await self._body.aclose()
        await self._ingest.abort()
