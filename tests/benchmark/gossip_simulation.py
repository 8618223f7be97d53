"""What a cluster of a thousand nodes does, simulated with the product's own replicas, against the budgets.

    python -m tests.benchmark.gossip_simulation [--nodes N] [--digests N] [--seed N] [--stall-minutes N]

One cluster goes through all: idle, single additions, a burst, a crash, a loss of power, a partition into halves, and
stalls of all nodes. Simulated time says what the protocol does; it leaves out the time that nodes need to compute.
About twenty minutes at 1,000 nodes, half of it the stalls.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass, field

from gossip.membership import Visibility
from gossip.simulation import Faults, Simulation

LATENCY_S = (0.0003, 0.0015)
SETTLE_S = 15.0
STALLS_PER_HOUR = 6.0
STALL_MEDIAN_S, STALL_SIGMA = 0.3, 0.8
"""The milder stall model: the logarithm of a stall's length has a normal distribution."""
LONG_S = 3.0
"""Less than the silence that makes anybody ask."""


@dataclass
class Report:
    """Measured figures beside what they must not exceed."""

    rows: list[tuple[str, float, float | None, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def add(self, what: str, value: float, budget: float | None, unit: str) -> None:
        self.rows.append((what, value, budget, unit))
        verdict = "" if budget is None else f"  (budget {budget:g}: {'ok' if value <= budget else 'EXCEEDED'})"
        print(f"{time.monotonic() - self.began:7.0f} s   {what}: {value:.4g} {unit}{verdict}", flush=True)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class Bench:
    """One cluster and what is done to it."""

    def __init__(self, nodes: int, digests: int, seed: int) -> None:
        self.report = Report()
        self.dice = random.Random(seed)
        self.names = [f"node{number:05}" for number in range(nodes)]
        pool = [self.dice.randbytes(33) for _ in range(digests * 20)]
        content = {name: self.dice.sample(pool, digests) for name in self.names}
        faults = Faults(latency_s=LATENCY_S, ordered=True)
        self.cluster = Simulation(seed, self.names[:3], faults, check_every=0, decode_every=100)
        self.cluster.start_acquainted(content)
        self.cluster.run(SETTLE_S)
        self.report.add("nodes ready", nodes, None, f"nodes, {digests} digests each")

    def idle(self, duration_s: float = 20.0) -> None:
        self.reset()
        self.cluster.run(duration_s)
        hosts = self.cluster.hosts.values()
        received = sum(host.bytes_in for host in hosts) / len(hosts) / duration_s / 1000
        sent = sum(host.bytes_out for host in hosts) / len(hosts) / duration_s / 1000
        self.report.add("idle traffic, the greater of in and out", max(received, sent), 10.0, "KB/s per node")
        messages = sum(host.messages_in for host in hosts) / len(hosts) / duration_s
        self.report.add("idle messages in", messages, None, "per s and node")

    def reset(self) -> None:
        self.cluster.latencies.clear()
        for host in self.cluster.hosts.values():
            host.messages_in = host.bytes_in = host.bytes_out = 0

    def single_adds(self, count: int = 20) -> None:
        self.reset()
        for _ in range(count):
            self.cluster.add(self.dice.choice(self.names), self.dice.randbytes(33), tracked=True)
            self.cluster.run(1.0)
        self.propagation("single add", 0.1, count)

    def burst(self, per_s: float = 400.0, duration_s: float = 3.0, tracked_every: int = 20) -> None:
        """Additions at random nodes, `per_s` for a cluster of 1,000."""
        self.reset()
        per_s *= len(self.names) / 1000
        count = int(per_s * duration_s)
        for number in range(count):
            self.cluster.run(self.dice.expovariate(per_s))
            name, tracked = self.dice.choice(self.names), number % tracked_every == 0
            self.cluster.add(name, self.dice.randbytes(33), tracked=tracked)
        bytes_in = sum(host.bytes_in for host in self.cluster.hosts.values()) / len(self.names) / duration_s / 1000
        self.cluster.run(3.0)
        self.report.add("burst traffic in", bytes_in, None, "KB/s per node")
        self.propagation("burst", 0.5, len(range(0, count, tracked_every)))

    def propagation(self, what: str, budget_s: float, tracked: int) -> None:
        values = self.cluster.latencies
        missing = tracked * (len(self.names) - 1) - len(values)
        self.report.add(f"{what}: p50", percentile(values, 0.5) * 1000, None, "ms")
        self.report.add(f"{what}: p99", percentile(values, 0.99) * 1000, budget_s * 1000, "ms")
        self.report.add(f"{what}: max", max(values) * 1000, None, "ms")
        self.report.add(f"{what}: not arrived", missing, 0, "of all (change, node)")

    def death(self, what: str, budget_s: float, *, silently: bool) -> None:
        victim = self.dice.choice(self.names[3:])
        keys = [key for _, key in self.cluster.replica(victim).set.elements(victim)]
        began = self.cluster.now
        self.cluster.crash(victim, silently=silently)
        first = math.nan
        while self.cluster.now - began < 60.0:
            self.cluster.run(0.1)
            views = self.cluster.views(victim)
            if math.isnan(first) and Visibility.HIDDEN in views:
                first = self.cluster.now - began
            if all(view is Visibility.HIDDEN for view in views):
                break
        self.report.add(f"{what}: hidden first", first, None, "s")
        self.report.add(f"{what}: hidden everywhere", self.cluster.now - began, budget_s, "s")
        self.cluster.start(victim, keys)
        self.cluster.run(SETTLE_S)
        back = self.cluster.views(victim).count(Visibility.NORMAL) / (len(self.names) - 1)
        self.report.add(f"{what}: nodes that do not see it again {SETTLE_S:.0f} s after its return", 1 - back, 0, "")

    def halves(self, parted_s: float = 120.0) -> None:
        """A partition into halves, longer than a mass failure keeps the others visible; then it heals."""
        half = self.names[: len(self.names) // 2]
        self.cluster.partition(half)
        self.cluster.run(parted_s)
        hidden = [view for name in half for view in self.cluster.views(name)[len(half) - 1 :]].count(Visibility.HIDDEN)
        self.report.add(
            "partition: pairs hidden across it", hidden / len(half) / (len(self.names) - len(half)), None, ""
        )
        self.cluster.add(half[0], b"made on one side")
        self.cluster.heal()
        self.cluster.faults = Faults(latency_s=LATENCY_S, ordered=True)
        began = self.cluster.now
        wrongly = 0
        side = set(half)
        while self.cluster.now - began < 30.0:
            self.cluster.run(0.25)
            across = within = 0
            for name in self.names:
                for other in self.cluster.replica(name).membership.others.values():
                    if other.visibility is Visibility.HIDDEN:
                        if (name in side) == (other.member.name in side):
                            within += 1
                        else:
                            across += 1
            wrongly = max(wrongly, within)
            if not across and not within:
                break
        self.report.add("heal: everybody visible everywhere", self.cluster.now - began, 5.0, "s")
        self.report.add("heal: most pairs of one side hidden at any time", wrongly, 0, "pairs")
        self.cluster.run(SETTLE_S)

    def stalls(self, minutes: float) -> None:
        downs, suspicions, stalls = self.count("downs"), self.count("suspicions"), 0
        end = self.cluster.now + 60 * minutes
        per_s = STALLS_PER_HOUR * len(self.names) / 3600
        while self.cluster.now < end:
            self.cluster.run(self.dice.expovariate(per_s))
            self.cluster.stall(
                self.dice.choice(self.names), self.dice.lognormvariate(math.log(STALL_MEDIAN_S), STALL_SIGMA)
            )
            stalls += 1
        per_hour = 60 / minutes * 1000 / len(self.names)
        self.report.add("stalls", stalls, None, f"in {minutes:g} min")
        false_downs = (self.count("downs") - downs) / (len(self.names) - 1)
        self.report.add("false DOWNs", false_downs * per_hour, 0.2, "per hour and 1,000 nodes")
        false_suspicions = self.count("suspicions") - suspicions
        self.report.add("accusations by neighbours", false_suspicions * per_hour, None, "per hour and 1,000 nodes")

    def long_stalls(self, node_hours: float) -> None:
        """The detector for very many hours: a stall shorter than its patience cannot matter, so only the longer ones of
        the model are played, one after another in a cluster of twelve."""
        names = self.names[:12]
        cluster = Simulation(1, names[:2], Faults(latency_s=LATENCY_S, ordered=True), check_every=0, decode_every=100)
        cluster.start_acquainted({name: [] for name in names})
        cluster.run(SETTLE_S)
        lengths = (
            self.dice.lognormvariate(math.log(STALL_MEDIAN_S), STALL_SIGMA)
            for _ in range(int(node_hours * STALLS_PER_HOUR))
        )
        long = [length for length in lengths if length > LONG_S]
        before = sum(cluster.replica(name).counters.downs for name in names)
        for length in long:
            cluster.stall(self.dice.choice(names), length)
            cluster.run(length + SETTLE_S)
        downs = (sum(cluster.replica(name).counters.downs for name in names) - before) / (len(names) - 1)
        self.report.add(f"stalls longer than {LONG_S:g} s", len(long), None, f"in {node_hours:g} node-hours")
        self.report.add("false DOWNs, detector alone", downs / node_hours * 1000, 0.2, "per hour and 1,000 nodes")

    def count(self, what: str) -> int:
        counters = [self.cluster.replica(name).counters for name in self.cluster.running()]
        return sum(getattr(counter, what) for counter in counters)


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate a gossiping cluster and compare it with its budgets.")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--digests", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stall-minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    bench = Bench(arguments.nodes, arguments.digests, arguments.seed)
    bench.idle()
    bench.single_adds()
    bench.burst()
    bench.death("crash", 10.0, silently=False)
    bench.death("power loss", 13.0, silently=True)
    bench.halves()
    bench.long_stalls(20_000)
    if arguments.stall_minutes:
        bench.stalls(arguments.stall_minutes)
    over = [what for what, value, budget, _ in bench.report.rows if budget is not None and not value <= budget]
    print("all within budget" if not over else f"over budget: {', '.join(over)}")


if __name__ == "__main__":
    main()
