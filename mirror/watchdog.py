"""Dying is safe, hanging is not: a thread that watches the event loop.

A runtime whose mirror is gone falls back to the registry at once; one whose mirror accepts and never answers waits
for minutes. So when the loop has been silent for `CLOSE_AFTER_S` the listening sockets are shut, and connections are
refused; after `EXIT_AFTER_S` the process ends. A loop that turns again in between ends it too, in good order: shut
listeners cannot be opened again, and the supervisor restarts the agent.

Silence is counted in the thread's own turns and not by the clock: a process that was stopped as a whole (SIGSTOP, a
suspended machine) did not hang.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

TURN_S: Final = 0.25
CLOSE_AFTER_S: Final = 3.0
EXIT_AFTER_S: Final = 10.0
EXIT_CODE: Final = 70
"""EX_SOFTWARE of sysexits.h."""


class Watchdog:
    """Watches `loop` from `start` until `stop`.

    Both are called on the loop: `on_beat` at each turn of the thread, with how late that was (seconds), and `on_stall`
    once the loop turns again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: Sequence[socket.socket],
        on_stall: Callable[[], None],
        on_beat: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._loop = loop
        self._listeners = listeners
        self._on_stall = on_stall
        self._on_beat = on_beat
        self._beats = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _ask(self) -> None:
        self._loop.call_soon_threadsafe(self._beat, time.monotonic())

    def _beat(self, asked_at: float) -> None:
        self._beats += 1
        self._on_beat(time.monotonic() - asked_at)

    def _watch(self) -> None:
        silent_turns = seen = 0
        closed = False
        self._ask()
        while not self._stopped.wait(TURN_S):
            if self._beats != seen:
                seen, silent_turns = self._beats, 0
                self._ask()
                continue
            silent_turns += 1
            if silent_turns * TURN_S >= CLOSE_AFTER_S and not closed:
                closed = True
                self._close()
            if silent_turns * TURN_S >= EXIT_AFTER_S:
                _say(f"the event loop was silent for {EXIT_AFTER_S:.0f} s: the process ends")
                os._exit(EXIT_CODE)

    def _close(self) -> None:
        _say(f"the event loop has been silent for {CLOSE_AFTER_S:.0f} s: no more connections are accepted")
        for listener in self._listeners:
            with contextlib.suppress(OSError):  # closed already
                listener.shutdown(socket.SHUT_RDWR)
        faulthandler.dump_traceback(sys.stderr)
        self._loop.call_soon_threadsafe(self._on_stall)


def _say(message: str) -> None:
    # Not through logging: its locks may be what the loop hangs on.
    os.write(2, f"skvaller watchdog: {message}\n".encode())
