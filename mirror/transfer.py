"""Transfers: objects in flight on this node, each fetched once, whoever reads it.

A transfer takes an object from its source into a file and gives it to any number of readers, each from the offset it
wants, while the file grows. There is one for each (registry, digest): a registry that gives wrong bytes spoils only
its own. Who reads is not known beforehand and may leave at any time; the transfer goes on while somebody reads, at
most `AHEAD_BYTES_MAX` ahead of the foremost, and for `LINGER_S` after that. One that the store keeps goes on anyway.

It is never the reason that a pull fails. When it ends early (its sources are lost, the disk is full), its readers get
an `UnavailableError` where it ended, and go on from elsewhere (`mirror.resuming`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mirror.errors import LeftBehindError, NoSourceLeftError, UnavailableError
from mirror.intake import BATCH_BYTES, NoRoomError, finished, readable
from mirror.pieces import FilePiece, SocketPiece, read_piece
from mirror.source import Content, MemoryBody
from mirror.spool import SpoolFile
from mirror.verified import hashed_on_its_way
from mirror.window import Window

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from mirror.pieces import Piece
    from mirror.source import Body, Request
    from mirror.stores import Ingest
    from mirror.window import Reader

LINGER_S: Final = 5.0
"""How long a transfer that nobody reads stays: a client that lost its connection comes back, and others are late."""
AHEAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""How far a transfer runs ahead of its foremost reader; it bounds what is fetched for a client that has left. Also
how far ahead of it a reader may begin: one that wants more is better served by a request of its own."""
GATHERED_BYTES_MAX: Final = 2 * 1024 * 1024
"""What waits in memory for the disk. While a thread writes, the next bytes are gathered."""
PIECE_BYTES_MAX: Final = 8 * 1024 * 1024
"""How much a reader is given at a time: how far it got is known after each."""
HELD_BACK_BYTES: Final = 64 * 1024
"""The end of an object that is hashed, which nobody gets before the hash is known to be right."""
FIRST_BYTES_S: Final = 10.0
"""How long a reader waits for the bytes at its offset before it gets a request of its own."""
END_S: Final = 1.0
"""How long a source whose last byte came may take to end."""
WINDOW_PIECE_BYTES: Final = 1024 * 1024
"""A step of a reader in a window, whose room is free only when the step was taken."""

log = logging.getLogger(__name__)


class Bell:
    """Wakes all who wait for something to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake them."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self) -> None:
        """Wait for the next ring."""
        await self._event.wait()


class Transfer:
    """One object in flight; made with the content that gives it, whole, and the file to put it into.

    `changed` is called when it has ended, when it is `joinable` no more, and when it is `closed`.
    """

    def __init__(self, content: Content, file: Ingest, changed: Callable[[Transfer], None]) -> None:
        assert content.descriptor.size is not None, "an object whose size is not told is not shared"
        self.content = content
        self.size = content.descriptor.size
        self.failure: UnavailableError | None = None
        self._failed_for_good = False
        self.descriptor = -1
        self.verifies = file.verifies
        self.closed = False
        self._counts_as = content.source  # for the request that began it; for those that join, it is in flight
        self._file = file
        self._written = 0
        self._verified = not file.verifies
        self._foremost = 0
        self._readers: set[Reader] = set()
        self._gathered: deque[bytes] = deque()
        self._gathered_bytes = 0
        self._drawn: SocketPiece | None = None
        self._fetched = 0  # gathered, on its way to the disk, or written
        self._grown = Bell()
        self._stirred = Bell()  # bytes were gathered or written, a reader moved, the source ended
        self._window: Window | None = None
        if isinstance(file, SpoolFile) and file.room < self.size:
            self._window = Window(file, self._readers, self._stirred.wait)
        self.piece_bytes_max = WINDOW_PIECE_BYTES if self._window else PIECE_BYTES_MAX
        self._changed = changed
        self._lingering: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._feeding = asyncio.create_task(self._feed())
        self._linger()

    async def open(self, request: Request, *, verified: bool) -> Content | None:
        """The part that `request` wants, once its first bytes are here; None when another source does better.

        `verified`: a small blob only when all of it is here and was found right.
        """
        positions = request.range.resolve(self.size) if request.range else range(self.size)
        content = self.content
        if not positions:
            return Content(content.descriptor, range(0), MemoryBody(b""), content.origin, content.holder)
        if not self.joinable or not self._start <= positions.start <= self._written + AHEAD_BYTES_MAX:
            return None
        body = TransferBody(self, positions)
        try:
            if verified and hashed_on_its_way(request, self.size):
                await self.reach(self.size - 1)
            else:
                async with asyncio.timeout(FIRST_BYTES_S):
                    await self.reach(positions.start)
        except BaseException as error:
            await body.aclose()
            if isinstance(error, TimeoutError | UnavailableError):
                return None
            raise
        source, self._counts_as = self._counts_as, "in_flight"
        return replace(content, positions=positions, body=body, source=source)

    @property
    def joinable(self) -> bool:
        """Whether newcomers may read it: all is here, or on its way."""
        return self.failure is None and self._closing is None

    @property
    def fetched(self) -> int:
        """How many bytes came so far."""
        return self._fetched

    @property
    def readers(self) -> int:
        """How many read it now."""
        return len(self._readers)

    @property
    def paused(self) -> bool:
        """Whether its sources are lost, but not what came: it can go on with another one."""
        return self.failure is not None and not self._failed_for_good and self._closing is None

    @property
    def written(self) -> int:
        """How many bytes came."""
        return self._written

    def go_on(self, content: Content) -> None:
        """Continue, from `written` on, with another content than the one that was lost."""
        assert self.paused
        self.content.givers += content.givers
        self.content.relays += content.relays
        content.givers, content.relays = self.content.givers, self.content.relays  # as readers have them already
        self.content = content
        self.failure = None
        self._fetched = self._written
        self._feeding = asyncio.create_task(self._feed())
        self._changed(self)

    @property
    def readable(self) -> int:
        """How far readers may get now."""
        return self._written if self._verified else min(self._written, max(0, self.size - HELD_BACK_BYTES))

    async def reach(self, position: int) -> None:
        """Wait until the byte at `position` can be read. Raises `UnavailableError` when that will not be."""
        while self.readable <= position:
            if self.failure is not None:
                raise type(self.failure)(str(self.failure))
            await self._grown.wait()

    def join(self, reader: TransferBody) -> None:
        """A reader comes."""
        self._readers.add(reader)
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        self.progressed(reader)

    def progressed(self, reader: TransferBody) -> None:
        """A reader got further."""
        self._foremost = max(self._foremost, reader.position)
        self._stirred.ring()

    def leave(self, reader: TransferBody) -> None:
        """A reader goes."""
        self._readers.discard(reader)
        self._stirred.ring()
        if not self._readers:
            self._linger()

    @property
    def _start(self) -> int:
        return self._window.start if self._window else 0

    def check(self) -> None:
        """Assert what always holds."""
        assert 0 <= self._start <= self._written <= self.size
        assert all(reader.position >= self._start for reader in self._readers)

    async def aclose(self) -> None:
        """Stop fetching, and free the file."""
        self._stop()
        assert self._closing is not None
        await asyncio.shield(self._closing)

    def _stop(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
            self._changed(self)

    def _linger(self) -> None:
        if self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(
                0 if self.failure and not self.paused else LINGER_S, self._stop_lingering
            )

    def _stop_lingering(self) -> None:
        self._lingering = None
        wanted_by_store = self._file.keeps and not self._feeding.done()
        if not self._readers and not wanted_by_store:
            self._stop()

    async def _close(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        self._feeding.cancel()
        await asyncio.wait([self._feeding])
        await self._file.abort()
        if self.descriptor >= 0:
            await asyncio.to_thread(os.close, self.descriptor)
        self.closed = True
        self._changed(self)

    async def _feed(self) -> None:
        """Bring the object from its source into the file."""
        body = self.content.body  # `go_on` may put another one in its place before this one is closed
        reading = asyncio.create_task(self._read(body))
        reading.add_done_callback(lambda _: self._stirred.ring())
        try:
            await self._write(reading)
            await asyncio.wait([reading], timeout=END_S)  # so the source learns that all of it was taken
            await self._file.commit()
            self._verified = True
        except UnavailableError as error:
            self.failure = error
            self._failed_for_good = not isinstance(error, NoSourceLeftError)
            log.warning("the transfer of %s ended at byte %d: %s", self.content.descriptor.digest, self._written, error)
        finally:
            if not self._verified or self._written < self.size:
                self.failure = self.failure or UnavailableError("the transfer was given up")
            self._changed(self)  # before a reader sees the failure, and its client comes again
            reading.cancel()
            await asyncio.wait([reading])
            await body.aclose()
            self._grown.ring()
            if not self._readers:
                self._linger()

    async def _read(self, body: Body) -> None:
        """Gather chunks while the disk is written to; what is still in a connection is for `_draw`."""
        async with aclosing(body.pieces()) as pieces:
            async for piece in pieces:
                if isinstance(piece, SocketPiece):
                    self._drawn = piece
                    self._stirred.ring()
                    while self._drawn is piece:
                        await self._stirred.wait()
                    continue
                async with aclosing(read_piece(piece)) as chunks:
                    async for chunk in chunks:
                        while self._gathered_bytes >= GATHERED_BYTES_MAX or self._far_ahead():
                            await self._stirred.wait()
                        self._gathered.append(chunk)
                        self._gathered_bytes += len(chunk)
                        self._fetched += len(chunk)
                        self._stirred.ring()

    async def _write(self, reading: asyncio.Task[None]) -> None:
        while self._written < self.size:
            if self._gathered:
                chunks, length = tuple(self._gathered), self._gathered_bytes
                self._gathered.clear()
                self._gathered_bytes = 0
                if self._window is not None:
                    await self._window.make_room(self._written, length)
                if not await self._file.write(chunks):
                    raise UnavailableError("the disk took no more")
                self._grow(length)
            elif self._drawn is not None:
                await self._draw(self._drawn)
                self._drawn = None
                self._stirred.ring()
            elif reading.done():
                raise reading.exception() or UnavailableError("the source ended early")
            else:
                await self._stirred.wait()

    async def _draw(self, piece: SocketPiece) -> None:
        """Bring what comes on a connection into the file, without seeing it; ends early as `read_piece` does."""
        full = False
        while piece.sent < piece.length:
            while self._far_ahead():
                await self._stirred.wait()
            wanted = min(BATCH_BYTES, piece.length - piece.sent)
            if self._window is not None:
                await self._window.make_room(self._written, wanted)
            try:
                if not full:
                    await readable(piece.socket, wanted, piece.silence_s)
                length = await finished(self._file.write_from(piece.socket, wanted))
            except NoRoomError:
                raise UnavailableError("the disk took no more") from None
            except BlockingIOError:
                full = False
                continue
            except OSError as error:
                piece.failure = str(error)
                return
            if not length:
                piece.failure = f"it ended {piece.length - piece.sent} bytes early"
                return
            full = length == wanted
            piece.sent += length
            self._fetched += length
            self._grow(length)

    def _grow(self, length: int) -> None:
        if self.descriptor < 0:
            self.descriptor = self._file.reader()
        self._written += length
        self._stirred.ring()
        # In the next turn: by then a thread brings the next bytes, while readers keep the loop busy for milliseconds.
        asyncio.get_running_loop().call_soon(self._grown.ring)

    def _far_ahead(self) -> bool:
        return self._fetched - self._foremost > AHEAD_BYTES_MAX and not self._file.keeps


class TransferBody:
    """What one reader gets of a transfer; `position` is how far it is; see `mirror.window.Reader`."""

    def __init__(self, transfer: Transfer, positions: range) -> None:
        self._transfer = transfer
        self._stop = positions.stop
        self._open = True
        self.position = positions.start
        self.moves = 0
        self.left_behind = False
        transfer.join(self)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes as the file grows; raises `UnavailableError` where it ends, `LeftBehindError` in a hole."""
        transfer = self._transfer
        while self.position < self._stop:
            await transfer.reach(self.position)
            self._check_kept()
            length = min(min(transfer.readable, self._stop) - self.position, transfer.piece_bytes_max)
            piece = FilePiece(transfer.descriptor, self.position, length, self._is_kept)
            yield piece
            self.position += piece.sent
            transfer.progressed(self)
            if piece.sent < piece.length:
                self._check_kept()
                raise UnavailableError(f"the spool cannot be read: {piece.failure}")

    def _check_kept(self) -> None:
        if self.left_behind:
            raise LeftBehindError("others waited for this reader for too long")

    def _is_kept(self) -> bool:
        self.moves += 1  # this is asked before more of a piece is taken
        return not self.left_behind

    async def aclose(self) -> None:
        """Leave the transfer to others."""
        if self._open:
            self._open = False
            self._transfer.leave(self)
