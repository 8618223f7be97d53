"""What a body is made of: pieces, which whoever consumes them moves in the best way it has.

A piece is bytes in memory, a part of a file, or bytes that are still to come from a connection. A server that can
moves the last two without reading them (`mirror.zero_copy`); everybody else reads them with `read_piece`.

The consumer sets `sent` to how far it got, and then asks for the next piece. So the body's generator, when it is
resumed, sees whether its source broke off (`sent < length`) and where. A consumer whose own client is gone does not
resume the generator but closes it.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Callable

FILE_READ_BYTES: Final = 1024 * 1024
"""How much of a file is read at a time, in a thread. Larger reads cost memory per transfer and save little."""
SOCKET_READ_BYTES: Final = 64 * 1024
"""How much is read from a connection at a time; the event loop turns between two reads. A server without zero copy
holds that much for each client that is slow."""
NOT_KEPT: Final = "its bytes are kept no longer"


@dataclass(slots=True)
class FilePiece:
    """`length` bytes of a file from `start` on. The descriptor is the body's, open until the body is closed.

    `is_kept` tells whether they are all there still: it is asked after each read into memory, and before each call that
    moves some, both on the event loop.
    """

    descriptor: int
    start: int
    length: int
    is_kept: Callable[[], bool] = lambda: True
    sent: int = 0
    failure: str = ""
    """Why `sent` is less than `length`, in words for a log."""


@dataclass(slots=True)
class SocketPiece:
    """The next `length` bytes of a non-blocking connection, which is the body's; nobody else reads from it.

    A source that is silent for `silence_s`, while its bytes would be taken, has broken off.
    """

    socket: socket.socket
    length: int
    silence_s: float
    sent: int = 0
    failure: str = ""
    """Why `sent` is less than `length`, in words for a log."""


Piece = bytes | FilePiece | SocketPiece


def moved(piece: Piece) -> int:
    """How many bytes of a piece the consumer took; known when it asks for the next one."""
    return len(piece) if isinstance(piece, bytes) else piece.sent


async def read_piece(piece: Piece) -> AsyncGenerator[bytes, None]:
    """Any piece as chunks of bytes, for those who need to see them; `sent` counts the chunks taken.

    Ends early, with `failure` set, when the source does: the body's generator finds out when it is resumed.
    """
    if isinstance(piece, bytes):
        yield piece
        return
    while piece.sent < piece.length:
        try:
            chunk = await (_read_file(piece) if isinstance(piece, FilePiece) else _read_socket(piece))
        except (OSError, TimeoutError) as error:
            piece.failure = str(error) or type(error).__name__
            return
        if isinstance(piece, FilePiece) and not piece.is_kept():
            piece.failure = NOT_KEPT
            return
        if not chunk:
            piece.failure = f"it ended {piece.length - piece.sent} bytes early"
            return
        yield chunk
        piece.sent += len(chunk)


async def _read_file(piece: FilePiece) -> bytes:
    """In a thread: the disk never holds up the event loop."""
    wanted = min(FILE_READ_BYTES, piece.length - piece.sent)
    return await asyncio.to_thread(os.pread, piece.descriptor, wanted, piece.start + piece.sent)


async def _read_socket(piece: SocketPiece) -> bytes:
    await asyncio.sleep(0)  # a source that is always ahead would keep the loop to itself
    wanted = min(SOCKET_READ_BYTES, piece.length - piece.sent)
    try:
        async with asyncio.timeout(piece.silence_s):
            return await asyncio.get_running_loop().sock_recv(piece.socket, wanted)
    except TimeoutError:
        raise TimeoutError(f"it was silent for {piece.silence_s:g} s") from None
