"""Bytes from a connection in large chunks: all of them, in order, and no waiting for those who are silent."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from mirror.intake import CHUNK_BYTES, take
from mirror.pieces import SocketPiece

DATA = random.Random(2).randbytes(5_000_000)


@asynccontextmanager
async def piece_of(length: int, silence_s: float = 5.0) -> AsyncGenerator[tuple[SocketPiece, socket.socket]]:
    """A piece of that length, and the connection's other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield SocketPiece(ours, length, silence_s), theirs


async def taken(piece: SocketPiece) -> list[bytes]:
    return [bytes(chunk) async for chunk in take(piece)]


async def test_all_bytes_come_in_order_and_in_large_chunks() -> None:
    async with piece_of(len(DATA)) as (piece, other):
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(other, DATA + b"the next answer"))
        chunks = await taken(piece)
        await sending
        assert b"".join(chunks) == DATA
        assert piece.sent == len(DATA)
        assert max(map(len, chunks)) <= CHUNK_BYTES
        assert piece.socket.recv(100) == b"the next answer"


async def test_a_source_that_ends_early_gives_what_it_gave() -> None:
    async with piece_of(1000) as (piece, other):
        other.sendall(b"x" * 400)
        other.close()
        assert b"".join(await taken(piece)) == b"x" * 400
        assert (piece.sent, piece.failure) == (400, "it ended 600 bytes early")


async def test_a_silent_source_costs_no_thread_and_ends_in_time() -> None:
    async with piece_of(1000, silence_s=0.2) as (piece, other):
        other.sendall(b"x")
        before = threading.active_count()
        assert await taken(piece) == [b"x"]
        assert threading.active_count() <= before + 1
        assert "silent" in piece.failure


async def test_whoever_gives_up_may_close_the_connection_at_once() -> None:
    async with piece_of(1000) as (piece, other):
        other.sendall(b"x")
        taking = asyncio.create_task(taken(piece))
        await asyncio.sleep(0.002)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        piece.socket.close()
