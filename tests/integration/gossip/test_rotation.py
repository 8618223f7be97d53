"""A cluster changes its secret while it runs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from gossip import ClusterSecret, Config, Node
from tests.integration.gossip.nodes import configs, names, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OLD_TEXT = b"the secret that the cluster had from the beginning"
NEW_TEXT = b"the secret that the cluster is to have from now on"
OLD, NEW = ClusterSecret(OLD_TEXT), ClusterSecret(NEW_TEXT)
BOTH, BOTH_OLD_FIRST = ClusterSecret(NEW_TEXT, OLD_TEXT), ClusterSecret(OLD_TEXT, NEW_TEXT)
WATCH_S = 0.01
MEET_S = 5.0


class Rolling:
    """Nodes that are restarted one after another, each holding the key of its own name.

    A watcher looks all the time whether every node that has joined still sees every other.
    """

    def __init__(self, settings: list[Config]) -> None:
        self._settings = settings
        self._joined: dict[str, tuple[Node, AsyncExitStack]] = {}

    @asynccontextmanager
    async def running(self, secret: ClusterSecret) -> AsyncIterator[None]:
        """Start all nodes; at the end stop them. Fails when a node was hidden, or failed."""
        self._joined = {config.name: await self._enter(config, secret) for config in self._settings}
        await until(self._all_met, MEET_S)
        watcher = asyncio.create_task(self._watch())
        yield
        assert not watcher.done(), watcher
        watcher.cancel()
        for _, stack in self._joined.values():
            await stack.aclose()

    async def restart_all_with(self, secret: ClusterSecret) -> None:
        """Restart the nodes one after another, each when the one before is among the others again."""
        for config in self._settings:
            _, stack = self._joined.pop(config.name)
            await stack.aclose()
            node, stack = await self._enter(config, secret)
            others = list(self._joined.values())
            await until(lambda node=node, others=others: self._met(node, [o for o, _ in others]), MEET_S)  # type: ignore[misc]
            self._joined[config.name] = (node, stack)

    async def _enter(self, config: Config, secret: ClusterSecret) -> tuple[Node, AsyncExitStack]:
        stack = AsyncExitStack()
        node = Node(replace(config, secret=secret))
        node.add(config.name.encode())
        await stack.enter_async_context(node)
        run = asyncio.create_task(node.run())
        stack.callback(run.cancel)
        return node, stack

    def _met(self, node: Node, others: list[Node]) -> bool:
        """Whether a node and the others see each other and each other's keys."""
        pairs = [(node, other) for other in others] + [(other, node) for other in others]
        return all(names(one, other.me.name.encode()) == [other.me.name] for one, other in pairs)

    def _all_met(self) -> bool:
        nodes = [node for node, _ in self._joined.values()]
        return all(self._met(node, [other for other in nodes if other is not node]) for node in nodes)

    async def _watch(self) -> None:
        while True:
            assert self._all_met()
            await asyncio.sleep(WATCH_S)


def settings() -> list[Config]:
    """Three nodes, each of which may join through any of them."""
    three = configs(3)
    seeds = tuple(f"127.0.0.1:{config.router_port}" for config in three)
    return [replace(config, seeds=seeds) for config in three]


async def test_a_cluster_changes_its_secret_and_no_running_member_is_ever_hidden() -> None:
    rolling = Rolling(settings())
    async with rolling.running(OLD):
        await rolling.restart_all_with(BOTH)
        await rolling.restart_all_with(NEW)


async def test_a_change_of_the_secret_can_be_taken_back_on_the_way() -> None:
    rolling = Rolling(settings())
    async with rolling.running(BOTH):
        await rolling.restart_all_with(BOTH_OLD_FIRST)
        await rolling.restart_all_with(OLD)


async def test_who_has_only_the_old_secret_stays_out_when_the_change_is_over() -> None:
    ours, theirs = configs(2)
    async with Node(replace(ours, secret=NEW)) as node, Node(replace(theirs, secret=OLD)) as outsider:
        await until(lambda: node.counters.refused_connections > 0)
        await asyncio.sleep(0.5)
        assert node.members() == outsider.members() == []
        assert node.counters.messages_in == 0
