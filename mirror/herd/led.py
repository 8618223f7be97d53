"""An object that this node leads: while it comes its leases tell how far it is, and they end when it does.

A small one is handed to the coordinators whole, who give it to others themselves.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from mirror.herd.words import End, Small
from mirror.oci import SMALL_BYTES_MAX
from mirror.pieces import moved
from mirror.source import MemoryBody

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from mirror.herd.claims import Lease
    from mirror.pieces import FilePiece, Piece, SocketPiece
    from mirror.source import Body, Content


def led(content: Content, leases: Sequence[Lease], offset: int) -> Content:
    """The same content, which begins at an offset, and whose leases end when it does."""
    if leases:
        body, size = content.body, content.descriptor.size
        if isinstance(body, MemoryBody) and len(body.data) == size and size <= SMALL_BYTES_MAX:
            _end(leases, End.DONE, Small(content.descriptor.media_type, body.data))
        else:
            content.body = _LedBody(body, leases, offset, size)
            content.unshared = partial(_end, leases, End.LOST)
    return content


class _LedBody:
    """The bytes, of which the leases tell how many came, also in the midst of a piece."""

    def __init__(self, body: Body, leases: Sequence[Lease], offset: int, size: int | None) -> None:
        self._body = body
        self._leases = leases
        self._size = size
        self._position = offset
        self._coming: FilePiece | SocketPiece | None = None
        for lease in leases:
            lease.progress = self._progress

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, unchanged."""
        async with aclosing(self._body.pieces()) as pieces:
            async for piece in pieces:
                self._coming = None if isinstance(piece, bytes) else piece
                yield piece
                self._coming = None
                self._position += moved(piece)

    async def aclose(self) -> None:
        """Release the source, and the leases."""
        _end(self._leases, End.DONE if self._progress() == self._size else End.LOST)
        await self._body.aclose()

    def _progress(self) -> int:
        return self._position + (self._coming.sent if self._coming else 0)


def _end(leases: Sequence[Lease], end: End, small: Small | None = None) -> None:
    for lease in leases:
        lease.end(end, small)
