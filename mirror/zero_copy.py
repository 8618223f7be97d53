"""The HTTP/1.1 protocol of uvicorn (httptools), with the extensions of `mirror.extensions` on plain connections.

Bytes go from a file or a socket to the client's connection without passing through Python (`mirror.movers`). What
surrounds them stays uvicorn's: parsing, keep-alive, pipelining, the check of the Content-Length.

uvicorn has no public way to do this, so a few of its private names are used. They are compared with what this module
was written for when it is imported; where one is missing, `MISMATCH` says so and the server does without.
"""

from __future__ import annotations

import inspect
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mirror.extensions import SPLICE, ZERO_COPY_SEND, ClientGoneError, EndedEarlyError
from mirror.movers import FileMover, Mover, SocketMover
from mirror.pieces import SocketPiece, read_piece
from mirror.pipes import PipePool
from mirror.request_limits import LimitedProtocol

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mirror.request_limits import ConnectionObserver

DISK_THREADS: Final = 4
"""Threads that bring cold files into memory. They are apart from those that open files, so that many cold blobs do
not hold up a manifest."""
JOINED_BYTES_MAX: Final = 64 * 1024
"""Bytes that are copied behind the head of their answer, so that both leave in one call."""
UNSENT_BYTES_MAX: Final = 512 * 1024
"""How much the kernel takes for a connection ahead of what it can send. Clients that fetch parallel ranges ask for
"from here to the end" and hang up when they have their part: what was taken ahead of them, up to 4 MiB (tcp_wmem),
crossed the network for nothing. A connection that is never short of bytes is not slower for it."""
JUST_NOW_MS: Final = 500
"""A client to which nothing was sent for longer says nothing of how much it could take."""
_UNACKED_AT: Final = 24
_LAST_SENT_AT: Final = 44
_NOTSENT_AT: Final = 144
"""Where these are in TCP_INFO (linux/tcp.h, since 4.6), each in four bytes."""
_CYCLE: Final = frozenset(
    [
        "scope",
        "transport",
        "disconnected",
        "response_started",
        "response_complete",
        "chunked_encoding",
        "expected_content_length",
    ]
)
_PROTOCOL: Final = frozenset(["scheme", "scope", "transport", "flow"])


def mismatch() -> str:
    """What this module uses of uvicorn and this uvicorn does not have; "" when all is there."""
    missing = set(_CYCLE - set(RequestResponseCycle.__init__.__code__.co_names))
    missing |= _PROTOCOL - set(HttpToolsProtocol.__init__.__code__.co_names)
    if not hasattr(FlowControl, "drain"):
        missing.add("FlowControl.drain")
    if not hasattr(HttpToolsProtocol, "on_message_begin"):
        missing.add("on_message_begin")
    start = getattr(HttpToolsProtocol, "_start_asgi_task", None)
    if start is None or list(inspect.signature(start).parameters) != ["self", "cycle", "app"]:
        missing.add("_start_asgi_task(cycle, app)")
    return ", ".join(sorted(missing))


MISMATCH: Final = mismatch()


class ZeroCopy:
    """Makes the protocols of one server, and owns what they share: pipes, and threads that wait for the disk."""

    def __init__(self, observer: ConnectionObserver | None = None) -> None:
        self.observer = observer
        self.pipes = PipePool()
        self.disk = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")

    def protocol(self, *args: Any, **kwargs: Any) -> ZeroCopyProtocol:
        """A protocol for a new connection; takes the place of uvicorn's protocol class, and its arguments."""
        return ZeroCopyProtocol(self, *args, **kwargs)

    def close(self) -> None:
        """Let go of pipes and threads, once the connections have ended."""
        self.pipes.close()
        self.disk.shutdown(wait=False)


class ZeroCopyProtocol(LimitedProtocol):
    """One connection of a client."""

    def __init__(self, shared: ZeroCopy, *args: Any, **kwargs: Any) -> None:
        super().__init__(shared.observer, *args, **kwargs)
        self._shared = shared
        self._mover: Mover | None = None
        self._duplicate: socket.socket | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End the transfer too. The duplicate of the descriptor would keep the connection open."""
        if self._mover is not None:
            self._mover.stop(ClientGoneError("the client closed the connection", self._mover.sent))
        if self._duplicate is not None:
            self._duplicate.close()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Offer the extensions; under TLS the bytes must pass through the process to be encrypted."""
        super().on_message_begin()
        if self.scheme == "http":
            self.scope["extensions"] = {ZERO_COPY_SEND: {}, SPLICE: {"moved": self._moved, "keeps_up": self._keeps_up}}

    def _moved(self) -> int:
        return 0 if self._mover is None else self._mover.sent

    def _keeps_up(self) -> bool:
        try:
            info = self._client().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _NOTSENT_AT + 4)
            unacknowledged, last_sent_ms, not_sent = (
                struct.unpack_from("=I", info, at)[0] for at in (_UNACKED_AT, _LAST_SENT_AT, _NOTSENT_AT)
            )
        except (OSError, struct.error):  # closed just now, or the kernel does not tell
            return False
        return not (unacknowledged or not_sent) and last_sent_ms <= JUST_NOW_MS

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        cycle.transport = _Output(cycle.transport)  # type: ignore[assignment]
        super()._start_asgi_task(cycle, partial(self._run, app, cycle))

    async def _run(self, app: ASGIApp, cycle: RequestResponseCycle, scope: Scope, receive: Receive, send: Send) -> None:
        output: _Output = cycle.transport  # type: ignore[assignment]

        async def send_any(message: Message) -> None:
            if message["type"] == ZERO_COPY_SEND:
                await self._send_file(cycle, message)
            elif message["type"] == SPLICE:
                await self._send_socket(cycle, message, send)
            elif message["type"] == "http.response.start":
                output.holds_next = True
                await send(message)
                return
            else:
                await send(message)
                output.flush()  # the answer to a HEAD is nothing but its head
                return
            if not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                output.flush()

        await app(scope, receive, send_any)

    async def _send_file(self, cycle: RequestResponseCycle, message: Message) -> None:
        file = message["file"]
        descriptor = file if isinstance(file, int) else file.fileno()
        start = message.get("offset")
        if start is None:
            start = os.lseek(descriptor, 0, os.SEEK_CUR)
        length = message.get("count")
        if length is None:
            length = os.fstat(descriptor).st_size - start
        is_kept = message.get("is_kept", lambda: True)
        if length and await self._ready(cycle, length):
            positions = range(start, start + length)
            await self._move(cycle, FileMover(self._client(), descriptor, positions, self._shared.disk, is_kept))

    async def _send_socket(self, cycle: RequestResponseCycle, message: Message, send: Send) -> None:
        piece = SocketPiece(message["socket"], message["count"], message["silence_s"])
        if not piece.length or not await self._ready(cycle, piece.length):
            return
        pipe = self._shared.pipes.take()
        if pipe is None:
            await self._send_read(cycle, piece, send)
            return
        mover = SocketMover(self._client(), piece.socket, piece.length, piece.silence_s, pipe)
        try:
            await self._move(cycle, mover)
        finally:
            self._shared.pipes.give_back(pipe, empty=not mover.held)

    async def _send_read(self, cycle: RequestResponseCycle, piece: SocketPiece, send: Send) -> None:
        async with aclosing(read_piece(piece)) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._check_client(cycle)  # `send` does not tell
        if piece.sent < piece.length:
            raise EndedEarlyError(piece.failure, piece.sent)

    async def _ready(self, cycle: RequestResponseCycle, length: int) -> bool:
        """Send all that was written before, the head too; False when there is nothing to send (HEAD)."""
        self._check_client(cycle)  # first: without a client not even the response was started
        if not cycle.response_started or cycle.response_complete or cycle.chunked_encoding:
            raise RuntimeError("bytes are moved only inside a response with a Content-Length")
        if cycle.scope["method"] == "HEAD":
            return False
        if length > cycle.expected_content_length:
            raise RuntimeError("Response content longer than Content-Length")
        transport = self.transport
        output: _Output = cycle.transport  # type: ignore[assignment]
        self._send_head(output.take_head())
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(high=0)  # writing is then paused until the buffer is empty
            try:
                while transport.get_write_buffer_size() and not cycle.disconnected:
                    await self.flow.drain()
            finally:
                transport.set_write_buffer_limits()
        self._check_client(cycle)
        return True

    def _check_client(self, cycle: RequestResponseCycle) -> None:
        if cycle.disconnected or self.transport.is_closing():
            raise ClientGoneError("the client closed the connection", 0)

    def _send_head(self, head: bytes) -> None:
        """Send a head so that it shares its first packet with the bytes that follow at once."""
        if head and not self.transport.get_write_buffer_size():
            with suppress(OSError):  # the connection takes nothing now, or is gone: the transport finds out
                head = head[self._client().send(head, socket.MSG_MORE) :]
        if head:
            self.transport.write(head)

    def _client(self) -> socket.socket:
        if self._duplicate is None:
            self._duplicate = socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))
            self._duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
        return self._duplicate

    async def _move(self, cycle: RequestResponseCycle, mover: Mover) -> None:
        self._mover = mover
        try:
            reason = await mover.done
        except ClientGoneError:
            cycle.disconnected = True
            self.transport.abort()
            raise
        finally:
            self._mover = None
            mover.stop()  # if the answer was given up
            cycle.expected_content_length -= mover.sent
        if reason:
            raise EndedEarlyError(reason, mover.sent)


class _Output:
    """What a cycle writes to: the transport, except that the head of an answer waits for what comes after it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.holds_next = False
        """Whether the next that is written is a head."""

    def write(self, data: bytes) -> None:
        """Hold a head back; write anything else, behind the head that was held back."""
        if self.holds_next:
            self.holds_next = False
            self._head = data
        elif len(data) < JOINED_BYTES_MAX:
            self._transport.write(self.take_head() + data)
        else:
            self._transport.write(self.take_head())
            self._transport.write(data)

    def flush(self) -> None:
        """Hold nothing back any longer."""
        if self._head:
            self._transport.write(self.take_head())

    def take_head(self) -> bytes:
        """The head that was held back, which is the caller's to send."""
        head, self._head = self._head, b""
        return head

    def is_closing(self) -> bool:
        """As the transport."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the transport when all is written."""
        self.flush()
        self._transport.close()
