"""One ZeroMQ socket in aiozmq's hands.

It can be told to send, connect or close from the start: aiozmq takes a turn of the loop until it has a transport, and
what is sent meanwhile waits here. Closing never waits for what could not be sent.

One message is handled in a turn of the loop. Left alone, aiozmq takes ever more in one: each that is answered makes it
look twice for others, and each of these twice again. So reading pauses while a message is handled. (aiozmq's `close`
would leave the descriptor of a paused transport in the selector; its `abort`, which is used here, does not.)
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiozmq
import zmq

from gossip.codec import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    Frames = list[bytes]

STUCK_S: Final = 5.0
"""A connection that has not taken a message for so long is dialled anew at the next."""
WAITING_MAX: Final = 64
"""Messages that wait for a connection; more are dropped."""


def _ignore(_frames: Frames) -> None:
    """An XPUB hears subscriptions, which libzmq keeps by itself."""


@dataclass(eq=False)
class Channel:
    """One socket behind aiozmq: its protocol object, and what is sent before it is open."""

    socket: zmq.Socket[bytes]
    registry: set[Channel]
    receive: Callable[[Frames], None] = _ignore
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    used_at: float = 0.0
    waiting_since: float | None = None
    waiting: list[Frames] = field(default_factory=list)
    transport: Any = None  # aiozmq has no types
    monitor: Channel | None = None
    opening: bool = False
    closing: bool = False

    async def open(self) -> None:
        """Start reading and writing."""
        if self.closing:
            return
        self.opening = True
        await aiozmq.create_zmq_connection(lambda: self, self.socket.type, zmq_sock=self.socket)

    def connect(self, address: str, port: int) -> None:
        """Connect the socket; libzmq goes on trying."""
        if not self.closing:
            self.socket.connect(endpoint(address, port))

    def watch(self, endpoint: str, events: int, monitor: Channel) -> None:
        """Send the socket's events to `monitor`, which lives as long as this."""
        self.monitor = monitor
        self.socket.monitor(endpoint, events)

    def send(self, frames: Frames) -> bool:
        """Send, or wait for a connection; False when too much waits already."""
        if self.closing:
            return False
        if self.transport is None:
            if len(self.waiting) < WAITING_MAX:
                self.waiting.append(frames)
                return True
            return False
        # aiozmq keeps what the socket does not take.
        if self.transport.get_write_buffer_size() > MESSAGE_BYTES_MAX:
            return False
        self.transport.write(frames)
        return True

    def answer(self, frames: Frames) -> None:
        """Send, if there is room; who does not get an answer asks again."""
        self.send(frames)

    def stuck(self, now: float) -> bool:
        """Whether messages have waited for too long."""
        if self.transport is None or not self.transport.get_write_buffer_size():
            self.waiting_since = None
            return False
        if self.waiting_since is None:
            self.waiting_since = now
        return now - self.waiting_since > STUCK_S

    def close(self) -> None:
        """Close the socket, at the latest at the next turn of the loop."""
        if self.closing:
            return
        self.closing = True
        if self.monitor is not None:
            self.socket.disable_monitor()
            self.monitor.close()
        if self.transport is not None:
            # `close` would wait for what could not be sent.
            self.transport.abort()
        elif not self.opening:
            self._gone()
        # Otherwise aiozmq watches the descriptor already, and must let go of it before it is closed.

    # The protocol that aiozmq calls.

    def connection_made(self, transport: Any) -> None:
        """The socket is in aiozmq's hands."""
        self.transport = transport
        if self.closing:
            transport.abort()
            return
        for frames in self.waiting:
            transport.write(frames)
        self.waiting.clear()

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is closed right after this."""
        self.closing = True
        asyncio.get_running_loop().call_soon(self._gone)

    def msg_received(self, frames: Frames) -> None:
        """A message came. It is handled in a turn of the loop of its own, and the next is read after that."""
        if not self.closing:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._handle, frames)

    def _handle(self, frames: Frames) -> None:
        if self.closing:
            return
        try:
            self.receive(frames)
        finally:
            if not self.closing:
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        """The buffer is large; `send` looks at its size itself."""

    def resume_writing(self) -> None:
        """The buffer is small again."""

    def _gone(self) -> None:
        if not self.socket.closed:
            self.socket.close()
        self.registry.discard(self)
        self.closed.set()


def endpoint(address: str, port: int) -> str:
    """The TCP endpoint in ZeroMQ's spelling."""
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
