"""Lists of tags on real parts: as the registry has them, and page by page as the cluster knows them without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.integration.agents import observer, start_agents, tag_pages, tag_seen

if TYPE_CHECKING:
    from tests.lab import Lab

TAGS = ["v1", "v2", "v3", "v4", "v5"]


async def test_tags_are_listed_by_the_registry_and_without_it_as_the_cluster_knows_them(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    one, two = nodes = await lab.add_nodes(2)
    agents = await start_agents(nodes, registry)
    images = [await registry.publish(f"lib/app:{tag}", [1000]) for tag in TAGS]
    for first in ("/v2/lib/app/tags/list?n=2&ns=registry.test", "/v2/registry.test/lib/app/tags/list?n=2"):
        [listed], warned = await tag_pages(two, first)  # docker-registry has one page
        assert (sorted(listed), warned) == (TAGS, False)

    for image in images[1:]:
        await one.pull(image.name)
    async with observer(lab) as cluster:
        for image in images[1:]:
            await tag_seen(cluster, image.name, image.root.digest, 3)
    await registry.stop()
    for first in ("/v2/lib/app/tags/list?n=3&ns=registry.test", "/v2/registry.test/lib/app/tags/list?n=3"):
        assert await tag_pages(two, first) == ([["v2", "v3", "v4"], ["v5"]], True)
    assert all(agent.process.running for agent in agents)
