"""Brings what comes on a connection into a file.

`receive` and `splice` block for some milliseconds, so they are for threads; the others are for the event loop. It would
be woken for every few packets, and each wake-up, with a turn of a thread and one of each reader, costs more than the
bytes. So the kernel is told to wake it for many bytes, or for what has come within some milliseconds; a thread takes
that, and goes on taking while much comes. No thread waits for a source that is slow.

Bytes that are to be hashed pass through a buffer that stays in the cache; all others are moved by splice(2),
which copies them once less.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from io import FileIO

BATCH_BYTES: Final = 4 * 1024 * 1024
"""The most that one call takes: what readers wait for at full speed."""
BATCH_S: Final = 0.02
"""The longest that one call takes, but for the disk."""
GATHER_BYTES: Final = 1024 * 1024
GATHER_S: Final = 0.03
"""A thread is called when so much has come, or when anything has after this time: the most that a byte is late."""
PAUSE_S: Final = 0.001
PAUSE_BYTES_MIN: Final = 128 * 1024
"""A pause of a thread is worth it when so much came in the one before: from a gigabit a second on."""
BUFFER_BYTES: Final = 256 * 1024
PIPE_BYTES: Final = 1024 * 1024
"""What a pipe holds that is made for one call. That takes 3 us, nothing beside the bytes of a call; and there are no
more at a time than threads, 32 at most, which is half of what a user may have (see `mirror.pipes`)."""

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


async def readable(connection: socket.socket, wanted: int, silence_s: float) -> None:
    """Wait until `wanted` bytes (or many) have come on a connection, or what comes within a moment.

    Raises `TimeoutError` when nothing comes for `silence_s`.
    """
    loop = asyncio.get_running_loop()
    come = asyncio.Event()
    wake_for(connection, min(wanted, GATHER_BYTES))
    loop.add_reader(connection.fileno(), come.set)
    gathering = loop.call_later(GATHER_S, wake_for, connection, 1)
    try:
        async with asyncio.timeout(silence_s):
            await come.wait()
    except TimeoutError:
        raise TimeoutError(f"it was silent for {silence_s:g} s") from None
    finally:
        gathering.cancel()
        loop.remove_reader(connection.fileno())
        wake_for(connection, 1)


def wake_for(connection: socket.socket, size: int) -> None:
    """The connection is readable from `size` bytes on, or at its end (SO_RCVLOWAT, socket(7))."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


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
    taken, before_pause, ends_at = 0, 0, time.monotonic() + BATCH_S
    while taken < wanted:
        try:
            size = take(wanted - taken)
        except BlockingIOError:
            if not taken:
                raise
            if taken - before_pause < PAUSE_BYTES_MIN or time.monotonic() >= ends_at:
                break
            before_pause = taken
            time.sleep(PAUSE_S)
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
    return taken
