"""Takes what comes on a connection into memory, in chunks so large that handing each on costs little.

At full speed the loop would be woken for every few packets. So once something has come, a thread takes it, and waits a
few milliseconds for more; it never waits for a source that is silent, so a slow one costs no thread.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator

    from mirror.pieces import SocketPiece

CHUNK_BYTES: Final = 1024 * 1024
GATHER_S: Final = 0.005
"""How long a thread waits for a chunk to fill; it is the most that a byte is late."""
PAUSE_S: Final = 0.001


async def take(piece: SocketPiece) -> AsyncGenerator[bytes | bytearray, None]:
    """A piece as large chunks; ends early as `mirror.pieces.read_piece` does, with `failure` set."""
    while piece.sent < piece.length:
        try:
            await _readable(piece.socket, piece.silence_s)
            chunk = await _received(piece.socket, min(CHUNK_BYTES, piece.length - piece.sent))
        except TimeoutError:
            piece.failure = f"it was silent for {piece.silence_s:g} s"
            return
        except OSError as error:
            piece.failure = str(error)
            return
        if not chunk:
            piece.failure = f"it ended {piece.length - piece.sent} bytes early"
            return
        yield chunk
        piece.sent += len(chunk)


async def _readable(connection: socket.socket, timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        async with asyncio.timeout(timeout_s):
            await readable.wait()
    finally:
        loop.remove_reader(connection)


async def _received(connection: socket.socket, wanted: int) -> bytearray:
    receiving = asyncio.ensure_future(asyncio.to_thread(_receive, connection, wanted))
    try:
        return await asyncio.shield(receiving)
    except asyncio.CancelledError:
        await asyncio.wait([receiving])  # else the connection would be closed, and its number be another's, under it
        raise


def _receive(connection: socket.socket, wanted: int) -> bytearray:
    """What has come, and what comes within `GATHER_S`; empty at the end of the stream. Raises `OSError`."""
    chunk = bytearray(wanted)
    view, filled = memoryview(chunk), 0
    deadline = time.monotonic() + GATHER_S
    while filled < wanted:
        try:
            size = connection.recv_into(view[filled:])
        except BlockingIOError:
            if time.monotonic() >= deadline:
                break
            time.sleep(PAUSE_S)
            continue
        if not size:
            break
        filled += size
    view.release()
    del chunk[filled:]
    return chunk
