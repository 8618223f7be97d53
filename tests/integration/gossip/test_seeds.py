"""Nodes that join through seeds that are found while they run."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gossip import Node
from mirror.bootstrap import Bootstrap
from tests.integration.gossip.nodes import configs, until
from tests.serving import answering, scripted


async def test_nodes_meet_through_a_page_and_stay_together_when_their_seed_is_gone() -> None:
    first, *others = (replace(config, seeds=()) for config in configs(3))
    body = f"{first.advertise_address}:{first.router_port}\n".encode()
    async with scripted(answering("200 OK", [f"Content-Length: {len(body)}"], body)) as server:
        bootstraps = [
            Bootstrap([server.url], f"{config.advertise_address}:{config.router_port}", {}) for config in others
        ]
        nodes = [Node(config, more_seeds=bootstrap.seeds) for config, bootstrap in zip(others, bootstraps, strict=True)]
        asking = [
            asyncio.create_task(bootstrap.run(node.config.name, lambda node=node: [m.name for m in node.members()]))  # type: ignore[misc]
            for bootstrap, node in zip(bootstraps, nodes, strict=True)
        ]
        async with nodes[0], nodes[1]:
            async with Node(first) as seed:
                await until(lambda: all(len(node.members()) == 2 for node in (*nodes, seed)))
            await until(lambda: all(len(node.members()) == 1 for node in nodes))
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
            assert all(len(node.members()) == 1 for node in nodes)


async def test_a_node_asks_anew_for_its_seeds_at_each_attempt() -> None:
    first, second = (replace(config, seeds=()) for config in configs(2))
    seeds: list[str] = []
    async with Node(first) as one, Node(second, more_seeds=lambda: seeds) as two:
        await asyncio.sleep(0.5)
        assert not two.members()
        seeds.append(f"{first.advertise_address}:{first.router_port}")
        await until(lambda: len(one.members()) == len(two.members()) == 1)
