"""A window on an object in flight: what all readers have passed is punched out of its file, which makes room for more.

What comes next waits for the slowest reader. While it moves that is right, be it slow: a node that gives to several has
less for each than its own client could take. A reader that stands still while another has to wait is left behind, and
goes on from elsewhere alone; the last one never is. Whether it moves is seen when its connection takes more, which is
about 300 kB at a time: at 150 kB/s it moves. Without zero copy it is seen after each chunk that is read of the file, of
up to a step (`mirror.transfer.WINDOW_PIECE_BYTES`), which takes 350 kB/s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from mirror.errors import UnavailableError
from mirror.spool import PUNCH_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.spool import SpoolFile

HELD_UP_S: Final = 3.0
"""How long the slowest reader may take nothing while another waits. Raising it lets a client that pauses hold up a herd
for longer; each that is left behind costs a request, and the rest of the object once more if only the registry has
that."""


class Reader(Protocol):
    """Whoever reads the file."""

    position: int
    """Where it is; what lies before it does not want."""
    moves: int
    """Grows whenever it takes something, also of a piece that it has not got to the end of."""
    left_behind: bool
    """Set when its bytes are about to be punched out, those that it was given to read too."""


class Window:
    """The part of a file from `start` on; holes before it. `changed` waits until a reader comes, moves or leaves."""

    def __init__(self, file: SpoolFile, readers: set[Reader], changed: Callable[[], Awaitable[None]]) -> None:
        self.start = 0
        self._file = file
        self._readers = readers
        self._changed = changed

    async def make_room(self, written: int, length: int) -> None:
        """Wait until there is room for `length` bytes behind those that are `written`.

        While there is no reader this waits for one, without end. Raises `UnavailableError` when the filesystem cannot
        punch.
        """
        while written + length - self.start > self._file.room:
            passed = min([written, *(reader.position for reader in self._readers)]) if self._readers else self.start
            passed -= passed % PUNCH_BYTES
            if passed <= self.start:
                await self._step(written)
                continue
            start, self.start = self.start, passed  # nobody joins there from now on
            if not await self._file.punch(start, passed):
                raise UnavailableError("the spool is full, and its filesystem cannot free parts of a file")

    async def _step(self, written: int) -> None:
        """Wait for a change; who is the slowest now is left behind if it stands still and another waits for it."""
        if not self._holds_up(written):
            await self._changed()
            return
        slowest = min(self._readers, key=lambda reader: reader.position)
        moves = slowest.moves

        def stands_in_the_way() -> bool:
            return slowest in self._readers and slowest.moves == moves and self._holds_up(written)

        try:
            async with asyncio.timeout(HELD_UP_S):
                while stands_in_the_way():
                    await self._changed()
        except TimeoutError:
            if stands_in_the_way():
                slowest.left_behind = True
                self._readers.remove(slowest)

    def _holds_up(self, written: int) -> bool:
        """Whether a reader has all that is written; it is not the slowest, for whom there is no room for more."""
        return any(reader.position == written for reader in self._readers)
