"""The protocol, one situation at a time: what goes in, and what comes out."""

from __future__ import annotations

import random
from dataclasses import replace

from gossip.config import Config
from gossip.counters import Counters
from gossip.membership import Member, Sighting, Status
from gossip.messages import Compare, Deltas, Heartbeat, Join, Members, Message, Pull, Sender, Version, Versions
from gossip.or_set import BOTTOM, Epoch, Head, Interval, ORSet, Snapshot
from gossip.outputs import Link, Output, Publish, Reply, SaveEpoch, Send, Unlink
from gossip.replica import PUBLISHED_BYTES_MAX, Replica

BEN_EPOCH = Epoch(1, 5)
BEN = Member("ben", BEN_EPOCH, "192.0.2.2", 1, 2)
CYD = Member("cyd", Epoch(1, 6), "192.0.2.3", 1, 2)


def make(name: str = "ann", counter: int = 0) -> Replica:
    return Replica(Config(name), counter=counter, rng=random.Random(1), counters=Counters())


def started(*keys: bytes) -> Replica:
    replica = make()
    for key in keys:
        assert replica.add(key, 0.0) == []
    replica.start(0.0)
    return replica


def ben(*keys: bytes) -> ORSet:
    """Ben's own set."""
    held = ORSet("ben", BEN_EPOCH, lambda _key: None)
    for key in keys:
        held.add(key)
    return held


def knowing_ben(*keys: bytes) -> tuple[Replica, ORSet]:
    """Ann, who has heard Ben's heartbeat and his keys at 0.0, and Ben's set."""
    replica, his = started(), ben(*keys)
    say(replica, Join(BEN), 0.0)
    snapshot = his.snapshot("ben")
    assert snapshot is not None
    say(replica, Deltas((snapshot,)), 0.0)
    return replica, his


def say(replica: Replica, message: Message, now: float, sequence: int = 0, member: Member = BEN) -> list[Output]:
    outputs = replica.receive(Sender(member.name, member.epoch, sequence), message, now)
    replica.check()
    return outputs


def published(outputs: list[Output]) -> list[Message]:
    return [output.message for output in outputs if isinstance(output, Publish)]


def sent(outputs: list[Output]) -> list[tuple[str, Message]]:
    return [(output.to.name, output.message) for output in outputs if isinstance(output, Send)]


def replies(outputs: list[Output]) -> list[Message]:
    return [output.message for output in outputs if isinstance(output, Reply)]


def ticks(replica: Replica, until: float) -> list[Output]:
    """All that the replica wants until then, each thing at its time."""
    outputs: list[Output] = []
    while replica.deadline <= until:
        outputs += replica.tick(replica.deadline)
        replica.check()
    return outputs


def heartbeat(his: ORSet, member: Member = BEN) -> Heartbeat:
    return Heartbeat(member, his.head())


def test_the_epoch_is_saved_before_anything_is_sent() -> None:
    outputs = make(counter=6).start(0.0)
    assert outputs[0] == SaveEpoch(7)
    assert isinstance(outputs[1], Publish)


def test_keys_known_before_the_start_are_the_base_of_the_epoch() -> None:
    head = started(b"b", b"a").set.head()
    assert (head.version, head.base_count) == (2, 2)


def test_the_first_change_goes_at_once_and_the_next_ones_together() -> None:
    replica = started()
    assert len(published(replica.add(b"a", 0.5))) == 1
    assert replica.add(b"b", 0.51) == []
    assert replica.remove(b"a", 0.52) == []
    assert not [m for m in published(ticks(replica, 0.599)) if isinstance(m, Deltas)]
    assert replica.deadline == 0.6
    [message] = [m for m in published(replica.tick(0.6)) if isinstance(m, Deltas)]
    assert message.deltas == (Interval("ann", replica.me.epoch, 1, 3, ((2, b"b"),), (1,)),)


def test_adding_what_is_there_says_nothing() -> None:
    replica = started(b"a")
    assert replica.add(b"a", 1.0) == []
    assert replica.remove(b"b", 1.0) == []
    assert replica.counters.refused_keys == 0
    replica.add(b"", 1.0)
    assert replica.counters.refused_keys == 1


def test_a_large_change_is_only_announced() -> None:
    replica = started()
    replica.add(b"first", 0.5)
    for number in range(PUBLISHED_BYTES_MAX // 500):
        replica.add(b"%0500d" % number, 0.55)
    messages = published(replica.tick(0.6))
    assert [type(message) for message in messages] == [Heartbeat]


def test_a_newcomer_is_welcomed_listened_to_and_introduced() -> None:
    replica = started()
    outputs = say(replica, Join(BEN), 1.0)
    assert Link(BEN) in outputs
    assert published(outputs) == [Members((Sighting(BEN, 0.0),))]
    assert replies(outputs) == [Members((Sighting(replica.me, 0.0), Sighting(BEN, 0.0)))]
    assert Link(BEN) not in say(replica, Join(BEN), 2.0)


def test_a_member_that_moved_or_restarted_is_listened_to_anew() -> None:
    replica, _ = knowing_ben()
    restarted = replace(BEN, epoch=Epoch(2, 1))
    assert Link(restarted) in say(replica, Join(restarted), 1.0, member=restarted)


def test_a_missed_change_is_pulled_from_who_showed_the_gap_then_from_the_owner_then_given_up() -> None:
    replica, his = knowing_ben(b"a")
    say(replica, Members((Sighting(CYD, 0.0),)), 0.0)
    his.add(b"b")
    his.add(b"c")
    late = his.diff("ben", BEN_EPOCH, 2)
    assert late is not None
    say(replica, Deltas((late,)), 0.1, member=CYD)
    want = Pull((Version("ben", BEN_EPOCH, 1),))
    pulls = [(name, message) for name, message in sent(ticks(replica, 8.0)) if isinstance(message, Pull)]
    assert pulls == [("cyd", want), ("ben", want), ("ben", want)]
    assert replica.counters.gaps == 1


def test_what_came_too_early_is_kept_and_applied_in_order() -> None:
    replica, his = knowing_ben(b"a")
    deltas = []
    for version, key in enumerate((b"b", b"c", b"d"), 1):
        his.add(key)
        delta = his.diff("ben", BEN_EPOCH, version)
        assert delta is not None
        deltas.append(delta)
    for delta in reversed(deltas):
        say(replica, Deltas((delta,)), 0.1)
    assert replica.set.at("ben") == (BEN_EPOCH, 4)
    assert not [m for _, m in sent(ticks(replica, 0.5)) if isinstance(m, Pull)], "nothing is missing any more"


def test_a_heartbeat_ahead_of_what_is_held_is_followed_by_a_pull() -> None:
    replica, his = knowing_ben(b"a")
    his.add(b"b")
    say(replica, heartbeat(his), 0.1)
    assert ("ben", Pull((Version("ben", BEN_EPOCH, 1),))) in sent(ticks(replica, 0.2))


def test_a_hash_that_does_not_fit_drops_the_cell_and_pulls_it_whole() -> None:
    replica, his = knowing_ben(b"a")
    head = replace(his.head(), audit=his.head().audit ^ 1)
    say(replica, Heartbeat(BEN, head), 0.1)
    assert replica.counters.audit_mismatches == 1
    assert ("ben", Pull((Version("ben", BOTTOM, 0),))) in sent(ticks(replica, 0.2))


def test_a_lost_published_message_leads_to_a_comparison_with_its_sender() -> None:
    replica, his = knowing_ben()
    say(replica, heartbeat(his), 0.1, sequence=1)
    say(replica, heartbeat(his), 0.2, sequence=3)
    assert replica.counters.gaps == 1
    assert [(name, type(m)) for name, m in sent(ticks(replica, 0.25))] == [("ben", Compare)]


def test_a_comparison_of_equal_states_ends_there_and_of_different_ones_shows_all() -> None:
    replica, his = knowing_ben(b"a")
    twin, _ = knowing_ben(b"a")
    compare = next(m for _, m in sent(ticks(replica, 3.0)) if isinstance(m, Compare))
    assert replies(say(twin, Compare(BEN, compare.fingerprint), 3.0)) == []
    his.add(b"b")
    delta = his.diff("ben", BEN_EPOCH, 1)
    assert delta is not None
    say(twin, Deltas((delta,)), 3.0)
    shown = replies(say(twin, Compare(BEN, compare.fingerprint), 3.0))
    assert [type(message) for message in shown] == [Members, Versions]


def test_versions_are_answered_by_ones_own_where_behind_and_by_content_where_ahead() -> None:
    replica, _ = knowing_ben(b"a")
    replica.add(b"x", 0.1)
    mine = Version("ann", replica.me.epoch, 1)
    theirs = (replace(mine, version=0), Version("ben", BEN_EPOCH, 5), Version("unknown", BEN_EPOCH, 5))
    assert replies(say(replica, Versions(theirs), 0.2)) == [
        Versions((Version("ben", BEN_EPOCH, 1),)),
        Deltas((Snapshot("ann", replica.me.epoch, 1, ((1, b"x"),)),)),
    ]


def test_who_has_its_set_of_a_former_epoch_is_shown_the_head_and_not_sent_the_content() -> None:
    replica, _ = knowing_ben()
    former = Version("ann", Epoch(1, 0), 7)
    assert former.epoch < replica.me.epoch
    assert replies(say(replica, Versions((former,)), 0.2)) == [Heartbeat(replica.me, replica.set.head())]


def test_whom_it_listens_to_from_now_on_is_asked_for_what_was_missed() -> None:
    replica, _ = knowing_ben(b"a")
    assert sent(replica.connected("ben")) == [("ben", Versions((Version("ben", BEN_EPOCH, 1),)))]
    assert replica.connected("unknown") == []


def test_content_of_strangers_and_of_epochs_that_nobody_announced_is_dropped() -> None:
    replica, _ = knowing_ben(b"a")
    later = Snapshot("ben", Epoch(2, 0), 1, ((1, b"z"),))
    stranger = Snapshot("stranger", BEN_EPOCH, 1, ((1, b"z"),))
    mine = Snapshot("ann", Epoch(9, 9), 1, ((1, b"z"),))
    say(replica, Deltas((later, stranger, mine)), 0.1)
    assert replica.counters.dropped["unknown_owner"] == 2
    assert replica.lookup.holders(b"z") == []
    assert not replica.set.holds(b"z")


def test_an_accusation_is_refuted_without_touching_content() -> None:
    replica = started(b"a")
    accused = replace(replica.me, status=Status.DOWN)
    [message] = published(say(replica, Members((Sighting(accused, 0.0),)), 1.0))
    assert message == Members((Sighting(replica.me, 0.0),))
    assert replica.me.rank > accused.rank
    assert replica.me.epoch == accused.epoch


def test_a_higher_epoch_of_its_own_is_exceeded_and_saved_but_not_twice_in_a_second() -> None:
    replica = started(b"a")
    former = replace(replica.me, epoch=Epoch(7, 1))
    outputs = say(replica, Members((Sighting(former, 0.0),)), 1.0)
    assert outputs[0] == SaveEpoch(8)
    assert replica.me.epoch.counter == 8
    assert replica.set.head().base_count == 1
    rival = replace(former, epoch=Epoch(9, 1))
    assert say(replica, Members((Sighting(rival, 0.0),)), 1.5) == []
    assert replica.counters.conflicts == 1
    assert SaveEpoch(10) in say(replica, Members((Sighting(rival, 0.0),)), 2.5)


def test_who_speaks_with_an_old_epoch_is_corrected_once_a_second_and_not_heard() -> None:
    replica, his = knowing_ben()
    newer = replace(BEN, epoch=Epoch(2, 1))
    say(replica, Members((Sighting(newer, 0.0),)), 0.1)
    correction = ("ben", Members((Sighting(newer, 0.0),)))
    assert sent(say(replica, heartbeat(his), 0.2)) == [correction]
    assert sent(say(replica, heartbeat(his), 0.3)) == []
    assert sent(say(replica, heartbeat(his), 1.3)) == [correction]
    assert replica.counters.dropped["stale_epoch"] == 3


def test_its_own_words_from_a_seed_that_is_itself_mean_nothing() -> None:
    replica = started()
    sender, join = replica.join()
    assert replica.receive(sender, join, 1.0) == []
    assert replica.lookup.members() == []
    assert replica.counters.dropped["own_name"] == 0
    replica.receive(Sender("ann", Epoch(9, 9)), join, 1.0)
    assert replica.counters.dropped["own_name"] == 1


def test_a_sleep_of_this_process_hides_nobody() -> None:
    replica, _ = knowing_ben(b"a")
    ticks(replica, 1.0)
    replica.tick(61.0)
    assert [member.name for member in replica.lookup.holders(b"a")] == ["ben"]


def test_a_farewell_tells_the_last_change_and_then_nothing_more() -> None:
    replica, his = knowing_ben()
    replica.add(b"a", 0.5)
    replica.add(b"b", 0.51)
    messages = published(replica.leave(0.52))
    assert [type(message) for message in messages] == [Deltas, Members, Members]
    assert replica.tick(10.0) == []
    assert say(replica, heartbeat(his), 10.0) == []
    assert replica.add(b"c", 10.0) == []


def test_who_left_is_no_longer_listened_to() -> None:
    replica, _ = knowing_ben(b"a")
    left = replace(BEN, status=Status.LEFT)
    assert Unlink("ben") in say(replica, Members((Sighting(left, 0.0),)), 0.1)
    assert replica.lookup.holders(b"a") == []


def test_a_head_of_nothing_empties_the_set_without_a_pull() -> None:
    replica, _ = knowing_ben(b"a")
    restarted = replace(BEN, epoch=Epoch(2, 1))
    empty = ORSet("ben", restarted.epoch, lambda _key: None)
    say(replica, heartbeat(empty, restarted), 0.1, member=restarted)
    assert replica.set.at("ben") == (restarted.epoch, 0)
    assert replica.set.elements("ben") == []


def test_lookups_follow_a_slot_that_changes_hands() -> None:
    replica, _ = knowing_ben(b"a")
    assert [member.name for member in replica.lookup.holders(b"a")] == ["ben"]
    head = Head("ben", BEN_EPOCH, 1, 0, 0, bytes(16))
    say(replica, Heartbeat(BEN, head), 0.1)
    assert replica.lookup.holders(b"a") == []
    say(replica, Join(CYD), 0.1, member=CYD)
    say(replica, Deltas((Snapshot("cyd", CYD.epoch, 1, ((1, b"a"),)),)), 0.1, member=CYD)
    assert [member.name for member in replica.lookup.holders(b"a")] == ["cyd"]
