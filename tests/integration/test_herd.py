"""Nodes that want the same new image at the same moment, with real containerds and a real registry."""

from __future__ import annotations

import asyncio

from tests.integration.agents import start_agents
from tests.lab import Lab

MEGABYTE = 1_000_000
NODES = 5


async def test_a_herd_costs_upstream_one_copy() -> None:
    async with Lab.open() as lab:
        registry = await lab.add_registry()
        nodes = await lab.add_nodes(NODES)
        await start_agents(nodes, registry)
        image = await registry.publish("lib/app:v1", [30 * MEGABYTE, 20 * MEGABYTE, 10 * MEGABYTE, MEGABYTE])
        await asyncio.gather(*(node.pull(image.name) for node in nodes))
        assert [node.content() for node in nodes] == [image.objects()] * NODES
        gets = {str(digest): registry.requests_for(digest) for digest in image.objects()}
        assert set(gets.values()) == {1}
        assert registry.bytes_sent() <= 1.05 * image.size()
