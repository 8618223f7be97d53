"""A connection that gives too little is ended; one whose reader is slow is not."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest

from mirror import floor
from mirror.floor import Rating, below_floor, watched
from mirror.intake import GATHER_S
from tests.serving import HOST


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "LOOK_S", 0.3)
    monkeypatch.setattr(floor, "SAMPLE_S", 0.05)


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


async def read_for(connection: socket.socket, seconds: float, pause_s: float = 0.0, size: int = 2**16) -> bool:
    """Read for a while; whether the connection is still open after that."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while loop.time() < deadline:
        try:
            if not await loop.sock_recv(connection, size):
                return False
        except ConnectionResetError:
            return False
        await asyncio.sleep(pause_s)
    return True


async def test_a_source_below_the_floor_is_shut_down() -> None:
    async with receiving(1000, 0.02) as connection:
        with watched(connection, 0, below_floor) as watch:
            assert not await read_for(connection, 2)
            assert watch.rating is Rating.HOPELESS


async def test_a_source_whose_bytes_are_gathered_is_shut_down_too() -> None:
    async with receiving(1000, 0.01) as connection:
        with watched(connection, 0, below_floor):
            assert not await read_for(connection, 2, pause_s=GATHER_S)


async def test_a_source_that_is_silent_is_shut_down() -> None:
    async with receiving(1000, 30) as connection:
        with watched(connection, 0, below_floor):
            assert not await read_for(connection, 2)


async def test_a_source_above_the_floor_is_left_alone() -> None:
    async with receiving(100_000, 0.02) as connection:
        with watched(connection, 0, below_floor):
            assert await read_for(connection, 1)


async def test_a_slow_reader_is_not_the_sources_fault() -> None:
    async with receiving(100_000, 0.0) as connection:
        with watched(connection, 0, below_floor):
            assert await read_for(connection, 1, pause_s=0.05, size=1000)


async def test_what_is_over_is_watched_no_more() -> None:
    async with receiving(1000, 0.02) as connection:
        with watched(connection, 0, below_floor):
            pass
        assert await read_for(connection, 1)


async def test_the_judge_is_told_the_rate_and_the_position() -> None:
    judged: list[tuple[float, int]] = []

    async def judge(rate: float, position: int) -> Rating:
        judged.append((rate, position))
        return Rating.SLOW if len(judged) >= 2 else Rating.FAIR

    async with receiving(100_000, 0.02) as connection:
        with watched(connection, 1_000_000_000, judge) as watch:
            assert not await read_for(connection, 2)
            assert watch.left
            assert watch.rating is Rating.SLOW
    positions = [position for _, position in judged]
    assert 1_000_000_000 < positions[0] < positions[1] < positions[2]
    assert len(positions) == 3
    assert all(1_000_000 < rate < 20_000_000 for rate, _ in judged)


async def test_one_bad_moment_is_forgiven() -> None:
    judged = itertools.cycle([Rating.SLOW, Rating.FAIR])

    async def judge(_rate: float, _position: int) -> Rating:
        return next(judged)

    async with receiving(100_000, 0.02) as connection:
        with watched(connection, 0, judge):
            assert await read_for(connection, 2)
