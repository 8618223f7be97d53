"""How an object goes out: its headers, and its bytes in the best way that the server offers.

After the status line there is no way to say that something went wrong except to stop short: the response then ends
without its last bytes, the server closes the connection with FIN, and the runtime asks again from its offset. (A reset,
or a complete body with wrong bytes, would fail its pull.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from mirror.cached_files import read_cached
from mirror.errors import UnavailableError
from mirror.extensions import SPLICE, ZERO_COPY_SEND, ClientGoneError, EndedEarlyError
from mirror.load import GIVERS_HEADER, LINEAGE_HEADER, write_names
from mirror.pieces import FilePiece, SocketPiece, read_piece

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from mirror.oci import ByteRange, Descriptor
    from mirror.pieces import Piece
    from mirror.source import Content
    from mirror.trail import Answer, Observer

log = logging.getLogger(__name__)

SOURCE_HEADER: Final = "Skvaller-Source"
"""Tells where the bytes of an answer come from: `store`, `peer` or `upstream`."""
HOLDER_HEADER: Final = "Skvaller-Holder"
"""Names the member that gave them, when they come from a peer; percent-encoded, as all names are (`mirror.load`)."""
_SOURCE, _HOLDER, _LINEAGE, _GIVERS = (
    name.lower().encode() for name in (SOURCE_HEADER, HOLDER_HEADER, LINEAGE_HEADER, GIVERS_HEADER)
)
COPIED_BYTES_MAX: Final = 32 * 1024
"""A file of at most this size is copied behind the head, if it is in memory: that takes fewer calls than to move it."""


class ContentResponse(Response):
    """Streams a content. Pure ASGI: the bytes pass through no other layer."""

    def __init__(self, answer: Answer, content: Content, asked: ByteRange | None, observer: Observer) -> None:
        self._answer = answer
        self._content = content
        self._observer = observer
        positions, size = content.positions, content.descriptor.size
        part = _is_part(content, asked)
        headers = describe(content.descriptor, len(positions) if positions is not None else None)
        headers.append((_SOURCE, content.origin.encode()))
        if content.holder:
            headers.append((_HOLDER, write_names([content.holder]).encode()))
        if content.origin != "store":
            headers.append((_LINEAGE, write_names(content.lineage).encode()))
            headers.append((_GIVERS, write_names(content.givers).encode()))
        if part and positions is not None:
            headers.append((b"content-range", f"bytes {positions.start}-{positions.stop - 1}/{size}".encode()))
        self.status_code = 206 if part else 200
        self.raw_headers = headers
        self._length = None if positions is None else len(positions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then piece by piece at the client's pace; stop when it goes away."""
        sender = _Sender(scope, receive, send, self._length)
        answer = self._answer
        answer.status, answer.content, answer.progress = self.status_code, self._content, sender.progress
        answer.first_byte_s = time.monotonic() - answer.began_at
        self._observer.answered(answer)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with aclosing(self._content.body.pieces()) as pieces:
                async for piece in pieces:
                    await sender.send(piece)
            await sender.end()
            answer.complete = True
        except UnavailableError as error:
            log.warning("%s broke off after %d bytes: %s", self._content.descriptor.digest, sender.sent, error)
        except ClientGoneError:
            pass
        finally:
            sender.close()
            await self._content.body.aclose()
            answer.duration_s = time.monotonic() - answer.began_at
            self._observer.ended(answer)


class _Sender:
    """Sends pieces in the best way that the server offers, and says in each how far that went; `sent` is the sum.

    The message with the last bytes also ends the answer, where it can be known before that they are the last.
    Raises `ClientGoneError` when there is nobody to send to. (ASGI's plain `send` does not tell, `receive` does.)
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, length: int | None) -> None:
        self._extensions = scope.get("extensions", {}) if length is not None else {}
        self._length = length
        self._ended = False
        self._receive = receive
        self._send = send
        self._gone: asyncio.Task[None] | None = None
        self.sent = 0

    async def send(self, piece: Piece) -> None:
        """Send one piece, as far as its source goes."""
        data = _cached(piece) if isinstance(piece, FilePiece) and not self.sent else None
        if data is not None:
            await self._send_chunks(data)
            assert isinstance(piece, FilePiece)
            piece.sent = piece.length
        elif isinstance(piece, FilePiece) and ZERO_COPY_SEND in self._extensions:
            part = {"file": piece.descriptor, "offset": piece.start, "count": piece.length, "is_kept": piece.is_kept}
            await self._move(piece, type=ZERO_COPY_SEND, **part)
        elif isinstance(piece, SocketPiece) and SPLICE in self._extensions:
            await self._move(piece, type=SPLICE, socket=piece.socket, count=piece.length, silence_s=piece.silence_s)
        else:
            await self._send_chunks(piece)

    async def end(self) -> None:
        """End the answer, if its last bytes did not."""
        if not self._ended:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def progress(self) -> int:
        """How many bytes went out, those of the message under way included."""
        moving = None if self._ended else self._extensions.get(SPLICE)  # what moves now may be another answer's
        return self.sent + (moving["moved"]() if moving else 0)

    def close(self) -> None:
        """Watch the client no longer."""
        if self._gone is not None:
            self._gone.cancel()

    async def _move(self, piece: FilePiece | SocketPiece, **message: Any) -> None:
        last = self.sent + piece.length == self._length
        try:
            await self._send({**message, "more_body": not last})
            piece.sent = piece.length
            self._ended = last
        except EndedEarlyError as error:
            piece.sent, piece.failure = error.sent, str(error)
        except ClientGoneError as error:
            piece.sent = error.sent
            raise
        finally:
            self.sent += piece.sent

    async def _send_chunks(self, piece: Piece) -> None:
        async with aclosing(read_piece(piece)) as chunks:
            async for chunk in chunks:
                if self.sent and self._gone is None:  # what is one chunk is sent before anybody could tell
                    self._gone = asyncio.create_task(_disconnected(self._receive))
                last = self._gone is None and self.sent + len(chunk) == self._length
                await self._send({"type": "http.response.body", "body": chunk, "more_body": not last})
                self._ended = last
                if self._gone is not None and self._gone.done():
                    raise ClientGoneError("the client closed the connection", 0)
                self.sent += len(chunk)


def _cached(piece: FilePiece) -> bytes | None:
    small = piece.length <= COPIED_BYTES_MAX
    return read_cached(piece.descriptor, piece.start, piece.length) if small and piece.is_kept() else None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def describe(descriptor: Descriptor, length: int | None) -> list[tuple[bytes, bytes]]:
    """The headers that say which object an answer is about, and how many bytes of it come (None: that is not known)."""
    digest = str(descriptor.digest).encode()
    headers = [
        (b"content-type", descriptor.media_type.encode("latin-1")),
        (b"docker-content-digest", digest),
        (b"etag", b'"%b"' % digest),
        (b"accept-ranges", b"bytes"),
    ]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    return headers


def _is_part(content: Content, asked: ByteRange | None) -> bool:
    """Whether the answer is the part that was asked for (206), which may be the whole.

    To `bytes=0-` a whole object with a 200 would be right too, but then containerd asks for no parts in parallel.
    """
    size = content.descriptor.size
    if content.partial or asked is None or not size:
        return content.partial
    return content.positions == asked.resolve(size)
