"""The floor rate: a peer that gives less, although more would be taken, is left for another source.

The bytes go from socket to socket without this process seeing them, so the kernel is asked: how much came on the
connection (`tcpi_bytes_received` of TCP_INFO, Linux 4.1), and does any of it wait to be taken? Where some waits, it is
the reader who is slow. A connection below the floor is shut down, which ends its piece early as a broken source does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOOR_BYTES_S: Final = 1_000_000
"""Less than this is slow. Raising it leaves more sources that are merely busy, and each change costs a request."""
FLOOR_S: Final = 3.0
"""How long a source may be slow before it is left."""
SAMPLE_S: Final = 0.5

_BYTES_RECEIVED_AT: Final = 128


@contextlib.contextmanager
def kept_above_floor(connection: socket.socket) -> Iterator[Watch]:
    """Watch a connection while its bytes are moved."""
    watch = Watch(connection)
    try:
        yield watch
    finally:
        watch.stop()


class Watch:
    """Looks at a connection from time to time; `left` once it was found too slow, and shut down."""

    def __init__(self, connection: socket.socket) -> None:
        self.left = False
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._received = _received(connection)
        self._slow_since = self._loop.time()
        self._sampled_at = self._loop.time()
        self._timer = self._loop.call_later(SAMPLE_S, self._sample)

    def stop(self) -> None:
        """Watch no more."""
        self._timer.cancel()

    def _sample(self) -> None:
        now, received = self._loop.time(), _received(self._connection)
        if received is None or self._received is None:
            return
        fast = received - self._received >= FLOOR_BYTES_S * (now - self._sampled_at)
        if fast or _waiting(self._connection):
            self._slow_since = now
        elif now - self._slow_since >= FLOOR_S:
            self.left = True
            with contextlib.suppress(OSError):  # it closed just now
                self._connection.shutdown(socket.SHUT_RDWR)
            return
        self._received, self._sampled_at = received, now
        self._timer = self._loop.call_later(SAMPLE_S, self._sample)


def _received(connection: socket.socket) -> int | None:
    """How many bytes came on a connection since it was opened; None where the kernel does not tell."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED_AT + 8)
        (received,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)
    except (OSError, struct.error):
        return None
    return int(received)


def _waiting(connection: socket.socket) -> int:
    """How many bytes came and were not taken yet."""
    (waiting,) = struct.unpack("=i", fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4)))
    return int(waiting)
