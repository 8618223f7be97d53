"""Members that crash, lose power, stall or are cut off: how soon that is seen, and that nobody else suffers.

The figures are the promises of the package, for clusters of any size.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from gossip.membership import MASS_GRACE_S, Claim, Status, Visibility
from gossip.or_set import Epoch
from gossip.simulation import Faults, Simulation

CRASH_S = 10.0
POWER_LOSS_S = 13.0
HEAL_S = 5.0
TURN_S = 0.5
"""A replica has something to do at least so often."""
FLOOD_S = 0.5
ALONE_S = MASS_GRACE_S + 60.0
"""Within this time one that hears nobody has blamed itself, then accused the others, and waited for a mass failure to
turn out to be one."""


def acquainted(size: int, seed: int = 1) -> Simulation:
    """A cluster that has been running for a while; each node holds one key of its own and one that all hold."""
    names = [f"node{number:03}" for number in range(size)]
    faults = Faults(latency_s=(0.0003, 0.0015), ordered=True)
    cluster = Simulation(seed, names[:2], faults, check_every=200, decode_every=10)
    cluster.start_acquainted({name: [b"all", name.encode()] for name in names})
    cluster.run(12.0)
    assert not cluster.differences()
    return cluster


def counted(cluster: Simulation, what: str) -> int:
    return sum(getattr(cluster.replica(name).counters, what) for name in cluster.running())


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 3, 5, 40])
@pytest.mark.parametrize(
    ("silently", "within_s"), [(False, CRASH_S), (True, POWER_LOSS_S)], ids=["crash", "power loss"]
)
def test_a_dead_member_is_hidden_everywhere_in_time_and_nobody_else_is(
    size: int, silently: bool, within_s: float, seed: int
) -> None:
    cluster = acquainted(size, seed)
    victim = f"node{size - 1:03}"
    cluster.crash(victim, silently=silently)
    cluster.run(within_s)
    assert set(cluster.views(victim)) == {Visibility.HIDDEN}
    for name in cluster.running():
        assert set(cluster.views(name)) <= {Visibility.NORMAL}
        assert cluster.replica(name).lookup.holders(victim.encode()) == []
    cluster.start(victim, [b"all", victim.encode()])
    cluster.run(5.0)
    assert not cluster.differences()
    assert cluster.replica("node000").set.at(victim)[0] == cluster.replica(victim).me.epoch


@pytest.mark.parametrize("size", [2, 3, 5])
def test_what_a_dead_member_said_last_does_not_bring_it_back_when_it_comes_after_the_break(size: int) -> None:
    cluster = acquainted(size)
    victim = f"node{size - 1:03}"
    cluster.stall("node000", 0.3)
    cluster.add(victim, b"its last word")
    cluster.run(0.1)
    cluster.crash(victim)
    cluster.run(0.3)
    held = cluster.replica("node000").set.elements(victim)
    assert b"its last word" in [key for _, key in held]
    while cluster.views(victim)[0] is not Visibility.HIDDEN:
        assert cluster.views(victim)[0] is Visibility.LAST
        cluster.run(0.25)
    assert cluster.now < 12.0 + CRASH_S


def test_a_node_alone_has_nobody_to_suspect() -> None:
    cluster = Simulation(1, ["a"])
    cluster.start("a", [b"key"])
    cluster.run(60.0)
    assert cluster.replica("a").lookup.members() == []
    assert counted(cluster, "suspicions") == 0


@pytest.mark.parametrize(("size", "dead"), [(3, 2), (5, 2), (40, 8)])
def test_several_that_die_at_once_are_all_hidden(size: int, dead: int) -> None:
    cluster = acquainted(size)
    victims = [f"node{size - 1 - number:03}" for number in range(dead)]
    for victim in victims:
        cluster.crash(victim, silently=True)
    cluster.run(POWER_LOSS_S)
    for victim in victims:
        assert set(cluster.views(victim)) == {Visibility.HIDDEN}


@pytest.mark.parametrize("size", [2, 3, 5, 12])
@pytest.mark.parametrize("stall_s", [1.0, 3.0, 6.0, 7.9])
def test_a_member_that_stalls_is_never_hidden(stall_s: float, size: int) -> None:
    cluster = acquainted(size)
    cluster.stall("node001", stall_s)
    for _ in range(30):
        cluster.run(0.5)
        assert Visibility.HIDDEN not in cluster.views("node001")
    assert set(cluster.views("node001")) == {Visibility.NORMAL}
    assert not cluster.differences()
    if stall_s >= 6.0:
        assert counted(cluster, "suspicions") > 0
        assert cluster.replica("node001").counters.refutations > 0


@pytest.mark.parametrize("begun_s", [0.0, 1.6, 2.4, 3.4])
@pytest.mark.parametrize("size", [2, 3, 5, 12])
def test_a_stall_is_forgiven_for_eight_seconds_whoever_happens_to_probe_meanwhile(size: int, begun_s: float) -> None:
    cluster = acquainted(size)
    victim = f"node{size // 2:03}"
    replica, host = cluster.replica(victim), cluster.hosts[victim]
    cluster.run(replica._heartbeat_at - host.clock(cluster.now) - 0.01)
    cluster.stall(victim, 7.9)  # just before it would have said something
    cluster.run(begun_s)
    strangers = [n for n in cluster.running() if n != victim and victim not in cluster.replica(n).membership.linked]
    prober = (strangers or ["node000"])[0]
    cluster.replica(prober)._detector._probe(victim, cluster.hosts[prober].clock(cluster.now))
    cluster.run(4.0)
    assert Visibility.LAST in cluster.views(victim)
    cluster.run(16.0)
    assert counted(cluster, "suspicions") >= min(2, size - 1)
    assert counted(cluster, "downs") == 0


@pytest.mark.parametrize("size", [2, 3, 5, 12])
def test_who_wakes_from_a_long_stall_accuses_nobody_and_is_back_without_its_content_being_sent(size: int) -> None:
    cluster = acquainted(size)
    cluster.stall("node001", 30.0)
    cluster.run(29.0)
    assert set(cluster.views("node001")) == {Visibility.HIDDEN}
    pulls, rebases = counted(cluster, "pulls"), counted(cluster, "rebases")
    epoch = cluster.replica("node001").me.epoch
    cluster.run(4.0)
    assert not cluster.differences()
    assert cluster.replica("node001").counters.suspicions == 0
    assert cluster.replica("node001").me.epoch == epoch
    assert (counted(cluster, "pulls"), counted(cluster, "rebases")) == (pulls, rebases)


@pytest.mark.parametrize("status", [Status.SUSPECT, Status.DOWN])
@pytest.mark.parametrize(("size", "seeds"), [(2, 60), (3, 60), (5, 60), (40, 3)])
def test_a_live_member_that_is_accused_is_alive_again_everywhere_within_a_flood(
    size: int, seeds: int, status: Status
) -> None:
    """P7."""
    for seed in range(1, seeds + 1):
        cluster = acquainted(size, seed)
        victim = f"node{size - 1:03}"
        accuser = cluster.replica("node000")
        accused = cluster.replica(victim).me
        for name in cluster.running():
            if name != victim:
                assert cluster.replica(name).membership.others[victim].member.status is Status.ALIVE
        accuser._detector.claims.append(
            Claim(replace(accused, status=status), "node000" if status is Status.SUSPECT else "")
        )
        cluster.run(TURN_S + FLOOD_S)
        assert set(cluster.views(victim)) == {Visibility.NORMAL}, f"seed {seed}"
        assert cluster.replica(victim).counters.refutations == 1, f"seed {seed}"


@pytest.mark.parametrize("size", [2, 3, 5])
def test_one_that_is_cut_off_is_hidden_and_is_back_soon_after(size: int) -> None:
    cluster = acquainted(size)
    cluster.partition(["node000"])
    cluster.run(POWER_LOSS_S)
    for name in cluster.running()[1:]:
        others = cluster.replica(name).membership.others
        assert {o.visibility for n, o in others.items() if n != "node000"} <= {Visibility.NORMAL}
        assert others["node000"].visibility is Visibility.HIDDEN
    cluster.run(ALONE_S - POWER_LOSS_S)
    assert cluster.replica("node000").lookup.members() == [], "it cannot know which side is the cluster"
    cluster.heal()
    cluster.run(HEAL_S)
    assert not cluster.differences()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_last_one_hides_all_others_after_a_while(size: int) -> None:
    cluster = acquainted(size)
    for number in range(1, size):
        cluster.crash(f"node{number:03}", silently=True)
    cluster.run(ALONE_S)
    assert cluster.replica("node000").lookup.members() == []
    for number in range(1, size):
        cluster.start(f"node{number:03}", [b"all"])
    cluster.run(HEAL_S)
    assert not cluster.differences()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_who_leaves_is_hidden_at_once_and_who_restarts_at_the_same_time_as_all_others_is_known_again(size: int) -> None:
    cluster = acquainted(size)
    names = cluster.running()
    cluster.leave(names[-1])
    cluster.run(0.1)
    assert set(cluster.views(names[-1])) == {Visibility.HIDDEN}
    cluster.start(names[-1], [b"all"])
    cluster.run(HEAL_S)
    for name in names:
        cluster.crash(name, lose_epoch=name == names[0])
    for name in names:
        cluster.start(name, [b"all"])
    cluster.run(HEAL_S)
    assert not cluster.differences()


def test_a_ghost_lives_no_longer_than_it_takes_to_find_that_nobody_is_there() -> None:
    """R4: a record of one whom nobody here knows counts, and is looked into first."""
    cluster = acquainted(12)
    ghost = replace(cluster.replica("node000").me, name="ghost", epoch=Epoch(1, 1), publish_port=1, router_port=2)
    cluster.replica("node000")._encounters.learn(Claim(ghost), cluster.hosts["node000"].clock(cluster.now))
    cluster.run(1.5)
    assert set(cluster.views("ghost")) == {Visibility.NORMAL}
    cluster.run(POWER_LOSS_S)
    assert set(cluster.views("ghost")) == {Visibility.HIDDEN}


@pytest.mark.parametrize("size", [2, 3, 5, 40])
@pytest.mark.parametrize("parted_s", [20.0, 100.0])
def test_parted_halves_are_one_again_soon_after_and_no_live_member_is_hidden_on_its_side(
    parted_s: float, size: int
) -> None:
    cluster = acquainted(size)
    half = [f"node{number:03}" for number in range(size // 2)]
    cluster.partition(half)
    cluster.run(parted_s)
    cluster.add("node000", b"made here")
    cluster.add(f"node{size - 1:03}", b"made there")
    cluster.heal()
    for _ in range(int(HEAL_S / 0.25)):
        cluster.run(0.25)
        for name in cluster.running():
            hidden = [
                m for m, o in cluster.replica(name).membership.others.items() if o.visibility is Visibility.HIDDEN
            ]
            assert not [member for member in hidden if (member in half) == (name in half)]
    assert not cluster.differences()
    found = {len(cluster.replica(name).lookup.holders(b"made here")) for name in cluster.running()[1:]}
    assert found == {1}


def test_a_node_that_hears_nobody_blames_itself_first_and_recovers() -> None:
    cluster = acquainted(12)
    cluster.partition(["node005"])
    cluster.run(15.0)
    assert cluster.replica("node005").counters.suspicions == 0
    assert set(cluster.views("node005")) == {Visibility.HIDDEN}
    cluster.heal()
    cluster.run(12.0)
    assert not cluster.differences()


def test_a_newcomer_gets_everything_in_parts_and_bothers_nobody_with_it() -> None:
    names = [f"node{number:03}" for number in range(20)]
    faults = Faults(latency_s=(0.0003, 0.0015), ordered=True)
    cluster = Simulation(3, names[:2], faults, check_every=0)
    keys = [b"%033d" % number for number in range(2000)]
    cluster.start_acquainted({name: keys[number * 50 : number * 50 + 1000] for number, name in enumerate(names)})
    cluster.run(12.0)
    before = sum(host.bytes_in for host in cluster.hosts.values())
    cluster.start("newcomer", [b"key"])
    cluster.run(2.0)
    assert not cluster.differences()
    newcomer = cluster.hosts["newcomer"]
    assert newcomer.bytes_in < 20_000 * 3 + 2_000 * 33 + 60_000, "pairs, distinct keys, and records"
    assert sum(host.bytes_in for host in cluster.hosts.values()) - before - newcomer.bytes_in < 150_000


def test_the_largest_set_of_one_owner_arrives_whole() -> None:
    cluster = Simulation(3, ["a"], Faults(ordered=True), check_every=0)
    cluster.start("a", [b"%033d" % number for number in range(65_536)])
    cluster.start("b")
    cluster.run(3.0)
    assert not cluster.differences()
    assert cluster.replica("b").set.index.pairs == 65_536
    cluster.replica("b").check()


@pytest.mark.parametrize("stay", [10, 5_000])
def test_thousands_of_removals_at_once_reach_those_who_hold_the_set(stay: int) -> None:
    cluster = Simulation(3, ["a"], Faults(ordered=True), check_every=0)
    keys = [b"%033d" % number for number in range(10_000)]
    cluster.start("a", keys)
    cluster.start("b")
    cluster.run(3.0)
    assert cluster.replica("b").set.index.pairs == len(keys)
    for key in keys[stay:]:
        cluster.remove("a", key)
    cluster.run(3.0)
    assert not cluster.differences()
    assert cluster.replica("b").set.index.pairs == stay
    cluster.replica("b").check()
