"""A gossip cluster of real processes on this machine's loopback, with CURVE: how soon they find together after what.

    python -m tests.benchmark.gossip_processes [--nodes N] [--keys N] [--victims N]

Starts the nodes, adds keys, leaves them idle for a while, kills some with SIGKILL, starts these again, freezes some
with SIGSTOP and lets them go on, and at last kills and starts all of them, first at once and then one after another.
After each step it waits until all running nodes see each other, nobody else, and the same keys; asking all of them
takes a part of the time that is shown. Of a restart of all, the five seconds are for killing and forking the processes;
after the last fork they have as long again to find together.

The processes are forked by one that has imported everything: on a machine with fewer cores than nodes the start of the
interpreters would take far longer than what is measured. So does what nodes compute while they join, 0.2 to 0.4 seconds
each; what that takes at least is shown apart, and on a machine of its own a node needs no longer than its own part.
Takes about two minutes; gives up after six.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmark.figures import figure, quantile
from tests.integration.gossip.processes import Processes

if TYPE_CHECKING:
    from tests.integration.gossip.processes import MemberProcess

RUN_S_MAX = 360.0
STEP_S_MAX = 60.0
IDLE_S = 10.0
FREEZE_S = 15.0
RESTART_S = 5.0
PACED_S = 4.5
"""All are started again, evenly spread over so long, which leaves the last ones a moment."""
MEET_S = 5.0
FRESH = 10
"""Keys that each node adds in the second step."""


async def main(nodes: int, keys: int, victims: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with asyncio.timeout(RUN_S_MAX), Processes.of(nodes, keys, Path(directory)) as cluster:
            everybody = cluster.members
            chosen, rest = everybody[:victims], everybody[victims:]
            print(f"{nodes} processes, {keys} keys each", flush=True)

            # The fork server itself takes a moment to start.
            await chosen[0].start()
            await chosen[0].state()
            await chosen[0].stop(signal.SIGKILL)

            started = time.monotonic()
            await cluster.start(everybody)
            joined_s = await since(started, cluster, everybody)
            figure("all started at once, joined", joined_s, "s", MEET_S)
            spent(everybody)

            started = time.monotonic()
            for number, member in enumerate(everybody):
                for fresh in range(FRESH):
                    member.add(f"fresh{number}.{fresh}")
            figure(f"{nodes * FRESH} keys added at once, known to all", await since(started, cluster, everybody), "s")

            await idle(everybody)

            started = time.monotonic()
            await cluster.stop(chosen, signal.SIGKILL)
            figure(f"{victims} killed, gone everywhere", await since(started, cluster, rest), "s", 10)
            started = time.monotonic()
            await cluster.start(chosen)
            figure("the same started again, known everywhere", await since(started, cluster, everybody), "s", MEET_S)

            started = time.monotonic()
            for member in chosen:
                member.freeze()
            figure(f"{victims} frozen, gone everywhere", await since(started, cluster, rest), "s", 13)
            await asyncio.sleep(max(0.0, started + FREEZE_S - time.monotonic()))
            started = time.monotonic()
            for member in chosen:
                member.thaw()
            figure("the same going on, known everywhere", await since(started, cluster, everybody), "s", MEET_S)

            started = time.monotonic()
            await cluster.stop(everybody, signal.SIGKILL)
            await cluster.start(everybody)
            begun = time.monotonic()
            figure("all killed and begun again at once, in", begun - started, "s", RESTART_S)
            figure("the same, known everywhere after another", await since(begun, cluster, everybody), "s", MEET_S)
            spent(everybody)

            started = time.monotonic()
            for number, member in enumerate(everybody, 1):
                await member.stop(signal.SIGKILL)
                await member.start()
                await asyncio.sleep(max(0.0, started + PACED_S * number / nodes - time.monotonic()))
            begun = time.monotonic()
            figure("all killed and begun again, one after another, in", begun - started, "s", RESTART_S)
            figure("the same, known everywhere after another", await since(begun, cluster, everybody), "s", MEET_S)
            spent(everybody)


def spent(members: list[MemberProcess]) -> None:
    """What their processes have computed since they began."""
    spent_s = sum(member.cpu_s() for member in members)
    figure("CPU of all of them for that", spent_s, "s")
    figure("what that takes at least on this machine's cores", spent_s / (os.cpu_count() or 1), "s")


async def since(started: float, cluster: Processes, asked: list[MemberProcess]) -> float:
    """Seconds from `started` until those asked are of one mind."""
    await cluster.converged(asked, STEP_S_MAX)
    return time.monotonic() - started


async def idle(members: list[MemberProcess]) -> None:
    """What a node costs when nothing happens."""
    before = await asyncio.gather(*(member.state() for member in members))
    cpu_before = [member.cpu_s() for member in members]
    await asyncio.sleep(IDLE_S)
    cpu = [(member.cpu_s() - start) / IDLE_S * 100 for member, start in zip(members, cpu_before, strict=True)]
    after = await asyncio.gather(*(member.state() for member in members))
    pairs = list(zip(before, after, strict=True))
    figure("idle: CPU of a node, mean", sum(cpu) / len(cpu), "% core")
    figure("idle: CPU of a node, highest", max(cpu), "% core")
    sent = [(new["bytes_out"] - old["bytes_out"]) / IDLE_S / 1000 for old, new in pairs]
    received = [(new["bytes_in"] - old["bytes_in"]) / IDLE_S / 1000 for old, new in pairs]
    figure("idle: published and sent by a node, each message once, mean", sum(sent) / len(sent), "kB/s")
    figure("idle: received by a node, mean", sum(received) / len(received), "kB/s")
    memory = [member.memory_bytes() / 1e6 for member in members]
    figure("memory (RSS) of a node, median", quantile(memory, 0.5), "MB")
    figure("memory (RSS) of a node, highest", max(memory), "MB", 75)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--keys", type=int, default=100, help="of each node")
    parser.add_argument("--victims", type=int, default=5, help="how many are killed, and frozen")
    options = parser.parse_args()
    asyncio.run(main(options.nodes, options.keys, options.victims))
