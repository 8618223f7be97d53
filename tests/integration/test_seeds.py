"""Clusters of agents that form through an address and through a page; `tests/k8s/cluster` has names and a Lease."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.agents import ROUTER_PORT, Agent, eventually
from tests.lab.process import Process

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab import Lab

MEGABYTE = 1_000_000
PAGE_PORT = 6080
MEET_S_MAX = 30


@pytest.mark.parametrize("through", ["an address", "a page"])
async def test_a_cluster_survives_the_loss_of_the_seed_through_which_it_formed(
    through: str, lab: Lab, tmp_path: Path
) -> None:
    registry = await lab.add_registry()
    nodes = await lab.add_nodes(3)
    seed = f"{nodes[0].address}:{ROUTER_PORT}"
    (tmp_path / "seeds").write_text(f"{seed}\n")
    serve = [sys.executable, "-m", "http.server", f"--bind={lab.gateway}", f"--directory={tmp_path}", str(PAGE_PORT)]
    page = Process("page", serve, tmp_path / "log")
    await page.start()
    named = seed if through == "an address" else f"http://{lab.gateway}:{PAGE_PORT}/seeds"
    agents = [Agent(node, named, [registry]) for node in nodes]
    # All at once: nobody can rely on a seed that is there already.
    await asyncio.gather(*(agent.start() for agent in agents))

    async def have_met(*some: Agent) -> bool:
        return [await agent.metric("skvaller_gossip_members_normal") for agent in some] == [len(some) - 1] * len(some)

    await eventually(lambda: have_met(*agents), MEET_S_MAX)
    assert ("GET /seeds" in page.log()) == (through == "a page")
    for agent in agents:
        await agent.configure_containerd()
    image = await registry.publish("lib/app:v1", [MEGABYTE])
    await nodes[1].pull(image.name)
    await page.stop()
    await agents[0].process.kill()
    await eventually(lambda: have_met(*agents[1:]), MEET_S_MAX)
    await registry.stop()
    await nodes[2].pull(image.name)
    assert nodes[2].content() == image.objects()
    # It comes back, and those that are there are all that it can know: the page is gone, and it is the seed itself.
    await agents[0].start()
    await eventually(lambda: have_met(*agents), MEET_S_MAX)
