"""Real processes that hang on purpose: the watchdog closes their listeners, then ends them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirror.watchdog import CLOSE_AFTER_S, EXIT_AFTER_S, EXIT_CODE
from tests.serving import HOST, free_port

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
    import asyncio, socket, sys, time, uvloop
    from mirror.watchdog import Watchdog

    async def main(port, hang_s):
        listener = socket.create_server(("127.0.0.1", port))
        stalled = asyncio.Event()
        watchdog = Watchdog(asyncio.get_running_loop(), [listener], stalled.set)
        watchdog.start()
        print("ready", flush=True)
        await asyncio.sleep(0.5)
        time.sleep(hang_s)
        await asyncio.wait_for(stalled.wait(), 20)
        watchdog.stop()
        sys.exit(33)

    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
"""


@contextmanager
def process(hang_s: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    program = textwrap.dedent(PROGRAM)
    command = [sys.executable, "-c", program, str(port), str(hang_s)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child, port
    finally:
        child.kill()
        child.communicate()


def accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_hung_loop_refuses_connections_then_dies() -> None:
    with process(hang_s=60) as (child, port):
        assert accepts(port)
        time.sleep(CLOSE_AFTER_S + 1.5)
        assert not accepts(port)
        assert child.poll() is None
        assert child.wait(EXIT_AFTER_S) == EXIT_CODE
        assert child.stderr is not None
        said = child.stderr.read()
        assert "no more connections" in said
        assert "time.sleep" in said or "main" in said, "the place where it hangs is told"


def test_a_loop_that_turns_again_after_its_listeners_closed_ends_in_order() -> None:
    with process(hang_s=CLOSE_AFTER_S + 2) as (child, _):
        assert child.wait(20) == 33


def test_a_loop_that_only_pauses_is_left_alone() -> None:
    with process(hang_s=1) as (child, port):
        time.sleep(3)
        assert accepts(port)
        assert child.poll() is None


def test_a_process_that_was_stopped_as_a_whole_did_not_hang() -> None:
    with process(hang_s=0) as (child, port):
        time.sleep(0.7)
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(CLOSE_AFTER_S + 1)
        os.kill(child.pid, signal.SIGCONT)
        time.sleep(0.5)
        assert accepts(port)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.1)
