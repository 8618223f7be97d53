"""Slow peers: one that gives much less than others could is left for another source.

How much came, and does the reader wait for more? Where it does not, it is the reader who is slow. Bytes that go from
socket to socket are not seen here, so the kernel is asked (`tcpi_bytes_received` of TCP_INFO, Linux 4.1), and whether
what came has been taken a moment later. Chunks, which come under TLS, are counted. Whether a rate is too little is for
a `Judge`. What is found too slow is ended, as a broken source ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from mirror.intake import GATHER_S
from mirror.pieces import SocketPiece

if TYPE_CHECKING:
    from mirror.pieces import Piece

FLOOR_BYTES_S: Final = 256_000
"""Less than this is slow wherever nothing is known of others. Raising it leaves more sources that are merely busy, and
each change costs a request."""
LOOK_S: Final = 1.5
"""For how long a rate is measured before it is judged."""
LOOKS: Final = 2
"""So often in a row a source has to be found slow. One connection among many in a full link has bad moments; more looks
keep a slow source for longer."""
SAMPLE_S: Final = 0.5
"""How often it is looked whether the reader takes what comes."""
TAKEN_S: Final = 2 * GATHER_S
"""Within this time it does, unless it is slow: bytes are gathered for half of it."""


class Rating(Enum):
    """What is thought of a source."""

    FAIR = auto()
    SLOW = auto()
    """Others do better; but it lives, and may be the best there is in a moment."""
    HOPELESS = auto()
    """It is below the floor rate, and does not say why."""


Judge = Callable[[float, int], Awaitable[Rating]]
"""What is thought of a source that gives so many bytes a second, and is at this position of the object."""

_BYTES_RECEIVED_AT: Final = 128


async def below_floor(rate: float, _position: int) -> Rating:
    """The judge of those that nothing more is known of."""
    return Rating.HOPELESS if rate < FLOOR_BYTES_S else Rating.FAIR


class Watch:
    """Looks from time to time at a body, whose bytes are those of an object from `position` on; `rating` is the last.

    One that is found too slow is `left`: its connection is shut down, or, when this sees none, `leave` is called.
    """

    def __init__(self, position: int, judge: Judge, leave: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.left = False
        self.rating = Rating.FAIR
        self._position = position
        self._judge = judge
        self._leave_body = leave
        self._connection: socket.socket | None = None
        self._came = 0  # in chunks
        self._taken = 0
        self._watching: asyncio.Task[None] | None = None

    def comes(self, piece: Piece) -> None:
        """A piece is about to be given to the reader."""
        if isinstance(piece, SocketPiece):
            self._connection = piece.socket
            self._start()
        elif isinstance(piece, bytes):
            self._came += len(piece)

    def taken(self, piece: Piece) -> None:
        """The reader has taken it, and wants the next."""
        if isinstance(piece, bytes):
            self._taken += len(piece)
            self._start()

    def _start(self) -> None:
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        began_with = before = self._received()
        self._position += self._taken
        since, found_slow = loop.time(), 0
        while before is not None and began_with is not None:
            reader_is_slow = False
            while loop.time() - since < LOOK_S:
                await asyncio.sleep(SAMPLE_S)
                reader_is_slow |= await self._reader_is_slow()
            now, received = loop.time(), self._received()
            if received is None:
                return
            if not reader_is_slow:
                rate, position = (received - before) / (now - since), self._position + received - began_with
                self.rating = await self._judge(rate, position)
                found_slow = 0 if self.rating is Rating.FAIR else found_slow + 1
                if found_slow == LOOKS:
                    await self._leave()
                    return
            before, since = received, now

    async def _leave(self) -> None:
        self.left = True
        if self._connection is None:
            await self._leave_body()
            return
        with contextlib.suppress(OSError):  # it closed just now
            self._connection.shutdown(socket.SHUT_RDWR)

    def _received(self) -> int | None:
        """How many bytes came, on the connection since it was opened; None where the kernel does not tell."""
        return self._came if self._connection is None else _received(self._connection)

    async def _reader_is_slow(self) -> bool:
        if self._connection is None:
            return self._taken < self._came
        came = _received(self._connection)
        await asyncio.sleep(TAKEN_S)
        taken = _taken(self._connection)
        return came is None or taken is None or taken < came


def _received(connection: socket.socket) -> int | None:
    """How many bytes came on a connection since it was opened; None where the kernel does not tell."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED_AT + 8)
        (received,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)
    except (OSError, struct.error):
        return None
    return int(received)


def _taken(connection: socket.socket) -> int | None:
    """How many of them were taken."""
    waiting = bytearray(4)
    try:
        fcntl.ioctl(connection, termios.FIONREAD, waiting)
    except (OSError, ValueError):  # closed just now
        return None
    received = _received(connection)
    return None if received is None else received - int.from_bytes(waiting, sys.byteorder)
