"""Bytes that go on from another source, at the same offset, when the one that gives them breaks off."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from mirror.errors import CorruptError, LeftBehindError, NoSourceLeftError, SourceError, UnavailableError
from mirror.floor import Rating, Watch, below_floor
from mirror.oci import ByteRange
from mirror.pieces import moved
from mirror.trail import What

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mirror.pieces import Piece
    from mirror.source import Body, Content, Request, Source

log = logging.getLogger(__name__)

RESUMES_MAX: Final = 4
"""How often one answer goes on from another source before the client is left to ask again."""
REOPEN_S_MAX: Final = 25.0
"""How long it may take to find one. A runtime waits for long in the middle of a body; when it asks again, it is
answered, or goes on to the registry itself."""


def resuming(source: Source, request: Request, content: Content) -> Content:
    """The same content, whose body goes on from `source`; as it is when its positions are not known."""
    if content.positions:
        content.body = ResumingBody(source, request, content, content.positions)
    return content


class ResumingBody:
    """The bytes of a content, and of those that took its place; who gave and relayed them is added to `content`."""

    def __init__(self, source: Source, request: Request, content: Content, positions: range) -> None:
        self._source = source
        self._request = request
        self._content = content
        self._positions = positions
        self._body = content.body
        self._judge = content.judge
        self._holder = content.holder
        self._left: set[str] = set()
        self._slow: set[str] = set()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, from one source or several. Bytes that are known to be wrong are not gone on with."""
        position, stop = self._positions.start, self._positions.stop
        for resumes_left in reversed(range(RESUMES_MAX + 1)):
            # Only peers are left for being slow: behind a peer there is the registry.
            watch = Watch(position, self._judge or below_floor, self._body.aclose)
            watches = self._holder and resumes_left
            try:
                with watch:
                    async with aclosing(self._body.pieces()) as pieces:
                        async for piece in pieces:
                            if watches:
                                watch.comes(piece)
                            yield piece
                            position += moved(piece)
                            if watches:
                                watch.taken(piece)
                return
            except (CorruptError, NoSourceLeftError):
                raise
            except UnavailableError as error:
                if position == stop:
                    return
                if not resumes_left:
                    raise NoSourceLeftError(str(error)) from error
                log.warning("%s broke off at byte %d: %s", self._request.digest, position, error)
                if watch.left:
                    self._request.trail.note(What.STALLED, self._content.origin, self._holder)
                    if watch.rating is Rating.SLOW:
                        self._slow.add(self._holder)
                if not isinstance(error, LeftBehindError):
                    self._left.add(self._holder)
                await self._body.aclose()
                self._body = await self._reopen(position, stop)

    async def _reopen(self, position: int, stop: int) -> Body:
        try:
            to_end = stop == self._content.descriptor.size
            part = ByteRange(position, None if to_end else stop - 1)
            rest = self._request.in_part(part).without(self._left, self._slow)
            async with asyncio.timeout(REOPEN_S_MAX):
                content = await self._source.open(rest)
        except SourceError as error:
            raise NoSourceLeftError(f"no source goes on: {error}") from error
        except TimeoutError as error:
            raise NoSourceLeftError(f"no source goes on within {REOPEN_S_MAX:g} s") from error
        if content.positions != range(position, stop):
            await content.body.aclose()
            raise UnavailableError(f"a source gave {content.positions} instead of bytes from {position} on")
        self._content.givers += content.givers
        self._content.relays += content.relays
        self._content.lineage = content.lineage
        self._judge = content.judge
        self._holder = content.holder
        self._request.trail.note(What.RESUMED, content.origin, content.holder)
        return content.body

    async def aclose(self) -> None:
        """Release the source in use."""
        await self._body.aclose()
