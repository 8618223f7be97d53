"""A node joins a cluster of a million pairs over real sockets: how long it takes, how many bytes, how it stalls.

    python -m tests.benchmark.gossip_join [--members N] [--keys-per-member N] [--keys N]

Another process holds what such a cluster knows: the records and sets of its members, which it was fed and which are
not there themselves. The node that is measured joins through it, with CURVE. In a real cluster it would compare its
state with the first neighbour that it hears; here the holder is the only one who is there, so it is told to take that.

The loop's stalls are how much later than asked a sleep of a millisecond ends; beside those while joining stand those of
the same process and machine when idle. On a busy machine they are mostly waits for a core, so the CPU time of the
loop's thread in each of these sleeps is shown too: more than that the code does not hold the loop. What was there
before is kept out of garbage collections, as the agent does it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gossip import ClusterSecret, Config, Member, Node
from gossip.membership import Claim
from gossip.messages import Deltas, Members, Sender
from gossip.or_set import Epoch, Snapshot
from tests.benchmark.figures import figure, memory_bytes, quantile
from tests.benchmark.gossip_index import KEY_BYTES, sample
from tests.integration.gossip.nodes import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = ClusterSecret(b"the secret of a benchmark, of enough bytes")
EPOCH = Epoch(1, 1)
IDLE_S = 3.0
JOIN_S_MAX = 120.0
PROBE_S = 0.001
NOBODY_PORT = 9
STALL_MS = 5.0


async def main(members: int, keys_per_member: int, distinct: int) -> None:
    ports = free_ports(4)
    arguments = [str(number) for number in (*ports[:2], members, keys_per_member, distinct)]
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmark.gossip_join",
        "--holder",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        pairs = int(await holder.stdout.readline())
        print(f"{members} members, {pairs} pairs, {distinct} keys", flush=True)
        await join(ports, pairs)
        holder.stdin.close()
        show("of the node that it joined through", json.loads(await holder.stdout.readline()))
    finally:
        if holder.returncode is None:
            holder.kill()
        await holder.wait()


async def join(ports: list[int], pairs: int) -> None:
    """Join through the holder, and wait until all pairs have come."""
    config = Config(
        name="newcomer",
        publish_port=ports[2],
        router_port=ports[3],
        seeds=(f"127.0.0.1:{ports[1]}",),
        secret=SECRET,
    )
    async with stalls() as idle:
        await asyncio.sleep(IDLE_S)
    before, started = memory_bytes(), time.monotonic()
    async with Node(config) as node:
        run = asyncio.create_task(node.run())
        async with stalls() as joining, asyncio.timeout(JOIN_S_MAX):
            while node.gauges().pairs < pairs:
                assert not run.done(), run
                exchange = node._replica._exchange
                if exchange.incoming is None:
                    exchange.compare_with("holder", node._now())
                await asyncio.sleep(0.05)
        figure("from the start until all pairs are known", time.monotonic() - started, "s", 15)
        figure("bytes received", node.counters.bytes_in / 1e6, "MB")
        figure("messages received", node.counters.messages_in, "")
        figure("memory grown by, for a pair", (memory_bytes() - before) / pairs, "B", 30)
        figure("stalls while idle, p99", quantile(idle.late_ms, 0.99), "ms")
        figure("stalls while joining, p50", quantile(joining.late_ms, 0.5), "ms")
        show("while joining", joining.figures())
        run.cancel()


async def hold(publish_port: int, router_port: int, members: int, keys_per_member: int, distinct: int) -> None:
    """Be the node that knows everything; at the end of the input tell how the loop stalled."""
    config = Config(name="holder", publish_port=publish_port, router_port=router_port, secret=SECRET)
    async with Node(config) as node:
        await feed(node, members, keys_per_member, distinct)
        async with stalls() as measured:
            print(node.gauges().pairs, flush=True)
            await asyncio.to_thread(sys.stdin.read)
        print(json.dumps(measured.figures()), flush=True)


async def feed(node: Node, members: int, keys_per_member: int, distinct: int) -> None:
    """Let a node receive records and snapshots; what it would send on has no receiver."""
    rng = random.Random(1)
    keys = [rng.randbytes(KEY_BYTES) for _ in range(distinct)]
    feeder = Sender("feeder", EPOCH)
    for number in range(members):
        member = Member(f"member{number:04}", EPOCH, "127.0.0.1", NOBODY_PORT, NOBODY_PORT)
        node._replica.receive(feeder, Members((Claim(member),)), node._now())
        adds = tuple(enumerate((keys[key] for key in sample(rng, distinct, keys_per_member)), 1))
        node._replica.receive(feeder, Deltas((Snapshot(member.name, EPOCH, len(adds), adds),)), node._now())
        await asyncio.sleep(0)


@dataclass
class Stalls:
    """For each sleep how late it ended, and how much CPU time the loop's thread used meanwhile."""

    late_ms: list[float] = field(default_factory=list)
    busy_ms: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, list[float]]:
        """By what is measured: the 99th percentile, and the longest."""
        measured = {"stalls": self.late_ms, "CPU time of the loop in a stall": self.busy_ms}
        return {name: [quantile(values, 0.99), max(values)] for name, values in measured.items()}


def show(what: str, figures: dict[str, list[float]]) -> None:
    for name, (p99, longest) in figures.items():
        figure(f"{name} {what}, p99", p99, "ms", STALL_MS)
        figure(f"{name} {what}, longest", longest, "ms")


@asynccontextmanager
async def stalls() -> AsyncIterator[Stalls]:
    """Collect how late the loop is, again and again."""
    measured = Stalls()

    async def probe() -> None:
        while True:
            asked, busy = time.perf_counter(), time.thread_time()
            await asyncio.sleep(PROBE_S)
            measured.late_ms.append((time.perf_counter() - asked - PROBE_S) * 1000)
            measured.busy_ms.append((time.thread_time() - busy) * 1000)

    gc.collect()
    gc.freeze()
    task = asyncio.create_task(probe())
    try:
        yield measured
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--keys-per-member", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--holder", type=int, nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.holder:
        asyncio.run(hold(*options.holder))
    else:
        asyncio.run(main(options.members, options.keys_per_member, options.keys))
