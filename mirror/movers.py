"""Moves bytes from a file or a socket into a client's connection without reading them, driven by the event loop.

A mover moves what the kernel takes at once, and waits for readiness otherwise, so none costs a thread, however slow its
client. It is given a duplicate of the connection's descriptor, since event loops refuse to watch the one that a
transport uses. Whoever closes that stops the mover first: a number that is closed and given out again must not send one
client's blob to another.

`done` becomes why the source ended early, or "" when all bytes went out; a client that is gone, or that takes nothing
for `STALL_S`, is a `ClientGoneError`. `sent` is right either way.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from mirror.extensions import ClientGoneError
from mirror.intake import GATHER_S, wake_for
from mirror.pieces import NOT_KEPT

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from concurrent.futures import Executor

    from mirror.pipes import Pipe

WINDOW_BYTES: Final = 4 * 1024 * 1024
"""The most that is moved in one turn of the event loop, which only a client that is as fast takes: 0.3 to 0.6 ms. More
delays everybody else on the loop; half of it costs a tenth more CPU per byte, for after each window the interpreter's
own code has to come back into the cache."""
STALL_S: Final = 60.0
"""How long a client may take nothing; runtimes pause for seconds while they unpack."""
DISK_S: Final = 10.0
"""How long a disk may take to read one window before another source is tried."""
GATHER_BYTES: Final = 256 * 1024
"""A relay is woken when so much has come, or all, or anything after `GATHER_S`. On a link that is slower than this
machine it would else be woken for every few packets, which costs more than the bytes."""

_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Mover:
    """What both kinds share: the client's side, the deadlines, the end."""

    def __init__(self, client: socket.socket, length: int, source_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = client.fileno()
        self._length = length
        self._source_s = source_s
        self.sent = 0
        self.done: asyncio.Future[str] = self._loop.create_future()
        self._open = True
        self._writing = False
        self._waits_for_source = False
        self._active_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def stop(self, error: Exception | None = None, reason: str = "") -> None:
        """End now, if it has not ended: with an error, or with the reason of the source (none: all was sent)."""
        if not self._open:
            return
        self._open = False
        self._watch_client(on=False)
        self._release()
        if self._timer is not None:
            self._timer.cancel()
        if self.done.done():
            return  # whoever waited was cancelled
        if error is None:
            self.done.set_result(reason)
        else:
            self.done.set_exception(error)

    def _release(self) -> None:
        """Let go of the source."""

    def _proceed(self) -> None:
        """Called when the client's connection takes bytes again."""
        raise NotImplementedError

    def _wait(self, *, for_source: bool) -> None:
        """From now on, charge the source (or else the client) for the time that passes."""
        if self._timer is None:
            self._active_at = self._loop.time()
            self._timer = self._loop.call_later(self._tick_s, self._check)
        self._waits_for_source = for_source
        self._watch_client(on=not for_source)

    @property
    def _tick_s(self) -> float:
        return min(self._source_s, STALL_S) / 4

    def _watch_client(self, *, on: bool) -> None:
        if on != self._writing:
            self._writing = on
            if on:
                self._loop.add_writer(self._client, self._proceed)
            else:
                self._loop.remove_writer(self._client)

    def _gone(self, error: OSError) -> None:
        self.stop(ClientGoneError(str(error), self.sent))

    def _moved(self, size: int) -> None:
        self.sent += size
        self._active_at = self._loop.time()

    def _check(self) -> None:
        """Has the one that is waited for been silent for too long?"""
        idle_s = self._loop.time() - self._active_at
        if self._waits_for_source and idle_s >= self._source_s:
            self.stop(reason=f"it was silent for {self._source_s:g} s")
        elif idle_s >= STALL_S and not self._waits_for_source:
            self.stop(ClientGoneError(f"the client took nothing for {STALL_S:g} s", self.sent))
        else:
            self._timer = self._loop.call_later(self._tick_s, self._check)


class FileMover(Mover):
    """sendfile(2), a window at a time. A window that is not in the page cache is brought there by a thread first."""

    def __init__(
        self, client: socket.socket, file: int, positions: range, disk: Executor, is_kept: Callable[[], bool]
    ) -> None:
        super().__init__(client, len(positions), DISK_S)
        self._file = file
        self._start = positions.start
        self._disk = disk
        self._is_kept = is_kept
        self._warm_until = positions.start
        self._warming: asyncio.Future[None] | None = None
        self._proceed()

    def _proceed(self) -> None:
        if not self._is_kept():
            self.stop(reason=NOT_KEPT)
            return
        position = self._start + self.sent
        if position == self._warm_until:
            window = min(self._length - self.sent, WINDOW_BYTES)
            if not self._is_warm(position, window):
                self._wait(for_source=True)
                self._fetch(position, window)
                return
            self._warm_until += window
        try:
            size = os.sendfile(self._client, self._file, position, self._warm_until - position)
        except (BlockingIOError, InterruptedError):
            self._wait(for_source=False)
            return
        except ConnectionError as error:
            self._gone(error)
            return
        except OSError as error:
            self.stop(reason=str(error))
            return
        self._moved(size)
        if self.sent == self._length:
            self.stop()
        elif size == 0:
            self.stop(reason=f"the file ended {self._length - self.sent} bytes early")
        else:
            self._wait(for_source=False)

    def _is_warm(self, position: int, size: int) -> bool:
        """Whether a window can be sent without waiting for the disk: its first and last bytes are in memory.

        A filesystem that cannot tell is taken for a slow one.
        """
        buffer = bytearray(1)
        try:
            os.preadv(self._file, [buffer], position, os.RWF_NOWAIT)
            os.preadv(self._file, [buffer], position + size - 1, os.RWF_NOWAIT)
        except OSError:
            return False
        return True

    def _fetch(self, position: int, size: int) -> None:
        file = os.dup(self._file)  # the thread may outlive this mover
        self._warming = self._loop.run_in_executor(self._disk, _read_ahead, file, position, size)
        self._warming.add_done_callback(lambda warming: self._fetched(warming, position + size))

    def _fetched(self, warming: asyncio.Future[None], warm_until: int) -> None:
        error = None if warming.cancelled() else warming.exception()
        if not self._open:
            return
        self._active_at = self._loop.time()
        if error is not None:
            self.stop(reason=str(error))
            return
        self._warm_until = warm_until  # should it have been evicted again meanwhile, sendfile waits for the disk
        self._proceed()


def _read_ahead(file: int, position: int, size: int) -> None:
    """Wait until a window of a file is in the page cache and the next is on its way; closes the file.

    The window is sent to /dev/null, which takes pages without copying them: one call that waits for them all. Many
    small reads would each take the interpreter's lock from the event loop's thread.
    """
    try:
        os.posix_fadvise(file, position, 2 * size, os.POSIX_FADV_WILLNEED)
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while size and (read := os.sendfile(null, file, position, size)):
                position, size = position + read, size - read
        finally:
            os.close(null)
    finally:
        os.close(file)


class SocketMover(Mover):
    """splice(2) from a socket through a pipe; takes exactly `length` bytes, so that the socket can be used again."""

    def __init__(self, client: socket.socket, source: socket.socket, length: int, silence_s: float, pipe: Pipe) -> None:
        super().__init__(client, length, silence_s)
        self._source = source
        self._pipe = pipe
        self.held = 0
        """Bytes in the pipe: taken from the source, not yet with the client."""
        self._to_come = length
        self._ended: str | None = None
        self._reading = False
        self._gathering: asyncio.TimerHandle | None = None
        self._proceed()

    def _release(self) -> None:
        self._watch_source(on=False)

    def _proceed(self) -> None:
        """Empty the pipe, fill it, and so on, until one of the two has to be waited for or others are due."""
        stop_at = self.sent + WINDOW_BYTES
        while self._empty_pipe():
            if not self._to_come or self._ended is not None:
                self.stop(reason=self._ended or "")
                return
            if self.sent >= stop_at:
                self._wait(for_source=True)
                return
            if not self._fill_pipe():
                return

    def _fill_pipe(self) -> bool:
        try:
            size = os.splice(self._source.fileno(), self._pipe.write_end, self._to_come, flags=_FLAGS)
        except (BlockingIOError, InterruptedError):
            self._wait(for_source=True)
            return False
        except OSError as error:
            size, self._ended = 0, str(error)
        self._to_come -= size
        self.held += size
        self._active_at = self._loop.time()
        if not size and self._ended is None:
            self._ended = f"it ended {self._to_come} bytes early"
        return True

    def _empty_pipe(self) -> bool:
        flags = _FLAGS | (os.SPLICE_F_MORE if self._to_come else 0)
        while self.held:
            try:
                size = os.splice(self._pipe.read_end, self._client, self.held, flags=flags)
            except (BlockingIOError, InterruptedError):
                self._wait(for_source=False)
                return False
            except OSError as error:
                self._gone(error)
                return False
            self.held -= size
            self._moved(size)
        return True

    def _wait(self, *, for_source: bool) -> None:
        super()._wait(for_source=for_source)
        self._watch_source(on=for_source)

    def _watch_source(self, *, on: bool) -> None:
        if on != self._reading:
            self._reading = on
            if on:
                self._loop.add_reader(self._source.fileno(), self._proceed)
            else:
                self._loop.remove_reader(self._source.fileno())
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
            wake_for(self._source, 1)
        if on:
            wake_for(self._source, min(self._to_come, GATHER_BYTES))
            self._gathering = self._loop.call_later(GATHER_S, wake_for, self._source, 1)
