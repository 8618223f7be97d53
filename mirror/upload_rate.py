"""A limit of bytes per second for all that this node gives to its peers together, so that pods keep their network.

Bytes go out in *turns*, each a part of a piece. A turn is booked at the time when those before it will have gone out,
and waited for until then, so nobody queues and no uploader has a thread or a task of its own. All who upload book turns
of the same size, one at a time, and so have the same share; what one of them cannot take is left to the others. The
more there are the smaller their turns, so that none waits so long that its peer takes it for dead
or for slow (`mirror.floor`).
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from mirror.pieces import FilePiece, SocketPiece

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from mirror.oci import Descriptor
    from mirror.pieces import Piece
    from mirror.source import Body, Content, Request, Source

ROUND_S: Final = 0.5
"""About how long it takes until everybody had a turn."""
TURN_BYTES_MAX: Final = 1024 * 1024
TURN_BYTES_MIN: Final = 4 * 1024
SAVED_S: Final = 0.05
"""What was not used in this time may still be used: the event loop is late now and then."""


class UploadRate:
    """At most `bytes_per_s`, shared by all who book."""

    def __init__(self, bytes_per_s: int) -> None:
        assert bytes_per_s > 0, "no limit needs no object"
        self._bytes_per_s = bytes_per_s
        self._booked_until = 0.0
        self.uploads = 0

    @property
    def turn_bytes(self) -> int:
        """How much one upload may send at a time."""
        fair = int(self._bytes_per_s * ROUND_S / max(1, self.uploads))
        return max(TURN_BYTES_MIN, min(TURN_BYTES_MAX, fair))

    def book(self, size: int, now: float) -> float:
        """Take a turn of `size` bytes; how many seconds from `now` on to wait for it."""
        begins_at = max(self._booked_until, now - SAVED_S)
        self._booked_until = begins_at + size / self._bytes_per_s
        return max(0.0, begins_at - now)


class Paced:
    """A source whose bytes go out at a rate (a `Source`)."""

    def __init__(self, source: Source, rate: UploadRate) -> None:
        self._source = source
        self._rate = rate

    async def resolve(self, request: Request) -> Descriptor:
        """As the source does."""
        return await self._source.resolve(request)

    async def open(self, request: Request) -> Content:
        """As the source does."""
        content = await self._source.open(request)
        content.body = _PacedBody(content.body, self._rate)
        return content


class _PacedBody:
    """The bytes of a body, turn by turn."""

    def __init__(self, body: Body, rate: UploadRate) -> None:
        self._body = body
        self._rate = rate
        self._open = True
        rate.uploads += 1

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The same bytes in smaller pieces, each at its time."""
        loop = asyncio.get_running_loop()
        async with aclosing(self._body.pieces()) as pieces:
            async for piece in pieces:
                for part, size in _parts(piece, self._rate):
                    await asyncio.sleep(self._rate.book(size, loop.time()))
                    yield part

    async def aclose(self) -> None:
        """Release the source."""
        if self._open:
            self._open = False
            self._rate.uploads -= 1
            await self._body.aclose()


def _parts(piece: Piece, rate: UploadRate) -> Iterator[tuple[Piece, int]]:
    """A piece cut into turns, with their sizes. What became of each is added to what became of the piece."""
    if isinstance(piece, bytes):
        start = 0
        while start < len(piece):
            chunk = piece[start : start + rate.turn_bytes]
            start += len(chunk)
            yield chunk, len(chunk)
        return
    while piece.sent < piece.length:
        size = min(rate.turn_bytes, piece.length - piece.sent)
        part = (
            FilePiece(piece.descriptor, piece.start + piece.sent, size, piece.is_kept)
            if isinstance(piece, FilePiece)
            else SocketPiece(piece.socket, size, piece.silence_s)
        )
        yield part, size
        piece.sent += part.sent
        if part.sent < size:
            piece.failure = part.failure
            return
