"""What the gossip transport needs of aiozmq, written anew on the event loop's own reader.

It is here to show that the transport's seam holds: were aiozmq to fail on a future Python, this would be the start of
its replacement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from collections.abc import Callable


async def create_reader_connection(
    protocol_factory: Callable[[], Any], _kind: int, *, zmq_sock: zmq.Socket[bytes]
) -> tuple[ReaderConnection, Any]:
    """Start reading and writing; the shape of `aiozmq.create_zmq_connection`."""
    protocol = protocol_factory()
    connection = ReaderConnection(zmq_sock, protocol)
    protocol.connection_made(connection)
    connection.start()
    return connection, protocol


class ReaderConnection:
    """One socket on the loop. libzmq's descriptor tells only of changes, so each call looks for what came meanwhile."""

    def __init__(self, zmq_socket: zmq.Socket[bytes], protocol: Any) -> None:
        self._socket = zmq_socket
        self._descriptor = int(zmq_socket.getsockopt(zmq.FD))
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[list[bytes]] = deque()
        self._closed = False
        self._paused = False
        self._turn: asyncio.Handle | None = None

    def start(self) -> None:
        """Read what is there, and what comes."""
        if not self._closed:
            self._loop.add_reader(self._descriptor, self._schedule)
            self._schedule()

    def write(self, frames: list[bytes]) -> None:
        """Send, or keep until the socket takes it."""
        self._buffer.append(frames)
        self._flush()
        self._schedule()

    def get_write_buffer_size(self) -> int:
        """How many bytes are kept."""
        return sum(map(len, (frame for frames in self._buffer for frame in frames)))

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`."""
        self._paused = True

    def resume_reading(self) -> None:
        """Read on."""
        self._paused = False
        self._schedule()

    def abort(self) -> None:
        """Stop at once; what is kept is lost."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        if self._turn is not None:
            self._turn.cancel()
        self._loop.call_soon(self._protocol.connection_lost, None)

    def _schedule(self) -> None:
        if self._turn is None and not self._closed:
            self._turn = self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._turn = None
        frames = None
        if not self._paused:
            with suppress(zmq.Again):
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
        self._flush()
        # Each of these calls may have taken the signal that the descriptor would have given.
        events = int(self._socket.getsockopt(zmq.EVENTS))
        if (events & zmq.POLLIN and not self._paused) or (events & zmq.POLLOUT and self._buffer):
            self._schedule()
        if frames is not None:
            self._protocol.msg_received(frames)

    def _flush(self) -> None:
        while self._buffer:
            try:
                self._socket.send_multipart(self._buffer[0], zmq.NOBLOCK)
            except zmq.Again:
                return
            self._buffer.popleft()
