"""Whole clusters under faults: safety all the time, and once the network is healed everybody agrees."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gossip import membership
from gossip.membership import Visibility
from gossip.simulation import Faults, Simulation

CONVERGENCE_S = 20.0
"""Of simulated time: a silent member is hidden after 8 s, and a lost one is asked for again by then."""

ROUGH = Faults(loss=0.2, duplication=0.1, latency_s=(0.0005, 0.3))
ROOT = Path(__file__).parent.parent.parent


def play(seed: int, size: int) -> Simulation:
    """A cluster of `size` nodes through a random half minute of faults; repeat it with the same arguments."""
    dice = random.Random(seed)
    names = [f"node{number}" for number in range(size)]
    cluster = Simulation(seed, names[:2], ROUGH)
    content: dict[str, list[bytes]] = {name: [] for name in names}
    for name in names:
        cluster.start(name)
    for _ in range(60):
        cluster.run(dice.uniform(0, 0.6))
        disturb(cluster, dice, content)
    for name in names:
        if name not in cluster.running() and dice.random() < 0.7:
            cluster.start(name, content[name])
    return cluster


def disturb(cluster: Simulation, dice: random.Random, content: dict[str, list[bytes]]) -> None:
    name = dice.choice(sorted(content))
    chance = dice.random()
    if name not in cluster.running():
        if chance > 0.5:
            cluster.start(name, content[name] if dice.random() < 0.6 else ())
    elif chance < 0.5:
        cluster.add(name, b"key%d" % dice.randrange(20))
    elif chance < 0.8:
        cluster.remove(name, b"key%d" % dice.randrange(20))
    elif chance < 0.9:
        content[name] = [key for _, key in cluster.replica(name).set.elements(name)]
        if dice.random() < 0.3:
            cluster.leave(name)
        else:
            cluster.crash(name, lose_epoch=dice.random() < 0.3)
    elif chance < 0.95:
        cluster.partition(dice.sample(sorted(content), len(content) // 2))
    else:
        cluster.partition()


def settle(cluster: Simulation) -> list[str]:
    """Heal the network and give the cluster its time; what it still disagrees about."""
    cluster.heal()
    cluster.run(CONVERGENCE_S)
    return cluster.differences()


@pytest.mark.parametrize("seed", range(25))
def test_after_any_faults_a_healed_cluster_agrees(seed: int) -> None:
    cluster = play(seed, 3 + seed % 10)
    assert not settle(cluster), f"repeat with play({seed}, {3 + seed % 10})"
    for name in cluster.running():
        counters = cluster.replica(name).counters
        assert counters.audit_mismatches == 0, f"repeat with play({seed}, {3 + seed % 10})"
        assert counters.conflicts == 0


def test_a_seed_gives_one_history_whatever_the_hash_seed() -> None:
    code = "from tests.simulation.test_cluster import play; print(play(5, 6).trace)"
    traces = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        traces.add(run.stdout)
    assert len(traces) == 1
    assert play(5, 6).trace + "\n" in traces


def cluster_of(*names: str, seed: int = 1) -> Simulation:
    """A cluster on a perfect network, after everybody has met."""
    cluster = Simulation(seed, names[:1])
    for name in names:
        cluster.start(name)
    cluster.run(5.0)
    assert not cluster.differences()
    return cluster


def holders(cluster: Simulation, at: str, key: bytes) -> list[str]:
    return [member.name for member in cluster.replica(at).lookup.holders(key)]


def test_a_change_after_a_quiet_time_is_everywhere_within_one_latency() -> None:
    cluster = cluster_of("a", "b", "c")
    cluster.add("a", b"key")
    cluster.run(0.003)
    assert holders(cluster, "b", b"key") == holders(cluster, "c", b"key") == ["a"]
    cluster.run(0.2)
    cluster.remove("a", b"key")
    cluster.run(0.003)
    assert holders(cluster, "b", b"key") == []


def test_a_burst_of_changes_goes_in_few_messages() -> None:
    cluster = cluster_of("a", "b")
    before = cluster.events
    for number in range(500):
        cluster.add("a", b"key%d" % number)
    cluster.run(0.15)
    assert holders(cluster, "b", b"key499") == ["a"]
    assert cluster.events - before < 600, "500 timers and a few messages"


def test_a_crashed_member_is_ranked_last_then_hidden_and_a_returned_one_is_back() -> None:
    cluster = cluster_of("a", "b", "c")
    for name in ("b", "c"):
        cluster.add(name, b"key")
    cluster.run(1.0)
    cluster.crash("b")
    cluster.run(4.6)
    assert holders(cluster, "a", b"key") == ["c", "b"]
    cluster.run(5.0)
    assert holders(cluster, "a", b"key") == ["c"]
    cluster.start("b", [b"key"])
    cluster.run(1.0)
    assert sorted(holders(cluster, "a", b"key")) == ["b", "c"]


def test_a_restart_with_the_same_content_sends_none_of_it() -> None:
    cluster = cluster_of("a", "b", "c")
    keys = [b"key%d" % number for number in range(100)]
    for key in keys:
        cluster.add("b", key)
    cluster.run(3.0)
    cluster.crash("b")
    cluster.run(0.5)
    before = {name: cluster.replica(name).counters.pulls for name in ("a", "c")}
    cluster.start("b", keys)
    cluster.run(0.01)
    cluster.run(4.0)
    assert not cluster.differences()
    for name in ("a", "c"):
        assert cluster.replica(name).counters.rebases > 0
        assert cluster.replica(name).counters.pulls == before[name]


def test_a_member_that_leaves_is_hidden_at_once() -> None:
    cluster = cluster_of("a", "b", "c")
    cluster.add("b", b"key")
    cluster.run(1.0)
    cluster.leave("b")
    cluster.run(0.01)
    assert holders(cluster, "a", b"key") == []
    assert holders(cluster, "c", b"key") == []


def test_a_lost_epoch_is_learned_again() -> None:
    cluster = cluster_of("a", "b", "c")
    cluster.add("c", b"old")
    for _ in range(3):
        cluster.crash("c")
        cluster.start("c", [b"old"])
        cluster.run(2.0)
    cluster.crash("c", lose_epoch=True)
    cluster.start("c", [b"new"])
    cluster.run(5.0)
    assert not cluster.differences()
    assert holders(cluster, "a", b"new") == ["c"]
    assert holders(cluster, "a", b"old") == []
    assert cluster.hosts["c"].counter == 5


def test_the_halves_of_a_parted_cluster_rank_each_other_last_then_hide_each_other_and_find_each_other() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    cluster = cluster_of(*names)
    cluster.partition(names[:3])
    cluster.run(12.0)
    members = [member.name for member in cluster.replica("a").lookup.members()]
    assert members == names[1:], "half of the cluster down at once: rather this half is cut off"
    assert Visibility.NORMAL not in cluster.views("d")[:3]
    cluster.run(60.0)
    assert [member.name for member in cluster.replica("a").lookup.members()] == ["b", "c"]
    cluster.add("f", b"key")
    cluster.heal()
    cluster.run(15.0)
    assert not cluster.differences()
    assert holders(cluster, "a", b"key") == ["f"]


def leap(cluster: Simulation, gone: str, seconds: float) -> None:
    """For all, a member has been gone for so much longer."""
    for name in cluster.running():
        cluster.replica(name).membership.others[gone].gone_at -= seconds


def test_a_member_that_is_gone_is_forgotten_by_all_and_does_not_return_as_a_ghost() -> None:
    cluster = cluster_of("a", "b", "c")
    cluster.add("c", b"key")
    cluster.run(1.0)
    cluster.crash("c")
    cluster.run(10.0)
    leap(cluster, "c", membership.DROP_S)
    cluster.run(1.0)
    for name in ("a", "b"):
        assert cluster.replica(name).set.index.pairs == 0, "its content is dropped first"
        assert "c" in cluster.replica(name).membership.others
    cluster.start("newcomer")
    cluster.run(5.0)
    assert "c" not in cluster.replica("newcomer").membership.others, "nobody learns of the dead"
    for name in ("a", "b"):
        cluster.replica(name).membership.others["c"].gone_at -= cluster.replica(name).config.forget_s
    cluster.run(20.0)
    for name in ("a", "b", "newcomer"):
        assert "c" not in cluster.replica(name).membership.others


def test_of_two_nodes_of_one_name_one_stops_and_says_so() -> None:
    cluster = cluster_of("a", "b", "twin")
    twin = cluster.hosts.pop("twin")
    cluster.hosts["first twin"] = twin
    first = twin.replica
    assert first is not None
    cluster.start("twin")
    before = cluster.events
    cluster.run(10.0)
    assert cluster.events - before < 2000
    assert [twin.replica, cluster.hosts["twin"].replica].count(None) == 1
    assert sorted(member.name for member in cluster.replica("a").lookup.members()) == ["b", "twin"]
