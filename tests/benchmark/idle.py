"""What an agent costs that has nothing to do: memory, CPU, gossip and a scrape, against the budget.

Some agents in one cluster, with everything on; one of them is measured, for `--seconds`, first alone and then with a
listener on its live feed (an open page). There is no baseline: the budget is what an operator is promised. CPU is that
of the process in user and kernel mode; on a machine with other work its share is right, a scrape's time is not.

    python -m tests.benchmark.idle [--agents N] [--seconds N]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import aiohttp

from mirror.demo.scene import Agent, running_agents
from tests.benchmark.figures import figure

MEMORY_BYTES_MAX: Final = 75_000_000
CPU_MAX: Final = 0.01
SCRAPE_S_MAX: Final = 0.020
SCRAPES: Final = 20
SETTLE_S: Final = 5.0
GOSSIP: Final = "skvaller_gossip_bytes_in_total"


def cpu_s(pid: int) -> float:
    """How much CPU a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """How much memory it has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def share_of_core(pid: int, seconds: float) -> float:
    """The part of a core that it uses for so long."""
    used, began = cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - used) / (time.monotonic() - began)


async def scrape_s(session: aiohttp.ClientSession, url: str) -> tuple[float, int]:
    """How long a scrape takes, the median of some, and its bytes."""
    took, size = [], 0
    for _ in range(SCRAPES):
        began = time.monotonic()
        async with session.get(f"{url}/metrics") as response:
            size = len(await response.read())
        took.append(time.monotonic() - began)
    return median(took), size


async def gossip_bytes_per_s(agent: Agent, seconds: float) -> float:
    """What it receives of gossip for so long."""
    async with aiohttp.ClientSession() as session:
        before = await agent.gauge(session, GOSSIP) or 0.0
        await asyncio.sleep(seconds)
        return ((await agent.gauge(session, GOSSIP) or 0.0) - before) / seconds


async def measure(count: int, seconds: float) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="skvaller-idle-") as directory:
        names = [f"agent{number}" for number in range(count)]
        async with running_agents(names, Path(directory), "http://127.0.0.1:1") as agents:
            agent = agents[0]
            assert agent.pid is not None
            await asyncio.sleep(SETTLE_S)
            cpu, gossip = await asyncio.gather(share_of_core(agent.pid, seconds), gossip_bytes_per_s(agent, seconds))
            figure("CPU, share of a core", 100 * cpu, "%", 100 * CPU_MAX)
            figure("gossip received", gossip / 1000, "kB/s")
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
                took_s, size = await scrape_s(session, agent.metrics_url)
                figure("a scrape, median", 1000 * took_s, "ms", 1000 * SCRAPE_S_MAX)
                figure("its size", size / 1000, "kB")
                async with session.get(f"{agent.url}/-/api/events"):
                    figure("CPU with an open page", 100 * await share_of_core(agent.pid, seconds), "%")
            figure("memory, resident", resident_bytes(agent.pid) / 1e6, "MB", MEMORY_BYTES_MAX / 1e6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What an idle agent costs.")
    parser.add_argument("--agents", type=int, default=3, help="how many there are [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to measure [default: %(default)s]")
    options = parser.parse_args()
    asyncio.run(measure(options.agents, options.seconds))
