"""An agent that is told to stop: it leaves, ends what it is sending, and nobody asks it any more."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tests.integration.agents import eventually, start_agents
from tests.lab.process import CommandError

if TYPE_CHECKING:
    from tests.lab import Lab

MEGABYTE: Final = 1_000_000
LINK_MBIT: Final = 40
LAYER_BYTES: Final = 60 * MEGABYTE
GRACE_S: Final = 20.0
LEFT_S_MAX: Final = 5.0


async def test_a_transfer_that_runs_when_its_giver_is_told_to_stop_ends_well_within_the_grace_period(lab: Lab) -> None:
    registry = await lab.add_registry()
    giver, taker = await lab.add_nodes(2)
    agents = await start_agents([giver, taker], registry)
    image = await registry.publish("lib/app:v1", [LAYER_BYTES])
    await giver.pull(image.name)
    await registry.stop()  # whatever breaks off now has nowhere else to go
    await giver.run(
        "tc",
        "qdisc",
        "add",
        "dev",
        "eth0",
        "root",
        "tbf",
        "rate",
        f"{LINK_MBIT}mbit",
        "burst",
        "256kb",
        "latency",
        "50ms",
    )

    pulling = asyncio.create_task(taker.pull(image.name))
    await asyncio.sleep(2)
    assert not pulling.done()
    process = agents[0].process
    os.kill(process.pid, signal.SIGTERM)
    told = time.monotonic()

    async def left() -> bool:
        return await agents[1].metric("skvaller_gossip_members_normal") == 0

    await eventually(left, LEFT_S_MAX)
    # It takes no more pulls, so its node's probes see it go; until the end it counts what it still sends.
    await asyncio.sleep(1)
    with suppress(CommandError):  # nobody listens any more
        assert await agents[0].probe("readyz") == "stopping\n503"
    assert await agents[0].metric("skvaller_uploads") == 1
    assert not pulling.done()

    await pulling
    assert image.objects() <= taker.content()

    async def ended() -> bool:
        return not process.running

    await eventually(ended, GRACE_S)
    assert time.monotonic() - told < GRACE_S
