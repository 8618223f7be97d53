"""A hundred nodes: large enough for rings, small enough for every run of the tests."""

from __future__ import annotations

import random

import pytest

from gossip.membership import Visibility
from gossip.simulation import Faults, Simulation

NODES = 100
NAMES = [f"node{number:03}" for number in range(NODES)]
LAN = Faults(latency_s=(0.0003, 0.0015), ordered=True)


def hundred(seed: int, faults: Faults = LAN) -> Simulation:
    """A hundred nodes that hold much the same keys and know each other."""
    dice = random.Random(seed)
    pool = [dice.randbytes(33) for _ in range(60)]
    cluster = Simulation(seed, NAMES[:3], faults, check_every=2000, decode_every=20)
    cluster.start_acquainted({name: dice.sample(pool, 20) for name in NAMES})
    cluster.run(12.0)
    assert not cluster.differences()
    return cluster


def late(cluster: Simulation) -> float:
    """The longest that a tracked change took to any node."""
    assert not any(host.awaits for host in cluster.hosts.values()), "not everywhere yet"
    return max(latency for change in cluster.changes for latency in change.latencies)


def test_all_start_at_once_with_three_seeds_and_agree() -> None:
    cluster = Simulation(1, NAMES[:3], LAN, check_every=2000, decode_every=20)
    for number, name in enumerate(NAMES):
        cluster.start(name, [b"all", b"%d" % (number % 7), name.encode()])
    cluster.run(15.0)
    assert not cluster.differences()
    for name in NAMES:
        counters = cluster.replica(name).counters
        assert (counters.suspicions, counters.downs, counters.audit_mismatches, counters.conflicts) == (0, 0, 0, 0)
        assert len(cluster.hosts[name].listens_to) <= 8


@pytest.mark.parametrize("seed", [1, 2])
def test_a_change_is_everywhere_at_once_when_it_is_quiet_and_soon_in_a_burst(seed: int) -> None:
    cluster = hundred(seed)
    cluster.add("node007", b"alone", tracked=True)
    cluster.run(1.0)
    assert late(cluster) < 0.1
    for number in range(200):
        cluster.add(NAMES[number % NODES], b"burst%d" % number, tracked=number % 10 == 0)
        cluster.run(0.005)
    cluster.run(1.0)
    assert late(cluster) < 0.5
    assert not cluster.differences()


def test_removals_travel_through_relays_as_surely_as_additions() -> None:
    cluster = hundred(3)
    dice = random.Random(3)
    held: list[tuple[str, bytes]] = []
    for number in range(150):
        held.append((dice.choice(NAMES[:20]), b"key%d" % number))
        cluster.add(*held[-1])
        if dice.random() < 0.7:
            cluster.remove(*held.pop(dice.randrange(len(held))))
        cluster.run(0.01 if number % 3 else 0.2)
    cluster.run(1.0)
    assert not cluster.differences()
    assert sum(cluster.replica(name).counters.audit_mismatches for name in NAMES) == 0


def test_loss_costs_a_moment_and_nothing_more() -> None:
    cluster = hundred(4, Faults(loss=0.02, latency_s=(0.0003, 0.0015)))
    for number in range(100):
        cluster.add(NAMES[number], b"lossy%d" % number)
        cluster.run(0.01)
    cluster.run(6.0)
    assert not cluster.differences()
    assert sum(cluster.replica(name).counters.downs for name in NAMES) == 0


def test_idle_traffic_is_a_few_kilobytes_a_second() -> None:
    cluster = hundred(5)
    before = {name: cluster.hosts[name].bytes_in for name in NAMES}
    cluster.run(10.0)
    assert max(cluster.hosts[name].bytes_in - before[name] for name in NAMES) < 10 * 10_000


def test_a_rolling_restart_sends_no_content_again_and_suspects_nobody_who_is_there() -> None:
    cluster = hundred(6)
    for name in NAMES[:10]:
        keys = [key for _, key in cluster.replica(name).set.elements(name)]
        cluster.leave(name)
        cluster.run(0.5)
        assert set(cluster.views(name)) == {Visibility.HIDDEN}
        cluster.start(name, keys)
        cluster.run(2.0)
    assert not cluster.differences()
    assert sum(cluster.replica(name).counters.downs for name in NAMES) == 0


def test_stubs_and_content_of_the_dead_are_gone_in_the_end() -> None:
    """P6."""
    cluster = Simulation(7, NAMES[:1], LAN, check_every=500, decode_every=20, config={"forget_s": 160.0})
    cluster.start_acquainted({name: [b"all", name.encode()] for name in NAMES[:5]})
    cluster.crash("node004")
    cluster.run(100.0)
    assert all(cluster.replica(name).set.at("node004")[1] == 0 for name in NAMES[:4])
    cluster.run(90.0)
    for name in NAMES[:4]:
        assert "node004" not in cluster.replica(name).membership.others
        assert len(cluster.replica(name).set.index) == 5
