"""A limit on how long a coroutine may wait, which costs nothing to one that never does.

`asyncio.timeout` looks up the task and sets a timer before anything is known: as much as all else that is done to find
a blob in the store. Here the coroutine takes its first step without; the rest of one that waits is under
`asyncio.timeout`, and all that is said there of cancellation holds.
"""

from __future__ import annotations

import asyncio
import types
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

T = TypeVar("T")


@types.coroutine
def in_time(seconds: float, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """What the coroutine returns or raises; `TimeoutError` if it takes longer than so many seconds."""
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    result = yield from _limited(seconds, coroutine, awaited)
    return result


async def _limited(seconds: float, coroutine: Coroutine[Any, Any, T], awaited: object) -> T:
    async with asyncio.timeout(seconds):
        return await _rest(coroutine, awaited)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, T], awaited: object) -> Generator[Any, Any, T]:
    """Go on with a coroutine that awaits something: pass that to the task, and what comes of it to the coroutine."""
    while True:
        try:
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 - it is the coroutine that is to hear of a cancellation
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
