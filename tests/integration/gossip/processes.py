"""A gossip cluster of real processes on loopback, with CURVE: started, killed, frozen, asked what each one knows."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.integration.gossip.nodes import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

ROOT = Path(__file__).parent.parent.parent.parent
SECRET = "the secret of a cluster of processes in a test"
SEEDS = 3
ANSWER_S = 5.0
ASK_S = 0.2
EXIT_S = 5.0
PREPARE_S = 60.0
AT_ONCE_MAX = 4
"""Interpreters that start at once."""


@dataclass
class MemberProcess:
    """One node and its process, if it runs; and the one that is to run next, if it is prepared."""

    settings: dict[str, Any]
    process: asyncio.subprocess.Process | None = None
    standby: asyncio.subprocess.Process | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        return str(self.settings["name"])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def prepare(self) -> None:
        """Start an interpreter and let it come to where it only needs to be told to go, while another may still run."""
        assert self.standby is None
        self.standby = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.gossip.member",
            json.dumps(self.settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.standby.stdout is not None
        line = await asyncio.wait_for(self.standby.stdout.readline(), PREPARE_S)
        assert line == b"ready\n", f"{self.name} did not start"

    async def start(self) -> None:
        """Let the node begin; it is prepared first if it is not."""
        assert self.process is None
        if self.standby is None:
            await self.prepare()
        self.process, self.standby = self.standby, None
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")

    async def stop(self, number: int) -> None:
        """End the process by a signal, SIGTERM (it leaves) or SIGKILL."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(number)
        try:
            await asyncio.wait_for(process.communicate(), EXIT_S)
        except TimeoutError:
            process.kill()
            raise

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def add(self, key: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"add {key}\n".encode())

    async def state(self) -> dict[str, Any]:
        """What the node knows."""
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        async with self.lock, asyncio.timeout(ANSWER_S):
            process.stdin.write(b"state\n")
            line = await process.stdout.readline()
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
            processes = [p for member in members for p in (member.process, member.standby) if p is not None]
            for process in processes:
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*(process.communicate() for process in processes))

    async def prepare(self, members: Iterable[MemberProcess]) -> None:
        """Prepare some nodes, a few at a time."""
        turns = asyncio.Semaphore(AT_ONCE_MAX)

        async def prepare(member: MemberProcess) -> None:
            async with turns:
                await member.prepare()

        await asyncio.gather(*map(prepare, members))

    async def start(self, members: Iterable[MemberProcess]) -> None:
        await asyncio.gather(*(member.start() for member in members))

    async def stop(self, members: Iterable[MemberProcess], number: int) -> None:
        await asyncio.gather(*(member.stop(number) for member in members))

    async def converged(self, asked: list[MemberProcess], within_s: float) -> float:
        """Wait until those asked see each other and nobody else, and know the same; returns the seconds it took."""
        started = time.monotonic()
        names = sorted(member.name for member in asked)
        while True:
            states = await asyncio.gather(*(member.state() for member in asked), return_exceptions=True)
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
