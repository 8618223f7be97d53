"""Brings what comes on a connection into a file.

`receive` and `splice` block for some milliseconds, so they are for threads; the others are for the event loop. At full
speed a loop would be woken for every few packets. So it waits until something has come, and then a thread takes that
and what comes within the next milliseconds, up to `BATCH_BYTES`. No thread waits for a source that is silent.

Bytes that are to be hashed pass through a buffer that stays in the cache; all others are moved by splice(2),
which copies them once less.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from io import FileIO

BATCH_BYTES: Final = 4 * 1024 * 1024
"""The most that one call takes: what readers wait for at full speed."""
BATCH_S: Final = 0.05
"""The longest that one call takes, but for the disk; so late are the bytes of a slow source. Less wakes threads more
often, which is what many slow transfers cost."""
GATHER_S: Final = 0.005
"""How long it waits for more after the last bytes; it is the most that a byte is late."""
PAUSE_S: Final = 0.001
SLOW_PAUSE_S: Final = 0.004
"""How long it pauses after less than `SLOW_BYTES`, so that more is taken at a time."""
SLOW_BYTES: Final = 64 * 1024
BUFFER_BYTES: Final = 256 * 1024
PIPE_BYTES: Final = 1024 * 1024

T = TypeVar("T")
_local = threading.local()


class NoRoomError(OSError):
    """The file takes no more. What of the last bytes is in it is not known."""


def receive(connection: socket.socket, wanted: int, write: Callable[[memoryview], None]) -> int:
    """Give what comes, at most `wanted` bytes, to `write` in parts; how many came, 0 at the end of the stream.

    `write` is done with a part when it returns. Raises `BlockingIOError` when nothing came, another `OSError` when the
    connection failed before anything came, and what `write` raises.
    """
    try:
        buffer = _local.buffer
    except AttributeError:
        buffer = _local.buffer = memoryview(bytearray(BUFFER_BYTES))

    def take(left: int) -> int:
        size = connection.recv_into(buffer[:left])
        if size:
            write(buffer[:size])
        return size

    return _take_all(min(wanted, BATCH_BYTES), take)


def splice(connection: socket.socket, wanted: int, file: int) -> int:
    """Append what comes, at most `wanted` bytes, to a file (a descriptor); else as `receive`.

    Raises `NoRoomError` when the file does not take it.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        with contextlib.suppress(PermissionError):  # the user's limit is reached: a small pipe serves as well
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

        def take(left: int) -> int:
            size = held = os.splice(connection.fileno(), write_end, left)
            while held:
                try:
                    held -= os.splice(read_end, file, held)
                except OSError as error:
                    raise NoRoomError(error.errno, error.strerror) from error
            return size

        return _take_all(min(wanted, BATCH_BYTES), take)
    finally:
        os.close(read_end)
        os.close(write_end)


async def readable(connection: socket.socket, silence_s: float) -> None:
    """Wait until something has come on a connection. Raises `TimeoutError` after `silence_s`."""
    loop = asyncio.get_running_loop()
    come = asyncio.Event()
    loop.add_reader(connection.fileno(), come.set)
    try:
        async with asyncio.timeout(silence_s):
            await come.wait()
    except TimeoutError:
        raise TimeoutError(f"it was silent for {silence_s:g} s") from None
    finally:
        loop.remove_reader(connection.fileno())


async def finished(work: Coroutine[None, None, T]) -> T:
    """Do work that a thread does with a connection; it is done when this ends, even by a cancellation.

    Else the connection would be closed, and its number be another's, under the thread.
    """
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


def write_all(file: FileIO, part: bytes | memoryview) -> None:
    """Write all of it. Raises `NoRoomError`."""
    rest = memoryview(part)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise NoRoomError(error.errno, error.strerror) from error


def _take_all(wanted: int, take: Callable[[int], int]) -> int:
    """Let `take` take until there is no more to be had now. What fails after the first bytes will have ended later."""
    taken, size, now = 0, 0, time.monotonic()
    ends_at, pauses_until = now + BATCH_S, now + GATHER_S
    while taken < wanted and now < ends_at:
        try:
            size = take(wanted - taken)
        except BlockingIOError:
            if now >= pauses_until:
                if not taken:
                    raise
                break
            time.sleep(PAUSE_S if size >= SLOW_BYTES else SLOW_PAUSE_S)
            now = time.monotonic()
            continue
        except NoRoomError:
            raise
        except OSError:
            if not taken:
                raise
            break
        if not size:
            break
        taken += size
        now = time.monotonic()
        pauses_until = now + GATHER_S
    return taken
