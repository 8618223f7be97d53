"""What a herd of a thousand nodes does that wants one image at the same moment, in simulated time, against the budgets.

    python -m tests.benchmark.herd_simulation [--nodes N] [--scenes SCENE,SCENE...] [--json] [--plot FILE]

The scenes:

- `cold`: nobody has the image, and the registry gives each connection `--registry` times a node's uplink;
- `warm`: one node has it;
- `faulty`: the same, and 5 % of the nodes die meanwhile (half of them silently), and 5 % have a tenth of the uplink;
- `zones`: cold, in three zones;
- `leaders`: cold, and the leader is killed twice;
- `coordinator`: cold, and the image's coordinators are killed;
- `layers`: warm, an image of eight layers, of which a runtime pulls three at a time.

Times are in units of F/u: the image's bytes by a node's uplink. `herd_cluster` says what is the product and what is
played, `herd_flows` what the network is taken to be. Nodes take no time to compute, and the herd wants the image within
100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mirror.herd.claims import YOUNG_S
from mirror.load import SLOTS
from mirror.oci import Digest
from tests.benchmark.figures import figure, quantile
from tests.benchmark.herd_cluster import Cluster, Node
from tests.benchmark.herd_flows import Link
from tests.benchmark.herd_plot import to_svg
from tests.simulated_time import run

IMAGE_BYTES = 1_000_000_000
UPLINK = 125_000_000.0
STEPS = 128
"""In how many steps of time an uplink gives the image once."""
SPREAD_S = 0.1
"""Within what time all nodes begin."""
PART_FAULTY = 0.05
SLOWER = 10.0
ENOUGH = 60.0
"""After so many F/u a scene is given up."""


@dataclass(frozen=True)
class Scene:
    name: str
    warm: bool = False
    zones: int = 1
    layers: int = 1
    faulty: bool = False
    leaders_killed: int = 0
    coordinators_killed: int = 0
    slowest_max: float | None = None
    copies_max: float | None = None
    crossed_max: float | None = None


SCENES = (
    Scene("cold", copies_max=1.05, slowest_max=3.0),
    Scene("warm", warm=True, copies_max=0.0, slowest_max=2.5),
    Scene("faulty", warm=True, faulty=True, slowest_max=4.5),
    Scene("zones", zones=3, copies_max=1.05, crossed_max=2.4, slowest_max=3.0),
    Scene("leaders", leaders_killed=2, copies_max=1.5),
    Scene("coordinator", coordinators_killed=2, copies_max=1.5),
    Scene("layers", warm=True, layers=8, slowest_max=2.5),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a scene. Times in F/u, bytes in images, numbers as they are."""

    scene: str
    nodes: int
    finished: int
    never: int
    p50: float
    p99: float
    slowest: float
    upstream: float
    gets_per_blob: float
    escapes: int
    fallbacks: int
    broken: int
    crossed: float
    depth_mean: float
    depth_max: int
    requests_per_node: float
    times: tuple[float, ...]


class Options(argparse.Namespace):
    nodes: int
    scenes: str
    registry: float
    downlink: float
    seed: int
    json: bool
    plot: Path | None


async def play(scene: Scene, options: Options) -> Outcome:
    """The herd from its first request until the last node has the image."""
    rng = random.Random(options.seed)
    count, size = options.nodes, IMAGE_BYTES // scene.layers
    unit_s = IMAGE_BYTES / UPLINK
    slow = set(rng.sample(range(1, count), int(PART_FAULTY * count))) if scene.faulty else set()
    links = [
        Link(
            f"node-{number}",
            f"zone-{number % scene.zones}" if scene.zones > 1 else "",
            UPLINK / SLOWER if number in slow else UPLINK,
            UPLINK * options.downlink,
        )
        for number in range(count)
    ]
    cluster = Cluster(links, size, unit_s / STEPS, UPLINK * options.registry, SLOTS, options.seed)
    digests = [Digest.of(b"%d" % number) for number in range(scene.layers)]
    nodes = list(cluster.nodes.values())
    pulling = nodes
    if scene.warm:
        pulling = nodes[1:]
        for digest in digests:
            cluster.put(digest, nodes[0].name)
    await asyncio.sleep(2 * YOUNG_S)
    loop = asyncio.get_running_loop()
    began = loop.time()
    moving = asyncio.create_task(cluster.network.run())
    faults = asyncio.create_task(disturb(scene, cluster, digests, pulling, rng, unit_s))
    pulls = [node.spawn(later(node, rng.uniform(0, SPREAD_S), digests)) for node in pulling]
    await asyncio.wait(pulls, timeout=ENOUGH * unit_s)
    await asyncio.wait([faults])
    faults.result()
    moving.cancel()
    living = [node for node in pulling if not node.dead]
    done = [node for node in living if len(node.ended_at) == len(digests)]
    times = sorted((max(node.ended_at.values()) - began) / unit_s for node in done)
    depths = [len(node.stocks[digest].lineage) for node in done for digest in digests]
    registry = cluster.registry
    return Outcome(
        scene=scene.name,
        nodes=count,
        finished=len(done),
        never=len(living) - len(done),
        p50=quantile(times, 0.5),
        p99=quantile(times, 0.99),
        slowest=times[-1],
        upstream=registry.sent / IMAGE_BYTES,
        gets_per_blob=registry.gets / len(digests),
        escapes=registry.escapes,
        fallbacks=registry.fallbacks,
        broken=cluster.broken,
        crossed=cluster.network.crossed / IMAGE_BYTES,
        depth_mean=sum(depths) / len(depths),
        depth_max=max(depths),
        requests_per_node=cluster.asked / len(pulling),
        times=tuple(times),
    )


async def later(node: Node, delay_s: float, digests: Sequence[Digest]) -> None:
    await asyncio.sleep(delay_s)
    await node.pull_image(digests)


async def disturb(
    scene: Scene,
    cluster: Cluster,
    digests: Sequence[Digest],
    pulling: Sequence[Node],
    rng: random.Random,
    unit_s: float,
) -> None:
    """Do to the cluster what the scene says."""
    if scene.faulty:
        deaths = sorted(
            (rng.uniform(0, 2 * unit_s), node) for node in rng.sample(pulling, int(PART_FAULTY * len(pulling)))
        )
        began = asyncio.get_running_loop().time()
        for number, (at_s, node) in enumerate(deaths):
            await asyncio.sleep(began + at_s - asyncio.get_running_loop().time())
            node.die(silent=bool(number % 2))
    for number in range(scene.leaders_killed):
        leader = await leader_at(cluster, (number + 1) / (scene.leaders_killed + 2))
        leader.die(silent=False)
    if scene.coordinators_killed:
        await asyncio.sleep(unit_s / 4)
        key = f"registry.test {digests[0]}".encode()
        for name in cluster.roster("").in_cluster(key)[: scene.coordinators_killed]:
            cluster.nodes[name].die(silent=True)


async def leader_at(cluster: Cluster, part: float) -> Node:
    """Who fetches from the registry once that much of an object has come."""
    while True:
        await asyncio.sleep(cluster.network.step_s)
        for flow in cluster.registry.flows:
            if flow in cluster.network.flows and flow.position >= part * flow.given.size:
                return cluster.nodes[flow.taker.name]


def show(outcome: Outcome, scene: Scene, options: Options) -> None:
    """The figures of a scene, beside their budgets."""
    floor = max(1.0, 1 / options.downlink, 0.0 if scene.warm else 1 / options.registry)
    print(f"\n{scene.name}: {outcome.nodes} nodes; the least possible is {floor:g} F/u", flush=True)
    figure("nodes that never got it", outcome.never, "", 0)
    figure("completion p50", outcome.p50, "F/u")
    figure("completion p99", outcome.p99, "F/u")
    slowest = None if scene.slowest_max is None else scene.slowest_max * floor
    figure("completion of the slowest", outcome.slowest, "F/u", slowest)
    figure("bytes from the registry", outcome.upstream, "images", scene.copies_max)
    figure("GETs at the registry for each blob", outcome.gets_per_blob, "")
    figure("escapes", outcome.escapes, "")
    figure("runtimes that went to the registry themselves", outcome.fallbacks, "")
    figure("answers that broke off", outcome.broken, "")
    figure("bytes from zone to zone", outcome.crossed, "images", scene.crossed_max)
    figure("nodes between a node and the origin of its bytes, mean", outcome.depth_mean, "")
    figure("the same, the most", outcome.depth_max, "")
    figure("requests to peers for each node", outcome.requests_per_node, "")


def parse() -> Options:
    parser = argparse.ArgumentParser(description="Simulate a herd and compare it with its budgets.")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--scenes", default=",".join(scene.name for scene in SCENES))
    parser.add_argument("--registry", type=float, default=1.0, help="what the registry gives a connection, in uplinks")
    parser.add_argument("--downlink", type=float, default=1.0, help="a node's downlink, in uplinks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--plot", type=Path, help="draw how many nodes have the image when, as SVG")
    return parser.parse_args(namespace=Options())


def main() -> None:
    options = parse()
    logging.disable(logging.WARNING)
    wanted = options.scenes.split(",")
    outcomes = []
    for scene in SCENES:
        if scene.name in wanted:
            began = time.process_time()
            outcome = run(play(scene, options))
            print(f"{scene.name} took {time.process_time() - began:.0f} s of CPU", file=sys.stderr)
            outcomes.append(outcome)
            if not options.json:
                show(outcome, scene, options)
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes]))
    if options.plot:
        options.plot.write_text(to_svg({outcome.scene: outcome.times for outcome in outcomes}))


if __name__ == "__main__":
    main()
