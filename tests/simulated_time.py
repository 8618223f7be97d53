"""An event loop whose clock moves only when nothing is left to do: seconds of waiting take no time at all.

For what waits and talks through other means than sockets. A run that waits for something that never comes fails at
once.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """`time()` begins at 0."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Simulated seconds."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Let the time pass for which all wait."""
        self._now += seconds


class _Jumping(selectors.DefaultSelector):
    """Waits for no file: it lets the time pass that would be waited for."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits, and for nothing that will come"
            self._loop.jump(max(0.0, timeout))
        return ready


def run(scene: Coroutine[Any, Any, T]) -> T:
    """Play a scene in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(scene)
