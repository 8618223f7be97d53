"""What a cluster of a thousand nodes does, simulated with the product's own replicas, against the budgets.

    python -m tests.benchmark.gossip_simulation [--nodes N] [--digests N] [--seed N] [--parts PART,PART...]

The parts:

- `life`: one cluster goes through quiet seconds, a roll-out, a crash, a power loss of five nodes, and a partition into
  halves, longer than a mass failure keeps the others visible;
- `stalls`: all nodes stall now and then, for ten minutes;
- `detector`: the same for very many node-hours. A stall shorter than the detector's patience cannot matter, so only the
  longer ones are played, one after another in a cluster of twelve.

Simulated time says what the protocol does; it leaves out the time that nodes need to compute. At 1,000 nodes `life`
takes about a quarter of an hour, and so does `stalls`.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time

from gossip.planning import Death, Partition, Report, Scenario, begin
from gossip.planning.full import STALL_MEDIAN_S, STALL_SIGMA
from gossip.simulation import Faults, Simulation
from tests.benchmark.figures import figure

STALLS_PER_HOUR = 6.0
STALL_MINUTES = 10.0
DETECTOR_NODES = 12
DETECTOR_NODE_HOURS = 200_000
"""Enough that chance does not decide: in 20,000 one or two false DOWNs are expected, and five are no surprise."""
LONG_S = 5.0
"""A member may stall for so long at least, however soon it is suspected."""
PAUSE_S = 15.0
"""After a stall, until everything is as before."""


def life(nodes: int, digests: int, seed: int) -> None:
    scenario = Scenario(
        nodes=nodes,
        digests=digests,
        seed=seed,
        rollout_at_s=20.0,
        rollout_for_s=3.0,
        deaths=(Death(30.0, 1), Death(50.0, min(5, nodes // 4), silently=True)),
        partitions=(Partition(70.0, 120.0, 0.5),),
        duration_s=210.0,
    )
    report = play(scenario)
    quiet, burst, parted, _ = report.propagation
    figure("single add visible everywhere, p99", milliseconds(quiet.p99_s), "ms", 100)
    figure("single add visible everywhere, max", milliseconds(quiet.max_s), "ms")
    figure(f"burst of {scenario.rollout_rate:g} adds/s, p99", milliseconds(burst.p99_s), "ms", 500)
    figure("burst, max", milliseconds(burst.max_s), "ms")
    figure("changes that never arrived, of (change, node)", sum(part.missing for part in report.propagation), "", 0)
    idle, rolling, _ = report.traffic
    figure("idle traffic in, with one add a second", idle.bytes_in / 1000, "KB/s", 10)
    figure("idle messages in", idle.messages_in, "1/s")
    figure("burst traffic in", rolling.bytes_in / 1000, "KB/s")
    crash, power_loss = report.detections
    figure("crash: hidden everywhere", or_never(crash.hidden_everywhere_s), "s", 10)
    figure(f"power loss of {power_loss.nodes}: hidden everywhere", or_never(power_loss.hidden_everywhere_s), "s", 13)
    (scar,) = report.healings
    figure("50/50 partition of 120 s: everybody sees everybody after", or_never(scar.healed_s), "s", 5)
    figure("pairs of one side hidden at any time", scar.hidden_within_max, "", 0)
    figure("changes made in the partition, p99 with its length", or_never(parted.p99_s), "s")
    figure("nodes called DOWN though they ran and were not cut off", report.false_downs, "", 0)


def stalls(nodes: int, digests: int, seed: int) -> None:
    scenario = Scenario(
        nodes=nodes,
        digests=digests,
        seed=seed,
        adds_per_s=0.0,
        rollout_adds_per_s=0.0,
        stalls_per_hour=STALLS_PER_HOUR,
        duration_s=60 * STALL_MINUTES,
    )
    report = play(scenario)
    per_hour = 60 / STALL_MINUTES * 1000 / nodes
    figure(f"false DOWNs in {STALL_MINUTES:g} min, per hour and 1,000 nodes", report.false_downs * per_hour, "", 0.2)
    figure("accusations, per hour and 1,000 nodes", report.accusations * per_hour, "")


def detector(seed: int) -> None:
    dice = random.Random(seed)
    names = [f"node{number:02}" for number in range(DETECTOR_NODES)]
    cluster = Simulation(seed, names[:2], Faults(ordered=True), check_every=0, decode_every=100)
    cluster.start_acquainted({name: [] for name in names})
    cluster.run(PAUSE_S)
    count = int(DETECTOR_NODE_HOURS * STALLS_PER_HOUR)
    lengths = [dice.lognormvariate(math.log(STALL_MEDIAN_S), STALL_SIGMA) for _ in range(count)]
    false = 0
    for length_s in lengths:
        if length_s > LONG_S:
            downs = [cluster.replica(name).counters.downs for name in names]
            cluster.run(dice.random())
            cluster.stall(dice.choice(names), length_s)
            cluster.run(length_s + PAUSE_S)
            false += downs != [cluster.replica(name).counters.downs for name in names]
    longer = sum(length_s > LONG_S for length_s in lengths)
    figure(f"stalls longer than {LONG_S:g} s in {DETECTOR_NODE_HOURS:,} node-hours", longer, "")
    figure("false DOWNs, detector alone, per 1,000 node-hours", false / DETECTOR_NODE_HOURS * 1000, "", 0.2)


def play(scenario: Scenario) -> Report:
    run = begin(scenario)
    began = time.process_time()
    for elapsed_s in run.steps():
        if elapsed_s % 10 == 0:
            line = f"{elapsed_s:.0f} of {scenario.end_s:g} s, {time.process_time() - began:.0f} s of CPU"
            print(line, file=sys.stderr, flush=True)
    return run.report()


def milliseconds(value_s: float | None) -> float:
    return or_never(value_s) * 1000


def or_never(value_s: float | None) -> float:
    return math.inf if value_s is None else value_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate a gossiping cluster and compare it with its budgets.")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--digests", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parts", default="life,stalls,detector")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if "life" in parts:
        life(arguments.nodes, arguments.digests, arguments.seed)
    if "stalls" in parts:
        stalls(arguments.nodes, arguments.digests, arguments.seed)
    if "detector" in parts:
        detector(arguments.seed)


if __name__ == "__main__":
    main()
