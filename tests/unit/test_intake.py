"""Bytes from a connection into a file: all of them, in order, in large batches, and no waiting for who is silent."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirror import intake
from mirror.intake import BATCH_BYTES, BATCH_S, PAUSE_S, NoRoomError, finished, readable, receive, splice

DATA = random.Random(2).randbytes(9_000_000)
Take = Callable[[socket.socket, int], int]


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection, non-blocking on our side, and its other end."""
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    listener.close()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


@pytest.fixture(params=["receive", "splice"])
def take(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Take]:
    """Either way of bringing bytes into the file `taken`."""
    with (tmp_path / "taken").open("wb", buffering=0) as file:

        def write(part: memoryview) -> None:
            assert file.write(part) == len(part)

        if request.param == "receive":
            yield lambda connection, wanted: receive(connection, wanted, write)
        else:
            yield lambda connection, wanted: splice(connection, wanted, file.fileno())


def test_all_bytes_come_in_order_and_no_more_than_wanted(take: Take, tmp_path: Path) -> None:
    with pair() as (ours, theirs):
        sending = threading.Thread(target=theirs.sendall, args=(DATA + b"the next answer",))
        sending.start()
        left, batches = len(DATA), []
        while left:
            try:
                batches.append(take(ours, left))
            except BlockingIOError:
                continue
            left -= batches[-1]
        sending.join()
        assert ours.recv(100) == b"the next answer"
    assert (tmp_path / "taken").read_bytes() == DATA
    assert 0 < max(batches) <= BATCH_BYTES


def test_what_the_source_gave_before_its_end_is_kept(take: Take, tmp_path: Path) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(b"x" * 400)
        theirs.close()
        time.sleep(0.05)
        assert take(ours, 1000) == 400
        assert take(ours, 600) == 0
    assert (tmp_path / "taken").read_bytes() == b"x" * 400


def test_what_the_source_gave_before_it_failed_is_kept(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PAUSE_BYTES_MIN", 1)
    with pair() as (ours, theirs):
        theirs.sendall(b"x")
        time.sleep(0.05)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        monkeypatch.setattr(time, "sleep", lambda _: theirs.close())  # resets the connection while more is waited for
        assert take(ours, 10) == 1
        assert take(ours, 9) == 0


def test_no_thread_waits_for_a_source_that_is_slow(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(b"x")
        time.sleep(0.05)
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
        assert take(ours, 10) == 1
        with pytest.raises(BlockingIOError):
            take(ours, 10)


def test_a_thread_waits_for_a_source_that_is_fast_but_not_for_long(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = 0
    now = time.monotonic()

    def pause(seconds: float) -> None:
        nonlocal now, pauses
        now += seconds
        pauses += 1
        theirs.sendall(b"x" * intake.PAUSE_BYTES_MIN)

    with pair() as (ours, theirs):
        for end, option in ((ours, socket.SO_RCVBUF), (theirs, socket.SO_SNDBUF)):
            end.setsockopt(socket.SOL_SOCKET, option, 4 * intake.PAUSE_BYTES_MIN)
        theirs.sendall(b"x" * intake.PAUSE_BYTES_MIN)
        monkeypatch.setattr(time, "sleep", pause)
        monkeypatch.setattr(time, "monotonic", lambda: now)
        assert take(ours, BATCH_BYTES) == (1 + pauses) * intake.PAUSE_BYTES_MIN
    assert pauses * PAUSE_S == pytest.approx(BATCH_S, abs=2 * PAUSE_S)


def test_a_full_disk_is_no_fault_of_the_source() -> None:
    with pair() as (ours, theirs), open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
        fills: list[Callable[[], int]] = [
            lambda: receive(ours, 10, lambda part: intake.write_all(file, part)),
            lambda: splice(ours, 10, file.fileno()),
        ]
        for fill in fills:
            theirs.sendall(b"x")
            asyncio.run(readable(ours, 1, 5))
            with pytest.raises(NoRoomError):
                fill()


async def test_silence_ends_the_wait_for_a_source() -> None:
    with pair() as (ours, theirs):
        with pytest.raises(TimeoutError, match=r"silent for 0\.2 s"):
            await readable(ours, 1, 0.2)
        theirs.sendall(b"x")
        await readable(ours, 1, 5)


async def test_many_bytes_are_waited_for_and_few_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pair() as (ours, theirs):
        monkeypatch.setattr(intake, "GATHER_S", 60.0)
        waiting = asyncio.create_task(readable(ours, 1000, 60))
        theirs.sendall(b"x" * 999)
        await asyncio.sleep(0.1)
        assert not waiting.done()
        theirs.sendall(b"x")
        await asyncio.wait_for(waiting, 5)
        ours.recv(1000)

        monkeypatch.setattr(intake, "GATHER_S", 0.1)
        waiting = asyncio.create_task(readable(ours, 1000, 60))
        theirs.sendall(b"x")
        await asyncio.wait_for(waiting, 5)
        ours.recv(1000)

        theirs.sendall(b"x")
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 10), 5) == b"x", "it is as before"
        monkeypatch.setattr(intake, "GATHER_S", 60.0)
        waiting = asyncio.create_task(readable(ours, 1000, 60))
        theirs.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(waiting, 5)


async def test_work_with_a_connection_is_over_when_its_cancellation_is() -> None:
    done = threading.Event()

    def work() -> None:
        time.sleep(0.1)
        done.set()

    working = asyncio.create_task(finished(asyncio.to_thread(work)))
    await asyncio.sleep(0.02)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert done.is_set()
