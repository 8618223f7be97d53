"""A gossip cluster of real processes on loopback, with CURVE: started, killed, frozen, asked what each one knows.

The processes are forked by one that has imported everything (`multiprocessing`'s fork server). Each has its own
sockets, threads and memory from then on, as if it had been started by itself, without the half second of CPU that this
takes.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import signal
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.integration.gossip import member
from tests.integration.gossip.nodes import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from multiprocessing.context import ForkServerProcess

SECRET = "the secret of a cluster of processes in a test"
SEEDS = 3
ANSWER_S = 5.0
ASK_S = 0.2
EXIT_S = 5.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([member.__name__])


@dataclass
class MemberProcess:
    """One node, and its process if it runs."""

    settings: dict[str, Any]
    process: ForkServerProcess | None = None
    reader: asyncio.StreamReader = field(default_factory=asyncio.StreamReader)
    writer: asyncio.StreamWriter | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        return str(self.settings["name"])

    @property
    def pid(self) -> int:
        assert self.process is not None
        assert self.process.pid is not None
        return self.process.pid

    async def start(self) -> None:
        """Let the node begin."""
        assert self.process is None
        ours, theirs = _FORKS.Pipe()
        with ours, theirs:
            self.process = _FORKS.Process(target=member.run, args=(self.settings, theirs), daemon=True)
            self.process.start()
            self.reader, self.writer = await asyncio.open_connection(sock=socket.socket(fileno=os.dup(ours.fileno())))

    async def stop(self, number: int) -> None:
        """End the process by a signal, SIGTERM (it leaves) or SIGKILL."""
        process, self.process = self.process, None
        if process is None:
            return
        assert process.pid is not None
        assert self.writer is not None
        os.kill(process.pid, number)
        try:
            async with asyncio.timeout(EXIT_S):
                await asyncio.to_thread(process.join, EXIT_S)
                await self.reader.read()
        finally:
            process.kill()
            process.join()
            process.close()
            self.writer.close()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def add(self, key: str) -> None:
        assert self.writer is not None
        self.writer.write(f"add {key}\n".encode())

    async def state(self) -> dict[str, Any]:
        """What the node knows."""
        assert self.writer is not None
        async with self.lock, asyncio.timeout(ANSWER_S):
            self.writer.write(b"state\n")
            line = await self.reader.readline()
        assert line, f"{self.name} has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cpu_s(self) -> float:
        """CPU time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int:
        """The resident set of the process."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@dataclass
class Processes:
    """The cluster."""

    members: list[MemberProcess]

    @classmethod
    @asynccontextmanager
    async def of(cls, count: int, keys: int, directory: Path) -> AsyncIterator[Processes]:
        """So many nodes of so many keys each, none of them started; at the end all are killed."""
        ports = free_ports(2 * count)
        seeds = [f"127.0.0.1:{port}" for port in ports[1 : 2 * SEEDS : 2]]
        members = [
            MemberProcess(
                {
                    "name": f"node{number}",
                    "publish_port": ports[2 * number],
                    "router_port": ports[2 * number + 1],
                    "seeds": seeds,
                    "secret": SECRET,
                    "epoch_file": str(directory / f"epoch{number}"),
                    # Each key has three holders.
                    "keys": [f"key{key}-{(number + key) // 3}" for key in range(keys)],
                }
            )
            for number in range(count)
        ]
        try:
            yield cls(members)
        finally:
            await asyncio.gather(*(each.stop(signal.SIGKILL) for each in members))

    async def start(self, members: Iterable[MemberProcess]) -> None:
        await asyncio.gather(*(each.start() for each in members))

    async def stop(self, members: Iterable[MemberProcess], number: int) -> None:
        await asyncio.gather(*(each.stop(number) for each in members))

    async def converged(self, asked: list[MemberProcess], within_s: float) -> float:
        """Wait until those asked see each other and nobody else, and know the same; returns the seconds it took."""
        started = time.monotonic()
        names = sorted(each.name for each in asked)
        while True:
            states = await asyncio.gather(*(each.state() for each in asked), return_exceptions=True)
            if all(isinstance(state, dict) and state["members"] == names for state in states):
                known: list[dict[str, Any]] = [state for state in states if isinstance(state, dict)]
                if len({state["hash"] for state in known}) == 1:
                    assert not any(state["audit_mismatches"] for state in known), "nobody's set contradicted its owner"
                    return time.monotonic() - started
            assert time.monotonic() < started + within_s, f"not converged within {within_s} s: {summary(states)}"
            await asyncio.sleep(ASK_S)


def summary(states: list[dict[str, Any] | BaseException]) -> list[str]:
    return [
        f"{len(state['members'])} members, {state['hash'][:6]}" if isinstance(state, dict) else repr(state)
        for state in states
    ]
