"""A coroutine under a limit behaves as under `asyncio.timeout`, whether it waits never, once or often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mirror.in_time import in_time

LONG_S = 60.0


async def at_once() -> str:
    return "answer"


async def after_some_waits() -> str:
    await asyncio.sleep(0)  # a bare yield
    await asyncio.sleep(0.001)  # a future
    async with asyncio.timeout(LONG_S), asyncio.Lock():
        return "".join(await asyncio.gather(asyncio.sleep(0.001, "ans"), asyncio.sleep(0, "wer")))


@pytest.mark.parametrize("asked", [at_once, after_some_waits])
async def test_the_result_is_that_of_the_coroutine(asked: Callable[[], Any]) -> None:
    assert await in_time(LONG_S, asked()) == "answer"


@pytest.mark.parametrize("waits", [False, True])
async def test_an_error_is_that_of_the_coroutine(waits: bool) -> None:
    async def fail() -> None:
        if waits:
            await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await in_time(LONG_S, fail())


async def test_what_waits_for_too_long_is_cancelled_and_is_a_timeout() -> None:
    heard: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    with pytest.raises(TimeoutError):
        await in_time(0.01, wait())
    assert heard == ["cancelled"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_coroutine_may_take_a_moment_to_end_when_its_time_is_over() -> None:
    async def wait() -> str:
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)  # cleans up first
            raise
        return "never"

    with pytest.raises(TimeoutError):
        await in_time(0.01, wait())


@pytest.mark.parametrize("awaits", [lambda: asyncio.sleep(LONG_S), lambda: asyncio.get_running_loop().create_future()])
async def test_whoever_is_cancelled_from_outside_is_cancelled(awaits: Callable[[], Awaitable[None]]) -> None:
    heard: list[str] = []

    async def wait() -> None:
        try:
            await awaits()
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    task = asyncio.create_task(in_time(LONG_S, wait()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == ["cancelled"]
    assert task.cancelled()
