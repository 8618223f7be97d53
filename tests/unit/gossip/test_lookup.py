"""Who holds a key: ranks, limits, and where an answer begins."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from gossip.config import Config
from gossip.lookup import Lookup
from gossip.membership import Member, Membership, Status
from gossip.or_set import Epoch, ORSet, Snapshot

EPOCH = Epoch(1, 1)
KEY = b"key"


@dataclass
class Known:
    """What a member of zone "here" knows; time stands still at 0."""

    membership: Membership = field(default_factory=lambda: Membership(Config(name="me", zone="here"), EPOCH))
    held: ORSet = field(default_factory=lambda: ORSet("me", EPOCH, lambda _key: None))

    def __post_init__(self) -> None:
        self.lookup = Lookup(self.membership, self.held)

    def holder(self, name: str, zone: str = "here", status: Status = Status.ALIVE) -> None:
        """There is a member that holds the key, of whom this is said."""
        member = Member(name, EPOCH, "192.0.2.1", 1, 2, zone)
        self.membership.learn(member, 0.0)
        self.held.apply(Snapshot(name, EPOCH, 1, ((1, KEY),)))
        self.membership.learn(replace(member, status=status), 0.0, witnessed=True)
        self.lookup.outdated(name)

    def forget(self, name: str) -> None:
        self.membership.forget(name)
        self.held.forget(name)
        self.lookup.outdated(name)

    def names(self, limit: int | None = None, start: int = 0) -> list[str]:
        return [member.name for member in self.lookup.holders(KEY, limit, start)]


def test_those_of_this_zone_come_first_and_those_ranked_last_come_last() -> None:
    known = Known()
    known.holder("suspect", status=Status.SUSPECT)
    known.holder("far", zone="there")
    known.holder("hidden", status=Status.LEFT)
    known.holder("near")
    assert known.names() == ["near", "far", "suspect"]
    assert known.names(limit=2) == ["near", "far"]
    known.lookup.check()


def test_a_limit_below_the_number_of_holders_names_each_of_them_in_turn() -> None:
    known = Known()
    everybody = [f"node{number}" for number in range(10)]
    for name in everybody:
        known.holder(name)
    assert known.names(limit=3, start=0) == everybody[:3]
    assert known.names(limit=3, start=8) == [*everybody[8:], everybody[0]]
    assert {name for start in range(10) for name in known.names(limit=1, start=10_000 + start)} == set(everybody)
    assert known.names(limit=10, start=5) == known.names(start=5) == everybody, "nothing to choose"


def test_the_list_of_members_follows_each_change() -> None:
    known, dice = Known(), random.Random(1)
    statuses: dict[str, Status] = {}
    order = {Status.ALIVE: 0, Status.SUSPECT: 1}
    for _ in range(300):
        name, status = f"node{dice.randrange(20)}", dice.choice((Status.ALIVE, Status.SUSPECT, Status.LEFT))
        statuses[name] = max(status, statuses.get(name, status))
        known.holder(name, status=status)
        if dice.random() < 0.2:
            name = dice.choice(list(statuses))
            statuses.pop(name)
            known.forget(name)
        if dice.random() < 0.5:  # some changes wait for the next question
            visible = [name for name, status in statuses.items() if status in order]
            visible.sort(key=lambda name: (order[statuses[name]], name))
            assert [member.name for member in known.lookup.members()] == visible
            known.lookup.check()


def test_hidden_holders_do_not_use_up_the_limit() -> None:
    known = Known()
    for number in range(20):
        known.holder(f"hidden{number}", status=Status.LEFT)
    known.holder("far", zone="there")
    known.holder("suspect", status=Status.SUSPECT)
    for start in range(22):
        assert known.names(limit=2, start=start) == ["far", "suspect"]


def test_this_node_is_not_among_the_answers() -> None:
    known = Known()
    known.held.add(KEY)
    assert known.names() == []
    known.holder("near")
    assert known.names() == ["near"]


def test_an_unknown_key_has_no_holders() -> None:
    assert Known().names(limit=3, start=1) == []
