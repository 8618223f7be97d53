"""Nodes that are processes: joining, being killed, being frozen, and all starting again at once."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.integration.gossip.processes import Processes

if TYPE_CHECKING:
    from pathlib import Path

NODES = 8
KEYS = 50
CRASH_S = 10.0
"""Within this time a crashed node is gone everywhere (DESIGN's promise)."""
FREEZE_S = 13.0
"""The same for one that is frozen, or lost power."""
MEET_S = 5.0


async def test_eight_processes_find_together_after_kills_freezes_and_a_restart_of_all(tmp_path: Path) -> None:
    async with Processes.of(NODES, KEYS, tmp_path) as cluster:
        everybody = cluster.members
        await cluster.start(everybody)
        await cluster.converged(everybody, MEET_S)

        for number, member in enumerate(everybody):
            member.add(f"fresh{number}")
        await cluster.converged(everybody, MEET_S)
        assert (await everybody[0].state())["pairs"] == NODES * (KEYS + 1)

        # One is killed and one frozen at the same time; the rest goes on.
        killed, frozen, *rest = everybody
        await killed.stop(signal.SIGKILL)
        frozen.freeze()
        await cluster.converged(rest, max(CRASH_S, FREEZE_S))
        frozen.thaw()
        await killed.start()
        await cluster.converged(everybody, MEET_S)

        # Without leaving, and without having time to: everybody at once.
        await cluster.stop(everybody, signal.SIGKILL)
        await cluster.start(everybody)
        await cluster.converged(everybody, MEET_S)
        assert (await everybody[0].state())["pairs"] == NODES * KEYS, "what was added while it ran is lost with it"

        leaving, *rest = everybody
        await asyncio.gather(leaving.stop(signal.SIGTERM), cluster.converged(rest, MEET_S))
