"""Leaving a peer that gives slowly, when another one is far ahead.

How slow is too slow no node can tell by itself: in a herd everybody waits for the same registry, and has what it gives.
So from time to time a follower asks the others for a byte that lies further on than it would come itself in some time.
Who has it gets on much faster; the follower leaves its peer, and goes on from there. Where nobody has it, all are as
slow, and it stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from mirror.errors import UnavailableError
from mirror.floor import received
from mirror.pieces import SocketPiece, moved

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from mirror.pieces import Piece
    from mirror.source import Body

LOOK_S: Final = 3.0
"""How often a follower looks around, which costs about ten small requests to as many peers."""
TIMES: Final = 3.0
"""How far on it looks, in what came since it looked last. Less leaves peers whose others are only somewhat faster: in a
healthy herd they do not differ by more than two."""
AHEAD_BYTES_MIN: Final = 16 * 1024 * 1024
"""The least of that: what is nearer is a matter of when somebody began."""


class RestlessBody:
    """The bytes of an object of `size` from `start` on, until `look` finds that another node has some far ahead."""

    def __init__(
        self, body: Body, start: int, size: int, look: Callable[[int], Awaitable[bool]], rng: random.Random
    ) -> None:
        self._body = body
        self._position = start
        self._size = size
        self._look = look
        self._rng = rng
        self._connection: socket.socket | None = None
        self._received = 0  # on the connection, when the position was reached
        self._leaving = False

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, unchanged; raises `UnavailableError` where it leaves its peer."""
        looking = asyncio.create_task(self._look_around())
        try:
            async with aclosing(self._body.pieces()) as pieces:
                async for piece in pieces:
                    if isinstance(piece, SocketPiece):
                        self._connection = piece.socket
                        self._received = received(piece.socket) or 0
                    yield piece
                    self._position += moved(piece)
                    if self._connection is not None:
                        self._received = received(self._connection) or 0
                    if self._leaving and self._position < self._size:
                        raise UnavailableError("another peer is far ahead of it")
        finally:
            looking.cancel()

    async def aclose(self) -> None:
        """Release the peer."""
        await self._body.aclose()

    async def _look_around(self) -> None:
        before = self._position
        while True:
            await asyncio.sleep(LOOK_S * self._rng.uniform(0.8, 1.2))
            position = self._reached()
            far = min(position + max(AHEAD_BYTES_MIN, int(TIMES * (position - before))), self._size - 1)
            before = position
            if self._size - position > AHEAD_BYTES_MIN and await self._look(far):
                self._leave()
                return

    def _reached(self) -> int:
        came = received(self._connection) if self._connection is not None else None
        return self._position + (came - self._received if came is not None else 0)

    def _leave(self) -> None:
        self._leaving = True
        if self._connection is not None:
            with contextlib.suppress(OSError):  # it closed just now
                self._connection.shutdown(socket.SHUT_RDWR)
