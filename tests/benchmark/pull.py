"""How long a containerd takes to pull an image from the registry, and from a peer through the mirror.

    python -m tests.benchmark.pull [--rounds N] [--megabytes N] [--mbit N]

Baseline: the same containerd, fresh each time, pulling the same image from the registry without a mirror. The link to
the registry is limited (`--mbit`, by traffic control), as a link that leaves a site is; nodes reach each other at the
speed of this machine. Each round runs both, one after the other. Needs root and the lab's tools.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics

from tests.integration.agents import observer, seen, start_agents
from tests.lab import Lab
from tests.lab.process import run

MEGABYTE = 1_000_000


async def main(rounds: int, megabytes: int, mbit: int) -> None:
    direct: list[float] = []
    from_peer: list[float] = []
    async with Lab.open() as lab:
        registry = await lab.add_registry()
        layers = [megabytes * MEGABYTE // 4] * 4
        image = await registry.publish("lib/app:v1", layers)
        (holder,) = await lab.add_nodes(1)
        await holder.pull(image.name)
        direct_nodes, mirrored_nodes = await lab.add_nodes(rounds), await lab.add_nodes(rounds)
        await start_agents([holder, *mirrored_nodes], registry)
        async with observer(lab) as node:
            for digest in image.objects():
                await seen(node, digest, {holder.name}, 10)
        for number, (alone, mirrored) in enumerate(zip(direct_nodes, mirrored_nodes, strict=True), 1):
            if mbit:
                limit = ("rate", f"{mbit}mbit", "burst", "1mb", "latency", "50ms")
                await run("tc", "qdisc", "add", "dev", alone.link, "root", "tbf", *limit)
            direct.append(await alone.pull(image.name))
            registry.forget()
            from_peer.append(await mirrored.pull(image.name))
            assert sum(registry.bytes_sent(layer) for layer in image.layers()) == 0
            assert alone.content() == mirrored.content() == image.objects()
            print(
                f"round {number}: from the registry {direct[-1]:.2f} s, from a peer {from_peer[-1]:.2f} s",
                flush=True,
            )
        report(image.size() / MEGABYTE, direct, from_peer)


def report(megabytes: float, direct: list[float], from_peer: list[float]) -> None:
    ratio = statistics.median(direct) / statistics.median(from_peer)
    print(
        f"{megabytes:.0f} MB, {len(direct)} rounds, medians: "
        f"from the registry {statistics.median(direct):.2f} s, from a peer {statistics.median(from_peer):.2f} s, "
        f"ratio {ratio:.1f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200, help="the size of the image")
    parser.add_argument("--mbit", type=int, default=200, help="the link to the registry, in Mbit/s; 0: no limit")
    options = parser.parse_args()
    asyncio.run(main(options.rounds, options.megabytes, options.mbit))
