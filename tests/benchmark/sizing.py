"""What an agent of a large cluster takes of memory: one process, measured whole, for each size of cluster.

    python -m tests.benchmark.sizing [--cluster NODESxOBJECTS ...]

Each process is an agent with everything on, whose containerd is away, and which is told the records and the sets of
the other members as gossip would tell them; these are not there. So it is memory that is measured and nothing else:
what gossip costs in motion is measured by `idle --agents` with agents that are there, and beyond that by
`skvaller simulate`. Objects are drawn as in `gossip_index`, and there are twenty times as many as each node has.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from gossip import Node
from mirror.app import LISTING_S_MAX, run_agent
from mirror.settings import load
from tests.benchmark.figures import figure, memory_bytes
from tests.benchmark.gossip_join import feed
from tests.integration.gossip.nodes import free_ports

if TYPE_CHECKING:
    from gossip import Config

CLUSTERS: Final = ("2x20", "50x400", "500x500", "1000x1000", "2000x1000")
VARIETY: Final = 20
LIMIT_BYTES: Final = 512 * 2**20
"""The chart's."""
SETTLE_S: Final = 2.0
FACES: Final = ("client", "peer", "publish", "router", "metrics")


async def measure(nodes: int, objects: int, directory: Path) -> None:
    """Run the agent, tell it of the others, and print what it takes."""
    ports = dict(zip((f"{face}_port" for face in FACES), free_ports(len(FACES)), strict=True))
    secret = directory / "secret"
    secret.write_bytes(os.urandom(32))
    flags = {name: str(port) for name, port in ports.items()} | {
        "address": "127.0.0.1",
        "secret_file": str(secret),
        "store": "containerd",
        "containerd_socket": str(directory / "containerd.sock"),
        "containerd_content_dir": str(directory),
        "spool_dir": str(directory),
    }
    settings = load(flags, {}, None)
    made: list[Node] = []

    def make(config: Config, **options: Any) -> Node:
        made.append(Node(config, **options))
        return made[0]

    with patch("mirror.app.Node", make):
        agent = asyncio.create_task(run_agent(settings, lambda: settings, None))
        await asyncio.sleep(LISTING_S_MAX + SETTLE_S)
    [node] = made
    alone = memory_bytes()
    await feed(node, nodes - 1, objects, objects * VARIETY)
    gc.collect()
    await asyncio.sleep(SETTLE_S)
    pairs = node.gauges().pairs
    assert pairs == (nodes - 1) * objects
    print(f"{nodes} nodes, {objects} objects on each, {pairs} pairs", flush=True)
    figure("memory of the agent, resident", memory_bytes() / 1e6, "MB", LIMIT_BYTES / 1e6)
    figure("before it knew of anybody", alone / 1e6, "MB", 75)
    os.kill(os.getpid(), signal.SIGTERM)
    await agent


def main(clusters: list[str]) -> None:
    for cluster in clusters:
        subprocess.run([sys.executable, "-m", "tests.benchmark.sizing", "--one", cluster], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", nargs="+", default=CLUSTERS, help="default: %(default)s")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        import uvloop

        with tempfile.TemporaryDirectory(prefix="skvaller-sizing-") as work:
            nodes, objects = options.one.split("x")
            uvloop.run(measure(int(nodes), int(objects), Path(work)))
    else:
        main(options.cluster)
