"""Programs that run during a test: started, stopped, killed, paused; their output kept for the report."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STOP_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 120.0
LOG_TAIL_BYTES = 8_000


class CommandError(Exception):
    """A command ended with an error, or did not end in time; the message holds its output."""


class Process:
    """A program that runs until it is told to stop. It dies with the test run, however that ends.

    `namespace` is the network namespace to run it in; None is the machine's own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        namespace: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = [*within(namespace), *(str(argument) for argument in command)]
        self._log = log
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended (a paused process runs)."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id; only while it runs."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it (again). Its output is added to what it wrote before."""
        assert not self.running, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", "--", *self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
            )

    async def stop(self) -> None:
        """Ask it to end, and end it by force when it does not in time."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it at once, as a crash does."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop it and start it again."""
        await self.stop()
        await self.start()

    def pause(self) -> None:
        """Let it hang: alive, its sockets open, and silent."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        """The end of what it wrote."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.name} was never started"
        if self._process.returncode is None:
            # Not `send_signal`: it may reap the process behind asyncio's back.
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(number)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def within(namespace: str | None) -> list[str]:
    """The words that run the rest of a command in a network namespace.

    Not `ip netns exec`: that hides the cgroups, without which runc does not start.
    """
    return [] if namespace is None else ["nsenter", f"--net=/run/netns/{namespace}", "--"]


async def run(
    *command: str | Path,
    namespace: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> str:
    """Run a command to its end and return what it printed, less its errors and warnings. Raises `CommandError`."""
    words = [*within(namespace), *(str(argument) for argument in command)]
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | dict(environment or {}),
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate()
    except TimeoutError:
        raise CommandError(f"{' '.join(words)}: no end after {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        text = (output + errors).decode(errors="replace")
        raise CommandError(f"{' '.join(words)}: exit status {process.returncode}\n{text}")
    return output.decode(errors="replace")
