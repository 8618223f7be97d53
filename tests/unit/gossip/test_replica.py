"""The protocol, one situation at a time: what goes in, and what comes out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from gossip import encounter, or_set
from gossip.cell import SORTED_KEYS
from gossip.codec import decode, encode
from gossip.comparison import TOLD_MAX
from gossip.config import Config
from gossip.counters import Counters
from gossip.dissemination import AT_ONCE_MAX, PUBLISHED_BYTES_MAX
from gossip.exchange import SERVED_MAX
from gossip.fields import COUNTER_MAX, U64_MAX
from gossip.membership import DROP_S, Claim, Member, Status, Visibility
from gossip.messages import (
    BUCKETS,
    CLAIMS_PER_MESSAGE_MAX,
    Ack,
    Buckets,
    Busy,
    Compare,
    Deltas,
    Heads,
    Heartbeat,
    Join,
    Members,
    Message,
    Part,
    Piece,
    Ping,
    Pull,
    Sender,
    Version,
    Versions,
)
from gossip.or_set import BOTTOM, Epoch, Head, Interval, LiveSet, ORSet, Snapshot
from gossip.outputs import Conflict, Link, Output, Publish, Reply, SaveEpoch, Send, Unlink
from gossip.overlay import AT_ONCE_MAX as IN_ONE_STEP_MAX
from gossip.overlay import neighbours
from gossip.replica import Replica
from gossip.transfer import PIECE_PAIRS_MAX
from tests.steps import outcome

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
    for number in range(PUBLISHED_BYTES_MAX // 400):
        replica.add(b"%0500d" % number, 0.55)
    assert published(replica.tick(0.6)) == [Heads((replica.set.head(),))]


def test_what_is_too_much_for_one_publication_goes_with_the_next_ones_and_all_of_it_before_a_farewell() -> None:
    replica = started()
    replica.add(b"a", 0.0)
    crowd = tuple(Claim(replace(BEN, name=f"member{number}")) for number in range(AT_ONCE_MAX + 10))
    for number, some in enumerate((crowd[:100], crowd[100:]), 1):
        say(replica, Members(some), 0.05, sequence=number)
    told = [message for message in published(ticks(replica, 0.125)) if isinstance(message, Members)]
    assert [len(message.claims) for message in told] == [AT_ONCE_MAX, 10]
    assert tuple(claim for message in told for claim in message.claims) == crowd
    again = tuple(Claim(replace(claim.member, refutation=1)) for claim in crowd)
    for number, some in enumerate((again[:100], again[100:]), 3):
        say(replica, Members(some), 0.13, sequence=number)
    farewell = [message for message in published(replica.leave(0.14)) if isinstance(message, Members)]
    assert tuple(claim for message in farewell[:-2] for claim in message.claims) == again


def test_a_newcomer_is_welcomed_listened_to_and_introduced() -> None:
    replica = started()
    outputs = say(replica, Join(BEN), 1.0)
    assert Link(BEN) in outputs
    assert published(outputs) == [Members((Claim(BEN),))]
    assert replies(outputs) == [Members((Claim(replica.me),))]
    again = say(replica, Join(BEN), 2.0)
    assert Link(BEN) not in again
    assert published(again) == []
    assert replies(say(replica, Join(CYD), 2.0, member=CYD)) == [Members((Claim(replica.me), Claim(BEN)))]


def test_a_neighbour_that_moved_or_restarted_is_listened_to_anew() -> None:
    replica, _ = knowing_ben()
    restarted = replace(BEN, epoch=Epoch(2, 1))
    assert Link(restarted) in say(replica, Join(restarted), 1.0, member=restarted)


def test_what_is_news_is_passed_on_once_and_records_go_first() -> None:
    replica, his = knowing_ben()
    his.add(b"a")
    delta = his.diff("ben", BEN_EPOCH, 0)
    assert delta is not None
    say(replica, Deltas((delta,)), 0.01, sequence=1)
    say(replica, Members((Claim(CYD),)), 0.02, sequence=2)
    say(replica, Deltas((delta,)), 0.03, member=CYD)
    assert [m for m in published(ticks(replica, 0.7)) if not isinstance(m, Heartbeat)] == [
        Members((Claim(CYD),)),
        Deltas((delta,)),
    ]


def test_changes_of_an_owner_are_passed_on_as_one_from_what_was_held_to_what_is() -> None:
    replica, his = knowing_ben(b"a", b"b")
    ticks(replica, 0.15)
    for key in (b"c", b"d"):
        before = his.at("ben")[1]
        his.remove(b"a")
        his.add(key)
        delta = his.diff("ben", BEN_EPOCH, before)
        assert delta is not None
        say(replica, Deltas((delta,)), 0.16)
    deltas = [m for m in published(ticks(replica, 0.3)) if isinstance(m, Deltas)]
    assert deltas[-1].deltas == (Interval("ben", BEN_EPOCH, 2, 5, ((4, b"c"), (5, b"d")), (1,)),)


def test_a_newcomer_passes_nothing_on_of_what_it_is_taught() -> None:
    replica = started()
    say(replica, Join(BEN), 0.0)
    part = Part(1, last=True, claims=(Claim(CYD),), deltas=(Snapshot("cyd", CYD.epoch, 1, ((1, b"a"),)),))
    say(replica, part, 0.5)
    assert replica.set.at("cyd") == (CYD.epoch, 1)
    assert not [m for m in published(ticks(replica, 0.9)) if isinstance(m, Members | Deltas | Heads)]


def test_a_missed_change_is_pulled_from_who_showed_the_gap_then_from_the_owner_then_given_up() -> None:
    replica, his = knowing_ben(b"a")
    say(replica, Members((Claim(CYD),)), 0.0)
    his.add(b"b")
    his.add(b"c")
    late = his.diff("ben", BEN_EPOCH, 2)
    assert late is not None
    say(replica, Deltas((late,)), 0.1, member=CYD)
    want = Pull((("ben", BEN_EPOCH, 1),))
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
    assert ("ben", Pull((("ben", BEN_EPOCH, 1),))) in sent(ticks(replica, 0.2))


def test_a_set_that_was_replaced_is_not_answered_from_while_it_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(or_set, "SWEEP_ELEMENTS", 1)
    replica, _ = knowing_ben(b"a", b"b", b"c", b"d")
    assert replica.lookup.holders(b"d") == [BEN]
    for change in (
        LiveSet("ben", BEN_EPOCH, 4, 8, (), (1,)),
        Snapshot("ben", BEN_EPOCH, 9, ((9, b"c"),)),
    ):
        say(replica, Deltas((change,)), 0.1)
        kept = {key for _, key in replica.set.elements("ben")}
        for key in (b"a", b"b", b"c", b"d"):
            assert replica.lookup.holders(key) == ([BEN] if key in kept else [])
    assert not replica.set.swept
    ticks(replica, 0.1)
    assert replica.set.swept


def test_a_hash_that_does_not_fit_drops_the_cell_and_pulls_it_whole() -> None:
    replica, his = knowing_ben(b"a")
    head = replace(his.head(), audit=his.head().audit ^ 1)
    say(replica, Heartbeat(BEN, head), 0.1)
    assert replica.counters.audit_mismatches == 1
    assert ("ben", Pull((("ben", BOTTOM, 0),))) in sent(ticks(replica, 0.2))


def test_a_lost_published_message_leads_to_a_comparison_with_its_sender() -> None:
    replica, his = knowing_ben()
    say(replica, heartbeat(his), 0.1, sequence=1)
    say(replica, heartbeat(his), 0.2, sequence=3)
    assert replica.counters.gaps == 1
    assert [(name, type(m)) for name, m in sent(ticks(replica, 0.25))] == [("ben", Compare)]


def compare(replica: Replica, other: Replica, name: str = "ben") -> list[Message]:
    """What `other`, of that name, is answered when it compares its state with `replica`'s."""
    _, message = other.join()
    assert isinstance(message, Compare)
    return replies(replica.receive(Sender(name, other.me.epoch), message, 3.0))


def pair() -> tuple[Replica, Replica]:
    """Ann and Ben, who know each other's record and nothing more."""
    ann, ben = started(), make("ben")
    ben.start(0.0)
    for one, other in ((ann, ben), (ben, ann)):
        one.receive(Sender(other.me.name, other.me.epoch), Members((Claim(other.me),)), 0.0)
        head = Heartbeat(other.me, other.set.head())
        one.receive(Sender(other.me.name, other.me.epoch), head, 0.0)
    return ann, ben


def exchange(asker: Replica, asked: Replica, message: Message, now: float) -> list[Message]:
    """Carry messages to and fro, beginning with one to `asked`, until nobody answers; all of them."""
    said, turn = [message], [(asked, asker, message)]
    while turn:
        receiver, speaker, words = turn.pop(0)
        outputs = receiver.receive(Sender(speaker.me.name, speaker.me.epoch), words, now)
        turn += [(speaker, receiver, answer) for answer in replies(outputs)]
        said += replies(outputs)
        receiver.check()
    return said


def asks(replica: Replica, until: float) -> Compare:
    """The comparison that a replica asks for by then."""
    return next(message for _, message in sent(ticks(replica, until)) if isinstance(message, Compare))


def test_a_comparison_of_equal_states_is_not_answered() -> None:
    ann, ben = pair()
    assert compare(ann, ben) == []


def test_who_is_behind_gets_what_it_misses_in_parts_and_sends_nothing() -> None:
    ann, ben = pair()
    keys = [b"key%d" % number for number in range(3000)]
    for key in keys:
        ben.add(key, 0.2)
    said = exchange(ann, ben, asks(ann, 2.5), 2.5)
    parts = [message for message in said if isinstance(message, Part)]
    count = -(-len(keys) // PIECE_PAIRS_MAX)
    assert [part.number for part in parts] == list(range(1, count + 1))
    assert [part.last for part in parts] == [False] * (count - 1) + [True]
    assert ann.set.elements("ben") == ben.set.elements("ben")
    assert ann.counters.syncs == 1
    assert ben.set.elements("ann") == []


def test_where_very_many_differ_they_are_compared_some_at_a_time_until_none_is_left() -> None:
    ann, ben = pair()
    crowd = [replace(CYD, name=f"member{number}") for number in range(2 * TOLD_MAX)]
    elsewhere = [replace(CYD, name=f"other{number}") for number in range(2 * TOLD_MAX)]
    for replica, members in ((ann, elsewhere), (ben, crowd)):
        for start in range(0, len(members), 100):
            batch = members[start : start + 100]
            replica.receive(Sender("cyd", CYD.epoch), Members(tuple(map(Claim, batch))), 0.1)
    rounds: list[Versions] = []
    ann._exchange.compare_with("ben", 2.5)
    ann._exchange._line = {"ben": None}
    for _ in range(20):
        questions = [message for name, message in sent(ann.tick(2.5)) if name == "ben"]
        rounds += [m for question in questions for m in exchange(ann, ben, question, 2.5) if isinstance(m, Versions)]
    assert {member.name for member in crowd} <= ann.membership.others.keys()
    assert len(rounds) > 2
    assert all(len(message.versions) < TOLD_MAX + 100 for message in rounds)


def test_who_sees_that_it_is_behind_compares_in_its_turn() -> None:
    ann, ben = pair()
    ann.add(b"a", 0.2)
    exchange(ann, ben, asks(ann, 2.5), 2.5)
    assert [(name, type(message)) for name, message in sent(ticks(ben, 2.5))][-1:] == [("ann", Compare)]


def test_who_has_a_set_of_a_former_epoch_is_shown_the_head_and_not_sent_the_content() -> None:
    replica, _ = knowing_ben()
    former = Version("ann", Epoch(1, 0), 7, replica.me.life, Status.ALIVE)
    his = Version("ben", *replica.set.at("ben"), BEN.life, Status.ALIVE)
    assert former.epoch < replica.me.epoch
    assert replies(say(replica, Versions(tuple(range(BUCKETS)), (former, his)), 0.2)) == [
        Heads((replica.set.head(),)),
        Part(1, last=True),
    ]


def test_only_so_many_are_answered_at_once_and_the_next_is_told_so() -> None:
    replica = started(b"a")
    others = [replace(BEN, name=f"member{number}") for number in range(SERVED_MAX + 1)]
    answers = [replies(say(replica, Compare(other, bytes(16)), 1.0, member=other)) for other in others]
    assert [type(answer[0]) for answer in answers] == [Buckets] * SERVED_MAX + [Busy]
    assert isinstance(replies(say(replica, Compare(others[-1], bytes(16)), 4.0, member=others[-1]))[0], Buckets)


def test_a_part_that_does_not_continue_the_answer_is_dropped_and_what_came_before_is_given_up() -> None:
    replica, _ = knowing_ben()
    piece = Piece("cyd", CYD.epoch, 2, False, (1,), (0,))
    say(replica, Members((Claim(CYD),)), 0.1)
    say(replica, Part(1, last=False, keys=(b"a",), pieces=(piece,)), 0.1)
    assert replica.set.index.pairs == 1
    say(replica, Part(3, last=False, pieces=(piece,)), 0.1)
    assert replica.counters.dropped["part"] == 1
    assert replica.set.index.pairs == 0
    say(replica, Part(2, last=False), 0.1)
    assert replica.counters.dropped["part"] == 2


def test_whom_it_listens_to_from_now_on_is_compared_with() -> None:
    replica, _ = knowing_ben(b"a")
    replica.connected("ben", 0.1)
    assert [(name, type(message)) for name, message in sent(ticks(replica, 0.1))] == [("ben", Compare)]
    assert sent(replica.connected("unknown", 0.1)) == []


def test_after_a_break_an_answer_to_a_ping_or_a_new_connection_counts_and_what_waited_from_before_does_not() -> None:
    for message, alive in ((Deltas(()), False), (Compare(BEN, bytes(16)), False), (Ack(BEN, 1), True)):
        replica, _ = knowing_ben()
        assert replica.disconnected("ben", 0.1) != [], "a ping"
        say(replica, message, 0.1, sequence=1)
        assert replica.membership.others["ben"].disconnected is not alive
        assert ("ben" in replica._detector._probes) is not alive
    replica, _ = knowing_ben()
    replica.disconnected("ben", 0.1)
    replica.connected("ben", 0.2)
    say(replica, Deltas(()), 0.2, sequence=1)
    assert replica.membership.others["ben"].visibility is Visibility.NORMAL
    assert not replica._detector._probes


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
    [message] = published(say(replica, Members((Claim(accused),)), 1.0))
    assert message == Members((Claim(replica.me),))
    assert replica.me.rank > accused.rank
    assert replica.me.epoch == accused.epoch


@pytest.mark.parametrize("status", [Status.SUSPECT, Status.DOWN])
def test_whoever_tells_of_an_accusation_is_answered_once_since_it_may_not_listen(status: Status) -> None:
    replica, _ = knowing_ben()
    accusation = Members((Claim(replace(replica.me, status=status)),))
    answers = sent(say(replica, accusation, 1.0, sequence=1))
    assert answers == [("ben", Members((Claim(replica.me),)))]
    assert sent(say(replica, accusation, 1.0, sequence=2)) == []
    assert sent(say(replica, Members((Claim(replace(replica.me, status=status)),)), 1.0, member=CYD)) == []


def test_a_former_epoch_of_its_own_is_exceeded_and_saved_but_not_twice_in_a_second() -> None:
    replica = started(b"a")
    former = replace(replica.me, epoch=Epoch(7, 1))
    outputs = say(replica, Members((Claim(former),)), 1.0)
    assert outputs[0] == SaveEpoch(8)
    assert replica.me.epoch.counter == 8
    assert replica.set.head().base_count == 1
    rival = replace(former, epoch=Epoch(9, 1))
    assert say(replica, Members((Claim(rival),)), 1.5) == []
    assert replica.counters.conflicts == 1
    assert SaveEpoch(10) in say(replica, Members((Claim(rival),)), 2.5)


def test_the_highest_counter_of_its_own_is_answered_in_words_that_others_understand() -> None:
    replica = started(b"a")
    for now, former in ((1.0, Epoch(COUNTER_MAX, 1)), (3.0, Epoch(COUNTER_MAX, U64_MAX - 9))):
        outputs = say(replica, Members((Claim(replace(replica.me, epoch=former)),)), now)
        assert outputs[0] == SaveEpoch(COUNTER_MAX)
        assert replica.me.epoch > former
        for output in outputs[1:]:
            assert isinstance(output, Publish)
            assert decode("c", encode("c", output.sender, output.message)) == (output.sender, output.message)


def test_a_higher_epoch_at_another_address_is_pinged_and_exceeded_when_nobody_answers() -> None:
    replica = started(b"a")
    elsewhere = replace(replica.me, epoch=Epoch(7, 1), address="192.0.2.9")
    assert sent(say(replica, Members((Claim(elsewhere),)), 1.0)) == [("ann", Ping(replica.me, 0))]
    assert not [output for output in ticks(replica, 1.9) if isinstance(output, SaveEpoch)]
    assert SaveEpoch(8) in ticks(replica, 2.1)
    assert replica.counters.conflicts == 0


def test_a_running_node_of_the_same_name_is_a_conflict_and_this_one_falls_silent() -> None:
    replica = started(b"a")
    rival = replace(replica.me, epoch=Epoch(7, 1), address="192.0.2.9")
    say(replica, Members((Claim(rival),)), 1.0)
    assert Conflict(rival) in say(replica, Ack(rival, 0), 1.1, member=rival)
    assert replica.counters.conflicts == 1
    assert ticks(replica, 10.0) == []
    assert replica.add(b"b", 10.0) == []
    assert replica.leave(10.0) == []


def test_a_node_of_the_same_name_that_asks_is_answered() -> None:
    replica = started()
    asker = replace(replica.me, epoch=Epoch(1, 0), address="192.0.2.9")
    assert replies(say(replica, Ping(asker, 0), 1.0, member=asker)) == [Ack(replica.me, 0)]


def test_who_speaks_with_an_old_epoch_is_corrected_once_a_second_and_not_heard() -> None:
    replica, his = knowing_ben()
    newer = replace(BEN, epoch=Epoch(2, 1))
    say(replica, Members((Claim(newer),)), 0.1)
    correction = ("ben", Members((Claim(newer),)))
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
    assert Unlink("ben") in say(replica, Members((Claim(left),)), 0.1)
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


def test_a_set_that_has_not_come_completely_is_not_among_the_answers_of_a_lookup() -> None:
    replica, _ = knowing_ben(b"a")
    say(replica, Join(CYD), 0.1, member=CYD)
    assert [member.name for member in replica.lookup.holders(b"a")] == ["ben"]
    first = Piece("cyd", CYD.epoch, 2, False, (1,), (0,))
    say(replica, Part(1, last=False, keys=(b"a",), pieces=(first,)), 0.1)
    assert [member.name for member in replica.lookup.holders(b"a")] == ["ben"]
    second = replace(first, last=True, sequences=(2,), references=(1,))
    say(replica, Part(2, last=True, keys=(b"b",), pieces=(second,)), 0.1)
    assert sorted(member.name for member in replica.lookup.holders(b"a")) == ["ben", "cyd"]


def test_who_met_nobody_for_very_long_forgets_everything() -> None:
    """R3: its knowledge may be older than what the others remember of the dead."""
    replica, _ = knowing_ben(b"a")
    half = replica.config.forget_s / 2
    replica.tick(1.0)
    say(replica, Ping(BEN, 1), half)
    assert Unlink("ben") not in replica.tick(half + 10.0)
    assert Unlink("ben") in replica.tick(2 * half + 1.0)
    replica.check()
    assert replica.lookup.holders(b"a") == []
    assert replica.set.index.pairs == 0
    assert isinstance(replica.join()[1], Join), "it joins anew"


def test_a_large_set_of_a_former_epoch_is_entered_in_steps_and_not_pulled() -> None:
    keys = [number.to_bytes(2) for number in range(4 * SORTED_KEYS)]
    replica, his = knowing_ben(*keys)
    again = replace(BEN, epoch=Epoch(2, 1))
    outcome(his.begin(again.epoch))
    outputs = say(replica, heartbeat(his, again), 1.0, 1, again)
    his.add(b"new")
    [delta] = [his.diff("ben", again.epoch, len(keys))]
    assert delta is not None
    outputs += say(replica, Deltas((delta,)), 1.0, 2, again)
    assert replica.set.at("ben")[0] == BEN_EPOCH, "it is still being put in order"
    while replica.deadline == 0.0:
        outputs += replica.tick(1.0)
    replica.check()
    assert replica.set.elements("ben") == his.elements("ben"), "what came meanwhile waited for it"
    outputs += ticks(replica, 1.9)
    assert not [message for _, message in sent(outputs) if isinstance(message, Pull)]


def test_neighbours_among_very_many_are_looked_for_in_steps_and_one_that_is_forgotten_meanwhile_is_let_be() -> None:
    replica = started()
    others = [replace(BEN, name=f"node{number:04}", epoch=Epoch(1, number)) for number in range(1, IN_ONE_STEP_MAX + 2)]
    for start in range(0, len(others), CLAIMS_PER_MESSAGE_MAX):
        claims = tuple(map(Claim, others[start : start + CLAIMS_PER_MESSAGE_MAX]))
        replica.receive(Sender(others[0].name, others[0].epoch), Members(claims), 0.1)
    wanted = outcome(neighbours("ann", [other.name for other in others]))
    outputs: list[Output] = []
    while replica.deadline > 0.0:
        outputs += replica.tick(replica.deadline)
    dropped = next(name for name in wanted if name not in replica.membership.linked)
    replica.membership.forget(dropped)
    while replica.deadline == 0.0:
        outputs += replica.tick(1.2)
    assert sorted(replica.membership.linked) == [name for name in wanted if name != dropped]


def test_who_slept_for_very_long_forgets_everything_before_it_listens() -> None:
    """R3: of the dead of that time it knows nothing; the first message after it woke must not hide that it slept."""
    replica, _ = knowing_ben(b"a")
    ticks(replica, 1.0)
    woke_at = replica.config.forget_s / 2 + 2.0
    outputs = say(replica, Members((Claim(CYD),)), woke_at, member=CYD)
    assert Unlink("ben") in outputs
    assert list(replica.membership.others) == ["cyd"]
    assert replica.set.index.pairs == 0


def test_very_many_are_forgotten_some_at_a_time_and_meanwhile_who_slept_meets_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encounter, "FORGOTTEN_MAX", 2)
    replica, _ = knowing_ben()
    others = [replace(BEN, name=f"node{number}") for number in range(4)]
    say(replica, Members(tuple(map(Claim, others))), 0.5)
    ticks(replica, 1.0)
    woke_at = replica.config.forget_s / 2 + 2.0
    left = []
    while "cyd" not in replica.membership.others:
        say(replica, Members((Claim(CYD),)), woke_at, member=CYD)
        left.append(list(replica.membership.others))
    assert left == [["node1", "node2", "node3"], ["node3"], ["cyd"]]


def test_content_of_very_many_that_are_gone_is_dropped_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encounter, "FORGOTTEN_MAX", 2)
    replica, _ = knowing_ben()
    others = [replace(CYD, name=f"node{number}") for number in range(5)]
    for other in others:
        say(replica, Members((Claim(other),)), 0.5)
        say(replica, Deltas((Snapshot(other.name, other.epoch, 1, ((1, b"a"),)),)), 0.5)
    say(replica, Members(tuple(Claim(replace(other, status=Status.DOWN)) for other in others)), 1.0)
    held = []
    for _ in others:
        say(replica, Ping(BEN, 1), 1.0 + DROP_S)
        replica.tick(1.0 + DROP_S)
        held.append(sum(replica.set.at(other.name) != (BOTTOM, 0) for other in others))
    assert held == [3, 1, 0, 0, 0]


def test_who_slept_judges_nobody_by_the_silence_meanwhile_nor_those_better_who_speak_first() -> None:
    replica, _ = knowing_ben(b"a")
    say(replica, Join(CYD), 0.5, member=CYD)
    ticks(replica, 1.0)
    say(replica, Ping(BEN, 1), 3601.0)
    replica.tick(3601.0)
    heard = {name: other.heard_at for name, other in replica.membership.others.items()}
    assert heard["ben"] == 3601.0
    assert 3600.0 < heard["cyd"] < 3601.0
    assert replica.counters.suspicions == 0
    assert [member.name for member in replica.lookup.members()] == ["ben", "cyd"]
