"""The whole: a network with nodes and registries on it, all of which end with it."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from tests.lab.network import claim
from tests.lab.node import Node
from tests.lab.registry import Login, Registry
from tests.lab.requirements import require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.lab.network import Network

FIRST_PORT = 5000


class Lab:
    """Nodes and registries on one network. Every node knows every registry, whichever came first."""

    def __init__(self, network: Network, stack: AsyncExitStack) -> None:
        self._network = network
        self._stack = stack
        self._nodes: list[Node] = []
        self._registries: list[Registry] = []

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Lab]:
        """An empty lab; skips or fails the test when the machine lacks what it needs."""
        require("containerd", "ctr", "docker-registry", "ip", "nsenter", "runc", "setpriv", "skopeo", root=True)
        with claim() as network:
            async with AsyncExitStack() as stack:
                yield cls(network, stack)

    @property
    def gateway(self) -> str:
        """The address of this machine on the lab's network."""
        return self._network.gateway

    @property
    def nodes(self) -> list[Node]:
        """All nodes."""
        return list(self._nodes)

    def node(self, number: int) -> Node:
        """The node of that number; they are counted from 1."""
        assert number > 0, "nodes are counted from 1"
        return self._nodes[number - 1]

    async def add_nodes(self, count: int) -> list[Node]:
        """Start more nodes; returns the new ones when their containerd answers."""
        return [await self._add_node() for _ in range(count)]

    async def add_machines(self, count: int) -> list[Node]:
        """More nodes, without a containerd."""
        return [await self._add_node(containerd=False) for _ in range(count)]

    async def add_registry(self, name: str = "registry.test", login: Login | None = None) -> Registry:
        """Start a registry; with a `login` it is private."""
        port = FIRST_PORT + 2 * len(self._registries)
        directory = self._network.directory / f"registry-{name.replace(':', '-')}"
        registry = Registry(name, directory, self.gateway, port, login)
        self._registries.append(registry)
        self._stack.push_async_callback(registry.stop)
        await registry.start()
        for node in self._nodes:
            node.add_registry(name, registry.url)
        return registry

    def logs(self) -> dict[str, str]:
        """The end of what each process wrote, by its name."""
        processes = [process for node in self._nodes for process in node.processes]
        processes += [registry.process for registry in self._registries]
        return {process.name: process.log() for process in processes}

    async def _add_node(self, *, containerd: bool = True) -> Node:
        number = len(self._nodes) + 1
        namespace, address = self._network.add_namespace(number)
        node = Node(f"n{number}", namespace, address, self._network.directory / f"n{number}")
        self._nodes.append(node)
        self._stack.push_async_callback(node.close)
        for registry in self._registries:
            node.add_registry(registry.name, registry.url)
        if containerd:
            await node.start()
        return node
