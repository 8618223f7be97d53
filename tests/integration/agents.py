"""Agents of the product on the nodes of the lab, started as an operator starts them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from gossip import ClusterSecret, Config
from gossip import Node as GossipNode
from mirror.cluster import Cluster
from mirror.elements import content_key, group_of
from mirror.oci import Digest, Repository, Tag
from tests.lab import Lab, Node, Registry
from tests.lab.process import Process

ROOT = Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-m", "mirror")
CLIENT_PORT, PEER_PORT, PUBLISH_PORT, ROUTER_PORT, METRICS_PORT = 29990, 29991, 29992, 29993, 29994
READY_TIMEOUT_S = 60.0
POLL_S = 0.02
SECRET = bytes(range(64, 112))


class Agent:
    """The agent of one node, with the containerd store. `process` is its process: stop, kill or pause it.

    `code` is the directory of the packages that it runs.
    """

    def __init__(
        self,
        node: Node,
        seeds: str,
        registries: Sequence[Registry],
        extra: Sequence[str | Path] = (),
        code: Path = ROOT,
    ) -> None:
        self.node = node
        store = ("--store", "containerd", "--containerd-socket", node.socket)
        secret_file = node.directory / "secret"
        secret_file.write_bytes(SECRET)
        self._command: list[str | Path] = [
            *COMMAND,
            "serve",
            *("--name", node.name),
            *("--address", node.address),
            *("--secret-file", secret_file),
            *("--epoch-file", node.directory / "epoch"),
            *("--seeds", seeds),
            *store,
            *("--registries", " ".join(f"{registry.name}={registry.url}" for registry in registries)),
            *extra,
        ]
        self.process = self._process(code)

    async def update(self, code: Path, within_s: float = READY_TIMEOUT_S) -> None:
        """Stop it, and start that of another version in its place; returns when that answers on its ports."""
        await self.process.stop()
        self.process = self._process(code)
        await self.start(within_s)

    def _process(self, code: Path) -> Process:
        # Safe: without the directory in which the tests run, which would come first.
        return self.node.process("agent", self._command, {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"})

    async def start(self, within_s: float = READY_TIMEOUT_S) -> None:
        """Start it; returns when it answers on its ports."""
        await self.process.start()
        await eventually(self._ready, within_s)

    async def _ready(self) -> bool:
        assert self.process.running, self.process.log()
        return await self.fetch("metrics") is not None

    async def probe(self, page: str) -> str:
        """What a probe of its client face gets, with the status. Raises `CommandError` when nobody answers."""
        url = f"http://127.0.0.1:{CLIENT_PORT}/{page}"
        return await self.node.run("curl", "--silent", "--max-time", "5", "--write-out", "%{http_code}", url)

    async def fetch(self, path: str) -> str | None:
        """A page of its port for Prometheus; None when it does not answer."""
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
                async with session.get(f"http://{self.node.address}:{METRICS_PORT}/{path}") as response:
                    return await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of a metric that have these labels."""
        total = 0.0
        for sample, pairs, value in re.findall(
            r"^(\w+)(\{.*\})? (\S+)$", await self.fetch("metrics") or "", re.MULTILINE
        ):
            if sample == name and all(f'{label}="{wanted}"' in pairs for label, wanted in labels.items()):
                total += float(value)
        return total

    async def command(self, *arguments: str) -> str:
        """Run one of the product's commands on the node; returns what it printed. Raises `CommandError`."""
        return await self.node.run(*COMMAND, *arguments, environment={"PYTHONPATH": str(ROOT)})

    async def configure_podman(self, registry: str, port: int | None = None) -> None:
        """Lead podman and skopeo on the node to the agent, with the product's own command: to a path, or a port."""
        places = ("--registries-conf", str(self.node.registries_conf))
        which = ("--registry", registry) if port is None else ("--registry-ports", f"{registry}={port}")
        await self.command("configure", "--runtime", "podman", *which, *places)

    async def configure_containerd(self) -> None:
        """Lead the node's containerd to the agent, with the product's own command."""
        await self.command("configure", "--certs-dir", str(self.node.certs_d))


async def start_agents(
    nodes: Sequence[Node],
    *registries: Registry,
    extra: Sequence[str] = (),
    zones: int = 1,
    within_s: float = READY_TIMEOUT_S,
    code: Path = ROOT,
) -> list[Agent]:
    """An agent on each node, each with all as its seeds; each node's containerd led to its agent.

    `extra` are more flags for each; of two that are the same, the last one counts. The nodes are spread over `zones`.
    """
    seeds = ",".join(f"{node.address}:{ROUTER_PORT}" for node in nodes)
    agents = [
        Agent(node, seeds, registries, ("--zone", f"zone-{number % zones}", *extra), code)
        for number, node in enumerate(nodes)
    ]
    await asyncio.gather(*(agent.start(within_s) for agent in agents))
    for agent in agents:
        await agent.configure_containerd()
    await all_met(agents, within_s)
    return agents


async def all_met(agents: Sequence[Agent], within_s: float = READY_TIMEOUT_S) -> None:
    """Wait until each agent sees all others."""

    async def met() -> bool:
        seen = [await agent.metric("skvaller_gossip_members_normal") for agent in agents]
        return seen == [len(agents) - 1] * len(agents)

    await eventually(met, within_s)


@asynccontextmanager
async def observer(lab: Lab, *, secret: bytes = SECRET) -> AsyncGenerator[GossipNode]:
    """A member of the cluster in the test's own process, which holds nothing and sees everything."""
    config = Config(
        name="observer",
        bind_address=lab.gateway,
        advertise_address=lab.gateway,
        seeds=(f"{lab.node(1).address}:{ROUTER_PORT}",),
        secret=ClusterSecret(secret),
    )
    async with GossipNode(config, group_of=group_of) as node:
        yield node


def holders(node: GossipNode, digest: Digest) -> set[str]:
    """The names of the visible members that hold an object."""
    return {member.name for member in node.holders(content_key(digest))}


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
    """Wait until a condition holds. Raises `TimeoutError`."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(POLL_S)


async def seen(node: GossipNode, digest: Digest, names: set[str], timeout_s: float) -> None:
    """Wait until an object is held by just these members, as the observer sees it."""

    async def right() -> bool:
        return holders(node, digest) == names

    try:
        await eventually(right, timeout_s)
    except TimeoutError:
        raise AssertionError(f"after {timeout_s} s {digest} is held by {holders(node, digest)}, not {names}") from None


async def tag_seen(node: GossipNode, name: str, digest: Digest, timeout_s: float) -> None:
    """Wait until the cluster knows that the tag in an image's name means a digest."""
    registry, _, rest = name.partition("/")
    repository, _, tag = rest.rpartition(":")
    cluster = Cluster(node)

    async def known() -> bool:
        return cluster.last_known(Repository.parse(registry, repository), Tag.parse(tag)) == digest

    await eventually(known, timeout_s)


async def tag_pages(node: Node, first: str) -> tuple[list[list[str]], bool]:
    """The tags on each page of a list, as a client on the node gets them; and whether it was warned of them.

    `first` is the path of the first page, with its query.
    """
    found, warned, following = [], [], first
    while following:
        answer = await node.run("curl", "--silent", "--fail", "--include", f"http://127.0.0.1:{CLIENT_PORT}{following}")
        head, _, body = answer.partition("\r\n\r\n")
        found.append(json.loads(body)["tags"])
        warned.append(bool(re.search("^warning: ", head, re.MULTILINE | re.IGNORECASE)))
        following = "".join(re.findall(r'^link: <(.*)>; rel="next"', head, re.MULTILINE | re.IGNORECASE))
    assert len(set(warned)) == 1
    return found, warned[0]
