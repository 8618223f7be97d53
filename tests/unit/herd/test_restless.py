"""A peer that gives slowly is left when another one is far ahead, and only then. In simulated time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator

import pytest

from mirror.errors import UnavailableError
from mirror.herd.restless import AHEAD_BYTES_MIN, LOOK_S, TIMES, RestlessBody
from mirror.pieces import Piece
from tests.simulated_time import run

RATE = 10_000_000
SIZE = 100 * RATE


class Steady:
    """Gives the same every second; a piece stands for more bytes than it has."""

    def __init__(self) -> None:
        self.closed = False

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        for _ in range(SIZE // RATE):
            await asyncio.sleep(1.0)
            yield bytes(RATE)

    async def aclose(self) -> None:
        self.closed = True


async def read(others_have: int) -> tuple[int, list[int]]:
    """How much came before the peer was left, if it was, and for which bytes the others were asked."""
    asked: list[int] = []

    async def look(position: int) -> bool:
        asked.append(position)
        return position < others_have

    came, body = 0, RestlessBody(Steady(), 0, SIZE, look, random.Random(1))
    try:
        async for piece in body.pieces():
            assert isinstance(piece, bytes)
            came += len(piece)
    except UnavailableError:
        pass
    finally:
        await body.aclose()
    return came, asked


def test_a_peer_is_left_when_another_is_far_ahead() -> None:
    came, asked = run(read(SIZE))
    assert len(asked) == 1
    assert came <= (1.2 * LOOK_S + 2) * RATE


def test_a_peer_is_kept_when_nobody_is_far_ahead() -> None:
    came, asked = run(read(0))
    assert came == SIZE
    assert len(asked) >= SIZE // RATE / (1.2 * LOOK_S) - 2


def test_others_are_asked_for_what_would_come_in_some_time_and_never_beyond_the_end() -> None:
    _, asked = run(read(0))
    first = asked[0]
    assert first in [came + max(AHEAD_BYTES_MIN, int(TIMES * came)) for came in range(0, 5 * RATE, RATE)]
    assert max(asked) < SIZE


def test_nobody_is_asked_when_the_end_is_near() -> None:
    async def look(position: int) -> bool:
        raise AssertionError(position)

    async def scene() -> None:
        body = RestlessBody(Steady(), SIZE - AHEAD_BYTES_MIN, SIZE, look, random.Random(1))
        async for _ in body.pieces():
            pass

    run(scene())


@pytest.mark.parametrize("after", [1, 5])
def test_a_reader_that_goes_away_leaves_no_task_behind(after: int) -> None:
    async def look(position: int) -> bool:
        return False

    async def scene() -> None:
        pieces = RestlessBody(Steady(), 0, SIZE, look, random.Random(1)).pieces()
        for _ in range(after):
            await anext(pieces)
        await pieces.aclose()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(scene())
