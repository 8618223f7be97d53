"""Pipes for splice(2): it moves bytes between two sockets only through one.

Making a pipe and enlarging it costs more than a small relay, so idle ones are kept. The kernel counts the pages of
all pipes of a user and shrinks new pipes above fs.pipe-user-pages-soft (64 MiB by default), so there are only so many.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from typing import Final

PIPE_BYTES: Final = 256 * 1024
"""What one pipe holds. 1 MiB moves a fifth more per CPU-second, but then 64 pipes are all that a user may have."""
PIPES_MAX: Final = 256
IDLE_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Pipe:
    """The two non-blocking ends of a pipe."""

    read_end: int
    write_end: int

    def close(self) -> None:
        """Close both ends; what is in the pipe is lost."""
        os.close(self.read_end)
        os.close(self.write_end)


class PipePool:
    """At most `PIPES_MAX` pipes, of which up to `IDLE_MAX` wait for their next use."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self._used = 0

    def take(self) -> Pipe | None:
        """An empty pipe; None when there are no more to have."""
        if self._used >= PIPES_MAX:
            return None
        try:
            pipe = self._idle.pop() if self._idle else _make()
        except OSError:  # the process has no descriptor left
            return None
        self._used += 1
        return pipe

    def give_back(self, pipe: Pipe, *, empty: bool) -> None:
        """End a use. A pipe with bytes in it is of no use to anybody else."""
        self._used -= 1
        if empty and len(self._idle) < IDLE_MAX:
            self._idle.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close the idle pipes."""
        while self._idle:
            self._idle.pop().close()


def _make() -> Pipe:
    pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
    with contextlib.suppress(PermissionError):  # the user's limit is reached: a small pipe serves as well, only slower
        fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return pipe
