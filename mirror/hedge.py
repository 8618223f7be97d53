"""Hedging: when the first that was asked is slow to answer, a second is asked, and the one that comes first is taken.

What "slow" means is observed: longer than nine of ten answers took (Dean and Barroso, "The tail at scale", 2013). So
about one request in ten is asked twice, within bounds that hold however little was observed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HEDGE_S_MIN: Final = 0.05
HEDGE_S_MAX: Final = 1.0
"""The bounds of the wait before a second is asked. A lower minimum doubles the requests of a quick network for nothing;
a higher maximum lets one peer that hangs cost each pull more."""
OBSERVED: Final = 64
"""How many answers are remembered."""

Asked = TypeVar("Asked")
Given = TypeVar("Given")


class Patience:
    """How long to wait for an answer before another one is asked for as well."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=OBSERVED)

    def note(self, took_s: float) -> None:
        """An answer took so long."""
        self._took_s.append(took_s)

    @property
    def wait_s(self) -> float:
        """The 90th percentile of what was observed, within the bounds."""
        if not self._took_s:
            return HEDGE_S_MAX
        ordered = sorted(self._took_s)
        return min(max(ordered[len(ordered) * 9 // 10], HEDGE_S_MIN), HEDGE_S_MAX)


class Race(Generic[Asked, Given]):
    """At most two who are asked at the same time. Used inside `async with`; who loses is cancelled, or let go of.

    `ask` asks one; `let_go` is given what came from one that is not needed.
    """

    def __init__(
        self,
        ask: Callable[[Asked], Awaitable[Given]],
        let_go: Callable[[Given], Awaitable[None]],
        patience: Patience,
    ) -> None:
        self._ask = ask
        self._let_go = let_go
        self._patience = patience
        self._running: dict[asyncio.Task[Given], Asked] = {}

    async def __aenter__(self) -> Race[Asked, Given]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._running:
            task.cancel()
        for outcome in await asyncio.gather(*self._running, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                await self._let_go(outcome)

    @property
    def running(self) -> int:
        """How many have been asked and have not answered."""
        return len(self._running)

    def start(self, asked: Asked) -> None:
        """Ask one."""
        self._running[asyncio.create_task(self._timed(asked))] = asked

    async def next(self, *, may_hedge: bool) -> tuple[Asked, asyncio.Task[Given]] | None:
        """One that has answered, with what it gave; None when it is time to ask another, if that `may_hedge`."""
        assert self._running, "somebody is asked first"
        patience_s = self._patience.wait_s if may_hedge and len(self._running) == 1 else None
        done, _ = await asyncio.wait(self._running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None
        task = next(each for each in self._running if each in done)
        return self._running.pop(task), task

    async def _timed(self, asked: Asked) -> Given:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        given = await self._ask(asked)
        self._patience.note(loop.time() - started_at)
        return given
