"""What a lease costs one node that pulls a new image alone: the question to a coordinator, before each object.

    python -m tests.benchmark.leases [--objects N] [--rounds N] [--bytes N]

Two nodes ask for new objects, in turns: one is the only member of its cluster, which decides for itself; the other has
two more members, which coordinate two thirds of its objects from another process. The difference is the lease's. One
request at a time, on a connection that stays; the registry is Debian's docker-registry. Needs root and the lab's tools.

Then what the question itself takes, on a connection that is there and on one that is made for it, in turns: a node that
claims seldom, among more members than it probes within the 30 s that such a connection is kept, makes one.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import sys
import time
from collections.abc import Sequence
from itertools import product
from unittest.mock import patch

import orjson

from gossip import transport
from mirror.herd.words import Claim, Lead, Scope, read_verdict, write
from tests.benchmark.figures import figure, quantile
from tests.integration.agents import CLIENT_PORT, ROOT, ROUTER_PORT, Agent, eventually, observer
from tests.lab import Lab, Node, Registry
from tests.lab.process import run

ADDED_MS_MAX = 5.0
REPOSITORY = "lib/app"


async def main(objects: int, rounds: int, size: int) -> None:
    took: dict[str, list[float]] = {"alone": [], "in a cluster": []}
    async with Lab.open() as lab:
        registry = await lab.add_registry("registry.test")
        alone, *others = await lab.add_machines(4)
        await start(registry, [alone], 0)
        await start(registry, others, 2)
        for number in range(rounds):
            image = await registry.publish(f"{REPOSITORY}:v{number}", [size + index for index in range(objects)])
            for who, node in zip(took, (alone, others[0]), strict=True):
                took[who] += await ask(node, registry, [str(digest) for digest in image.layers()])
                print(f"round {number + 1}, {who}: p50 {1000 * quantile(took[who], 0.5):.1f} ms so far", flush=True)
        without, with_lease = (1000 * quantile(each, 0.5) for each in took.values())
        figure("an object without a coordinator to ask, p50", without, "ms")
        figure("an object with one, p50", with_lease, "ms")
        figure("the lease adds, p50", with_lease - without, "ms", ADDED_MS_MAX)
        figure("the same, as a ratio", with_lease / without, "")
        await ask_directly(lab, alone.name, rounds * objects)


async def start(registry: Registry, nodes: Sequence[Node], others: int) -> None:
    agents = [
        Agent(
            node,
            f"{nodes[0].address}:{ROUTER_PORT}",
            [registry],
            ["--store", "oci-layout", "--layout-dir", node.directory / "layout", "--layout-bytes-max", "1M"],
        )
        for node in nodes
    ]
    for agent in agents:
        await agent.start()

    async def all_met() -> bool:
        return all([await agent.metric("skvaller_gossip_members_normal") == others for agent in agents])

    await eventually(all_met, 30)


async def ask(node: Node, registry: Registry, digests: Sequence[str]) -> list[float]:
    """How many seconds each took, from the request until its last byte."""
    command = [sys.executable, "-m", "tests.benchmark.leases", "--client", registry.name, *digests]
    return list(orjson.loads(await run(*command, namespace=node.namespace, environment={"PYTHONPATH": str(ROOT)})))


async def ask_directly(lab: Lab, coordinator: str, questions: int) -> None:
    """What a member's question takes on a connection that stays, and on a new one."""
    took: dict[float, list[float]] = {transport.DEALER_IDLE_S: [], -1.0: []}
    async with observer(lab) as node:

        async def met() -> bool:
            return any(member.name == coordinator for member in node.members())

        await eventually(met, 30)
        for number, idle_s in product(range(questions), took):
            claim = write(Claim(Scope.CLUSTER, f"{idle_s} {number}"))
            began = time.perf_counter()
            asking = asyncio.create_task(node.ask(coordinator, claim, 5))
            with patch.object(transport, "DEALER_IDLE_S", idle_s):
                await asyncio.sleep(0)  # it is sent
            assert isinstance(read_verdict(await asking), Lead)
            took[idle_s].append(time.perf_counter() - began)
    stays, new = (1000 * quantile(each, 0.5) for each in took.values())
    figure("a claim on a connection that stays, p50", stays, "ms", ADDED_MS_MAX)
    figure("a claim on a new connection, p50", new, "ms", ADDED_MS_MAX)
    figure("the same, as a ratio", new / stays, "")


def client(registry: str, digests: Sequence[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", CLIENT_PORT)
    took = []
    for digest in digests:
        began = time.perf_counter()
        connection.request("GET", f"/v2/{REPOSITORY}/blobs/{digest}?ns={registry}")
        answer = connection.getresponse()
        answer.read()
        took.append(time.perf_counter() - began)
        assert answer.status == 200, answer.status
    print(orjson.dumps(took).decode())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        client(sys.argv[2], sys.argv[3:])
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--objects", type=int, default=40, help="for each round")
        parser.add_argument("--rounds", type=int, default=4)
        parser.add_argument("--bytes", type=int, default=100_000, help="of each object")
        options = parser.parse_args()
        asyncio.run(main(options.objects, options.rounds, options.bytes))
