"""A herd: many nodes pull a new image at the same moment, and what that costs the registry and each of them.

    python -m tests.benchmark.herd [--nodes N] [--containerds N] [--mbit N] [--layers MB,MB,...] [--spool MB]
        [--zones N] [--warm] [--kill-leaders N] [--kill-coordinator] [--public] [--json FILE] [--plot FILE]

Real agents, each in a network namespace with a link of `--mbit` in each direction; some nodes have a real containerd,
which pulls by CRI through a spool of `--spool` MB, the others a client that behaves like one
(`tests.benchmark.herd_client`). It keeps nothing, so its agent does, in an OCI layout: what a runtime pulled stays. The
registry is Debian's docker-registry with Bearer tokens. Counted is what leaves the registry, whoever asked: agents, and
runtimes that fell back to it.

Baseline: without a mirror every node takes one copy from the registry. Times are in units of F/u, the time that the
image takes over one link.

`--kill-leaders` crashes whole nodes, a sixth of that time apart, each the one that has fetched most; each comes back
and pulls anew. `--kill-coordinator` kills an agent for good, and its runtime goes on without it. Needs root and the
lab's tools.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from mirror.herd.roster import Place, Roster
from mirror.herd.words import object_name
from mirror.journal import RECENT_MAX
from mirror.registry import ANSWER_S_MAX
from tests.benchmark.figures import figure, quantile
from tests.benchmark.herd_plot import to_svg
from tests.integration.agents import CLIENT_PORT, READY_TIMEOUT_S, ROOT, ROUTER_PORT, Agent, eventually
from tests.lab import Lab, Login
from tests.lab.process import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab import Image, Node, Registry

MEGABYTE = 1_000_000
LOGIN = Login("alice", "correct horse")
PULL_S_MAX = 1200.0
LONGEST_WAIT = "longest wait for the mirror's answer to a client that measures it, ms"
SETTLE_S = 3.0
GIVEN = ("peer", "peer_in_flight", "upstream")
"""What the sources of a layer are called that came to a node for its client."""


@dataclass
class Options:
    nodes: int = 30
    containerds: int = 5
    mbit: int = 100
    layers: tuple[int, ...] = (540, 200, 150, 100, 50, 30, 10, 5)
    spool: int = 400
    zones: int = 1
    warm: bool = False
    kill_leaders: int = 0
    kill_coordinator: bool = False
    public: bool = False


async def main(options: Options, out: Path | None, plot: Path | None) -> None:
    async with Lab.open() as lab:
        registry = await lab.add_registry("registry.test", None if options.public else LOGIN)
        runtimes = await lab.add_nodes(options.containerds)
        machines = await lab.add_machines(options.nodes - options.containerds)
        nodes = [*runtimes, *machines]
        image = await registry.publish("lib/app:v1", [megabytes * MEGABYTE for megabytes in options.layers])
        agents = await start(nodes, runtimes, registry, options)
        if options.warm:
            await runtimes[0].pull(image.name, auth=auth(registry))
            await asyncio.sleep(SETTLE_S)
            registry.forget()
        for node in nodes:
            await limit(node, options.mbit)
        took, notes = await herd(nodes[1:] if options.warm else nodes, runtimes, agents, registry, image, options)
        result = await report(took, notes, agents, registry, image, options)
        if out is not None:
            out.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
        if plot is not None:
            unit_s = unit(image, options)
            plot.write_text(to_svg({f"{options.nodes} agents": [each / unit_s for each in sorted(took)]}))


def auth(registry: Registry) -> tuple[str, str] | None:
    return (registry.login.username, registry.login.password) if registry.login else None


async def start(nodes: Sequence[Node], runtimes: Sequence[Node], registry: Registry, options: Options) -> list[Agent]:
    seeds = ",".join(f"{node.address}:{ROUTER_PORT}" for node in nodes[:3])
    agents = []
    for number, node in enumerate(nodes):
        extra: list[str | Path] = ["--zone", f"zone-{number % options.zones}", "--spool-bytes-max", f"{options.spool}M"]
        if node not in runtimes:
            layout = node.directory / "layout"
            extra += ["--store", "oci-layout", "--layout-dir", layout, "--layout-bytes-max", "4G"]
        agents.append(Agent(node, seeds, [registry], extra))
    await asyncio.gather(*(agent.process.start() for agent in agents))

    async def all_met() -> bool:
        met = [await agent.metric("skvaller_gossip_members_normal") for agent in agents]
        return met == [len(agents) - 1] * len(agents)

    await eventually(all_met, READY_TIMEOUT_S + 3 * len(agents))
    for agent in agents:
        if agent.node in runtimes:
            await agent.configure_containerd()
    await asyncio.sleep(SETTLE_S)
    return agents


def unit(image: Image, options: Options) -> float:
    """F/u: for how many seconds the image takes one link."""
    return image.size() * 8 / options.mbit / MEGABYTE


async def limit(node: Node, mbit: int) -> None:
    """The node's link takes and gives so much. The registry is on the other side of it, as fast as need be.

    What the node sends is controlled by Reno: in a queue that is not fair, a flow of BBR may starve beside others.
    """
    await node.run("sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")
    rate = ("root", "tbf", "rate", f"{mbit}mbit", "burst", "256kb", "latency", "100ms")
    await run("tc", "qdisc", "add", "dev", node.link, *rate)
    await node.run("tc", "qdisc", "add", "dev", "eth0", *rate)


@dataclass
class Pulls:
    """Every node's pull; one that crashed begins anew when its agent and its runtime are there again."""

    registry: Registry
    image: Image
    runtimes: Sequence[Node]
    start_at: float
    notes: Counter[str] = field(default_factory=Counter)
    running: dict[str, asyncio.Task[float]] = field(default_factory=dict)

    def begin(self, node: Node) -> None:
        """Pull at `start_at`, or now if that is over."""
        self.running[node.name] = asyncio.create_task(self._pull(node, max(time.time(), self.start_at)))

    async def _pull(self, node: Node, start_at: float) -> float:
        """How long after the start of all pulls this one ended."""
        if node in self.runtimes:
            took = await pull_runtime(node, self.registry, self.image, start_at)
        else:
            took = await pull_client(node, self.registry, self.image, start_at, self.notes)
        return start_at - self.start_at + took

    async def crash(self, agent: Agent) -> None:
        """The node loses its agent, its runtime and its pull, and comes back, with what its store had whole."""
        node = agent.node
        self.running[node.name].cancel()
        await asyncio.wait([self.running[node.name]])
        await agent.process.kill()
        if node in self.runtimes:
            await node.containerd.kill()
            await node.start()
        await agent.start(PULL_S_MAX)
        self.begin(node)

    async def results(self) -> list[float]:
        return list(await asyncio.gather(*self.running.values()))


async def herd(
    nodes: Sequence[Node],
    runtimes: Sequence[Node],
    agents: Sequence[Agent],
    registry: Registry,
    image: Image,
    options: Options,
) -> tuple[list[float], Counter[str]]:
    """Pull everywhere at the same moment; how long each took, and what clients noticed."""
    pulls = Pulls(registry, image, runtimes, time.time() + 5 + len(nodes) / 10)
    for node in nodes:
        pulls.begin(node)
    await asyncio.sleep(pulls.start_at - time.time())
    await disturb(agents, pulls, options)
    return await pulls.results(), pulls.notes


async def disturb(agents: Sequence[Agent], pulls: Pulls, options: Options) -> None:
    registry, image = pulls.registry, pulls.image
    largest = max(image.layers().items(), key=lambda entry: entry[1])[0]
    if options.kill_coordinator:
        await asyncio.sleep(2)
        places = [Place(agent.node.name, "") for agent in agents]
        name = Roster(places[0], places[1:]).in_cluster(object_name(registry.name, largest).encode())[0]
        print(f"killing the agent of {name}, which coordinates the largest layer", flush=True)
        await next(agent for agent in agents if agent.node.name == name).process.kill()
    crashing: list[tuple[Agent, asyncio.Task[None]]] = []
    for _ in range(options.kill_leaders):
        await asyncio.sleep(unit(image, options) / 6)
        crashed = [agent for agent, _ in crashing]
        fetched = [
            (await agent.metric("skvaller_upstream_bytes_total"), agent) for agent in agents if agent not in crashed
        ]
        leader = max(fetched, key=lambda entry: entry[0])[1]
        print(f"{leader.node.name}, which leads, crashes", flush=True)
        crashing.append((leader, asyncio.create_task(pulls.crash(leader))))
    await asyncio.gather(*(crash for _, crash in crashing))


async def pull_runtime(node: Node, registry: Registry, image: Image, start_at: float) -> float:
    await asyncio.sleep(start_at - time.time())
    async with asyncio.timeout(PULL_S_MAX):
        took = await node.pull(image.name, auth=auth(registry), timeout_s=PULL_S_MAX)
    assert node.content() >= image.objects()
    return took


async def pull_client(node: Node, registry: Registry, image: Image, start_at: float, notes: Counter[str]) -> float:
    repository, _, tag = image.name.partition("/")[2].partition(":")
    login = [":".join(auth(registry) or ())] if registry.login else []
    command = [sys.executable, "-m", "tests.benchmark.herd_client", f"http://127.0.0.1:{CLIENT_PORT}", registry.name]
    environment = {"PYTHONPATH": str(ROOT), "HERD_REGISTRY": registry.url}
    printed = await run(
        *(*command, repository, tag, str(start_at), *login),
        namespace=node.namespace,
        environment=environment,
        timeout_s=PULL_S_MAX,
    )
    answer = orjson.loads(printed)
    notes["bodies that broke off"] += answer["broken"]
    notes["requests that fell back"] += answer["aside"]
    notes[LONGEST_WAIT] = max(notes[LONGEST_WAIT], round(1000 * answer["waited_s"]))
    return float(answer["took_s"])


async def report(
    took: list[float],
    notes: Counter[str],
    agents: Sequence[Agent],
    registry: Registry,
    image: Image,
    options: Options,
) -> dict[str, object]:
    unit_s = unit(image, options)
    objects = {str(digest) for digest in image.objects()}
    exchanges = [each for each in registry.exchanges if each.path.rpartition("/")[2] in objects]
    gets = Counter(each.path for each in exchanges if each.method == "GET" and each.status in (200, 206))
    copies = sum(each.body_bytes for each in exchanges) / image.size()
    by_agents = sum(each.body_bytes for each in exchanges if each.client.startswith("skvaller")) / image.size()
    print(
        f"{options.nodes} nodes, {image.size() / MEGABYTE:.0f} MB in {len(image.layers())} layers, F/u = {unit_s:.1f} s"
    )
    undisturbed = not (options.kill_leaders or options.kill_coordinator)
    copies_max = 0.05 if options.warm else 1.5 if options.kill_leaders else 1.05 if undisturbed else None
    figure("copies of the image that left the registry", copies, "", copies_max)
    figure("  of these to agents (the rest to runtimes that fell back)", by_agents, "")
    figure("GETs per blob at the registry, mean", sum(gets.values()) / len(objects), "", 1.1 if undisturbed else None)
    figure("GETs of the blob that was asked for most", max(gets.values(), default=0), "")
    figure("pull, fastest", min(took) / unit_s, "F/u")
    figure("pull, median", quantile(took, 0.5) / unit_s, "F/u")
    figure("pull, p99", quantile(took, 0.99) / unit_s, "F/u")
    figure("pull, slowest", max(took) / unit_s, "F/u", 2.5 if options.warm else 3)
    roles = {role: await total(agents, "skvaller_herd_total", role=role) for role in ("led", "followed", "escaped")}
    for role, count in roles.items():
        figure(f"objects {role}", count, "")
    crossed = await total(agents, "skvaller_peer_bytes_total", zone="other") / image.size()
    if options.zones > 1:
        figure("copies between zones", crossed, "", 2.4)
    for note, count in notes.items():
        figure(note, count, "", 1000 * ANSWER_S_MAX if note == LONGEST_WAIT else None)
    through = await depths(agents, image)
    figure("nodes between a node and the origin of its bytes, mean", sum(through) / len(through), "")
    figure("the same, the most", max(through), "")
    return {
        "options": {name: getattr(options, name) for name in Options.__dataclass_fields__},
        "copies": copies,
        "copies_by_agents": by_agents,
        "gets": dict(gets),
        "unit_s": unit_s,
        "took_s": sorted(took),
        "crossed": crossed,
        "depth_mean": sum(through) / len(through),
        "depth_max": max(through),
        **roles,
        **notes,
    }


async def depths(agents: Sequence[Agent], image: Image) -> list[int]:
    """Through how many nodes each layer came to each node, as the agents that still run tell it.

    A node that left its giver has the one that it came to last; so where nodes crashed, the way of the bytes may seem
    lead back to where it came from, and is left out. Who had the layer whole begins a tree, as the registry does.
    """
    givers: dict[tuple[str, str], tuple[str, bool]] = {}  # by node and layer: the giver, and whether it had it whole
    for agent in [each for each in agents if each.process.running]:
        told = await agent.probe(f"-/api/pulls?limit={RECENT_MAX}")
        for pull in reversed(orjson.loads(told.removesuffix("200"))):
            if pull["face"] == "client" and pull["complete"] and pull["source"] in GIVEN:
                givers[agent.node.name, pull["digest"]] = pull["holder"], pull["source"] != "peer_in_flight"
    through = []
    for digest in map(str, image.layers()):
        for name in (name for name, layer in givers if layer == digest):
            passed: list[str] = []
            giver, whole = givers[name, digest]
            while giver and giver not in (name, *passed):
                passed.append(giver)
                giver, whole = ("", True) if whole else givers.get((giver, digest), ("", True))
            if not giver:
                through.append(len(passed))
    return through


async def total(agents: Sequence[Agent], name: str, **labels: str) -> float:
    return sum([await agent.metric(name, **labels) for agent in agents if agent.process.running])


def parse() -> tuple[Options, Path | None, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Options()
    for name in ("nodes", "containerds", "mbit", "spool", "zones", "kill_leaders"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    parser.add_argument("--layers", type=lambda text: tuple(map(int, text.split(","))), default=defaults.layers)
    for name in ("warm", "kill_coordinator", "public"):
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="draw how many nodes have the image when, as SVG")
    arguments = vars(parser.parse_args())
    out, plot = arguments.pop("json"), arguments.pop("plot")
    return Options(**arguments), out, plot


if __name__ == "__main__":
    asyncio.run(main(*parse()))
