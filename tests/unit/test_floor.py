"""A connection that gives too little is ended; one whose reader is slow is not."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from mirror import floor
from mirror.errors import NoSourceLeftError, NotFoundError, UnavailableError
from mirror.floor import Judge, Rating, Watch, below_floor
from mirror.intake import GATHER_S
from mirror.oci import OCTET_STREAM, Descriptor, Digest, Kind, Repository
from mirror.pieces import SocketPiece
from mirror.resuming import resuming
from mirror.source import Content, Request, read_all
from tests.serving import HOST


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "LOOK_S", 0.3)
    monkeypatch.setattr(floor, "SAMPLE_S", 0.05)


@pytest.fixture(params=["connection", "chunks"])
def sees(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def receiving(chunk_bytes: int, pause_s: float) -> AsyncGenerator[socket.socket]:
    """A connection on which so many bytes come, again and again."""

    loop = asyncio.get_running_loop()
    with socket.create_server((HOST, 0)) as listener, socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, listener.getsockname())
        sender, _ = listener.accept()
        with sender:
            sender.setblocking(False)

            async def give() -> None:
                with suppress(ConnectionError):
                    while True:
                        await loop.sock_sendall(sender, bytes(chunk_bytes))
                        await asyncio.sleep(pause_s)

            giving = asyncio.create_task(give())
            yield connection
            giving.cancel()
            await asyncio.wait([giving])


@dataclass
class Reading:
    """One that reads what comes on a connection, and is watched; the watch sees the connection, or the chunks only."""

    connection: socket.socket
    watch: Watch
    sees: str

    async def read_for(self, seconds: float, pause_s: float = 0.0, size: int = 2**16) -> bool:
        """Read for a while; whether the connection is still open after that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        if self.sees == "connection":
            self.watch.comes(SocketPiece(self.connection, 2**40, 30.0))
        while loop.time() < deadline:
            try:
                chunk = await loop.sock_recv(self.connection, size)
            except ConnectionResetError:
                return False
            if not chunk:
                return False
            if self.sees == "chunks":
                self.watch.comes(chunk)
            await asyncio.sleep(pause_s)
            if self.sees == "chunks":
                self.watch.taken(chunk)
        return True


@asynccontextmanager
async def watched(
    connection: socket.socket, sees: str, position: int = 0, judge: Judge = below_floor
) -> AsyncGenerator[Reading]:
    async def leave() -> None:
        connection.shutdown(socket.SHUT_RDWR)

    watch = Watch(position, judge, leave)
    with watch:
        yield Reading(connection, watch, sees)


async def test_a_source_below_the_floor_is_shut_down(sees: str) -> None:
    async with receiving(1000, 0.02) as connection:
        async with watched(connection, sees) as reading:
            assert not await reading.read_for(2)
            assert reading.watch.rating is Rating.HOPELESS


async def test_a_source_whose_bytes_are_gathered_is_shut_down_too() -> None:
    async with receiving(1000, 0.01) as connection:
        async with watched(connection, "connection") as reading:
            assert not await reading.read_for(2, pause_s=GATHER_S)


async def test_a_source_that_is_silent_is_shut_down(sees: str) -> None:
    async with receiving(1000, 30) as connection:
        async with watched(connection, sees) as reading:
            assert not await reading.read_for(2)


async def test_a_source_above_the_floor_is_left_alone(sees: str) -> None:
    async with receiving(100_000, 0.02) as connection:
        async with watched(connection, sees) as reading:
            assert await reading.read_for(1)


async def test_a_slow_reader_is_not_the_sources_fault(sees: str) -> None:
    async def judge(_rate: float, _position: int) -> Rating:
        return Rating.SLOW

    async with receiving(2**20, 0.0) as connection:
        async with watched(connection, sees, judge=judge) as reading:
            assert await reading.read_for(1, pause_s=0.05, size=1000 if sees == "connection" else 2**16)
            assert not reading.watch.left


async def test_what_is_over_is_watched_no_more(sees: str) -> None:
    async with receiving(1000, 0.02) as connection:
        async with watched(connection, sees) as reading:
            assert await reading.read_for(0.1)
        assert await reading.read_for(1)


async def test_the_judge_is_told_the_rate_and_the_position(sees: str) -> None:
    judged: list[tuple[float, int]] = []

    async def judge(rate: float, position: int) -> Rating:
        judged.append((rate, position))
        return Rating.SLOW if len(judged) >= 2 else Rating.FAIR

    async with receiving(100_000, 0.02) as connection:
        async with watched(connection, sees, 1_000_000_000, judge) as reading:
            assert not await reading.read_for(2)
            assert reading.watch.left
            assert reading.watch.rating is Rating.SLOW
    positions = [position for _, position in judged]
    assert 1_000_000_000 < positions[0] < positions[1] < positions[2]
    assert len(positions) == 3
    assert all(1_000_000 < rate < 20_000_000 for rate, _ in judged)


class Trickle:
    """Chunks of a thousand bytes, of which one comes every hundredth of a second."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._open = True

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for _ in range(self._chunks):
            await asyncio.sleep(0.01)
            if not self._open:
                raise UnavailableError("it was closed")
            yield bytes(1000)

    async def aclose(self) -> None:
        self._open = False


class Nowhere:
    """Nobody else has it."""

    async def resolve(self, request: Request) -> Descriptor:
        raise NotFoundError("nobody")

    async def open(self, request: Request) -> Content:
        raise NotFoundError("nobody")


@pytest.mark.parametrize(("origin", "chunks"), [("peer", 2000), ("upstream", 150)])
async def test_a_peer_is_left_for_being_slow_and_a_registry_is_not(origin: str, chunks: int) -> None:
    size = 1000 * chunks
    request = Request(Repository("registry.test", "lib/app"), Kind.BLOB, Digest.of(bytes(size)))
    descriptor = Descriptor(OCTET_STREAM, request.digest, size)
    content = Content(descriptor, range(size), Trickle(chunks), origin, "bob" if origin == "peer" else "")
    body = resuming(Nowhere(), request, content).body
    if origin == "peer":
        with pytest.raises(NoSourceLeftError):
            await read_all(body, size)
    else:
        assert len(await read_all(body, size)) == size


async def test_one_bad_moment_is_forgiven(sees: str) -> None:
    judged = itertools.cycle([Rating.SLOW, Rating.FAIR])

    async def judge(_rate: float, _position: int) -> Rating:
        return next(judged)

    async with receiving(100_000, 0.02) as connection:
        async with watched(connection, sees, judge=judge) as reading:
            assert await reading.read_for(2)
