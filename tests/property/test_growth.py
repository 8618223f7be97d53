"""Whatever a member says, and however often, nothing grows beyond what its limits allow.

Memory is counted by tracemalloc: what a second, longer round of nonsense leaves behind beside what the first one left.
"""

from __future__ import annotations

import gc
import itertools
import random
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING

from gossip import or_set
from gossip.codec import decode, encode
from gossip.config import Config
from gossip.counters import Counters
from gossip.errors import DecodeError
from gossip.membership import Claim, Member, Status
from gossip.messages import (
    BUCKETS,
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
    More,
    Nack,
    Part,
    Piece,
    Ping,
    PingRequest,
    Pull,
    Sender,
    Version,
    Versions,
)
from gossip.or_set import BOTTOM, Epoch, Head, Interval, LiveSet, Snapshot
from gossip.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

FIRST, SECOND = 2_000, 6_000
"""Messages of the two rounds."""
GROWTH_BYTES_MAX = 256 * 1024
"""What may be left: sets and tables that grow by doubling. 50 bytes for each message would be more."""
NAMES = [f"member{number}" for number in range(8)]
EPOCHS = [Epoch(3, 1), Epoch(3, 1), Epoch(3, 1), Epoch(2, 1)]


REFUTATIONS = itertools.count()


def member(dice: random.Random) -> Member:
    """Ever newer, or what is said later would be old news of one who has left."""
    status, refutation = dice.choice(list(Status)), next(REFUTATIONS) // 4
    return Member(dice.choice(NAMES), dice.choice(EPOCHS), "192.0.2.1", 1, 2, refutation=refutation, status=status)


def claim(dice: random.Random) -> Claim:
    said = member(dice)
    return Claim(said, f"accuser{dice.randrange(10**6)}" if said.status is Status.SUSPECT else "")


def delta(dice: random.Random) -> Interval | LiveSet | Snapshot:
    owner, epoch = dice.choice(NAMES), dice.choice(EPOCHS)
    after, version = sorted(dice.sample(range(1, 200), 2))
    adds = tuple((number, b"key%d" % dice.randrange(50)) for number in range(after + 1, min(version, after + 3) + 1))
    numbers = tuple(sorted(dice.sample(range(1, after + 1), min(after, 3))))
    kind = dice.randrange(3)
    if kind == 0:
        return Interval(owner, epoch, after, version, adds, numbers)
    return LiveSet(owner, epoch, after, version, adds, numbers) if kind == 1 else Snapshot(owner, epoch, version, adds)


def head(dice: random.Random) -> Head:
    base = dice.randrange(3)
    return Head(dice.choice(NAMES), dice.choice(EPOCHS), base + dice.randrange(100), 7, base, dice.randbytes(16))


def part(dice: random.Random) -> Part:
    keys = tuple(b"key%d" % dice.randrange(50) for _ in range(dice.randrange(3)))
    pieces = tuple(
        Piece(dice.choice(NAMES), dice.choice(EPOCHS), 200, dice.random() < 0.5, (dice.randrange(1, 100),), (0,))
        for _ in range(dice.randrange(3))
    )
    last = dice.random() < 0.2
    return Part(dice.randrange(1, 4), last, (claim(dice),), (delta(dice),), keys, pieces)


def standing(dice: random.Random) -> tuple[str, Epoch, int]:
    return dice.choice(NAMES), dice.choice([*EPOCHS, BOTTOM]), dice.randrange(200)


def version(dice: random.Random) -> Version:
    life = (dice.choice(EPOCHS), dice.randrange(3))
    return Version(*standing(dice), life, dice.choice(list(Status)))


def heartbeat(dice: random.Random) -> Heartbeat:
    said = member(dice)
    return Heartbeat(said, Head(said.name, said.epoch, 100, dice.randrange(3), 1, bytes(16)))


KINDS: list[Callable[[random.Random], Message]] = [
    heartbeat,
    part,
    lambda dice: Members(tuple(claim(dice) for _ in range(3))),
    lambda dice: Heads((head(dice),)),
    lambda dice: Deltas(tuple(delta(dice) for _ in range(3))),
    lambda dice: Join(member(dice)),
    lambda dice: Ping(member(dice), dice.randrange(100)),
    lambda dice: PingRequest(member(dice), dice.randrange(100), member(dice)),
    lambda dice: Ack(member(dice), dice.randrange(100)),
    lambda dice: Nack(dice.randrange(100)),
    lambda dice: Compare(member(dice), dice.randbytes(16)),
    lambda dice: Buckets(tuple(dice.getrandbits(64) for _ in range(BUCKETS))),
    lambda _dice: Busy(),
    lambda dice: Versions(tuple(dice.sample(range(BUCKETS), 50)), (version(dice),)),
    lambda dice: Pull((standing(dice),)),
    lambda _dice: More(),
]


def growth(step: Callable[[random.Random], None]) -> int:
    """How many bytes the second round of a step, repeated, leaves allocated."""
    dice = random.Random(1)
    tracemalloc.start()
    try:
        for _ in range(FIRST):
            step(dice)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(SECOND):
            step(dice)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_a_member_that_says_anything_at_all_makes_nothing_grow() -> None:
    counters = Counters()
    replica = Replica(Config("me"), counter=0, rng=random.Random(1), counters=counters)
    replica.add(b"key1", 0.0)
    replica.start(0.0)
    now = 0.0

    def step(dice: random.Random) -> None:
        nonlocal now
        now += dice.uniform(0, 0.2)
        sender = Sender(dice.choice(NAMES), dice.choice(EPOCHS), dice.choice((0, dice.randrange(1, 10**9))))
        replica.receive(sender, dice.choice(KINDS)(dice), now)
        if replica.deadline <= now:
            replica.tick(now)

    assert growth(step) < GROWTH_BYTES_MAX
    replica.check()
    assert len(replica.membership.others) == len(NAMES)
    assert counters.audit_mismatches > 0, "what it was told reached every part"
    assert counters.gaps > 0
    assert counters.syncs > 0
    assert counters.downs > 0


def test_an_owner_that_only_ever_adds_fills_its_set_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It adds a key at a time, and shows the last ones whole when what is held of it was dropped."""
    monkeypatch.setattr(or_set, "KEYS_PER_OWNER_MAX", 100)
    replica, owner = (
        Replica(Config("me"), counter=0, rng=random.Random(1), counters=Counters()),
        member(random.Random(1)),
    )
    replica.start(0.0)
    replica.receive(Sender(owner.name, owner.epoch), Join(owner), 0.0)
    versions, most = itertools.count(1), 0

    def step(_dice: random.Random) -> None:
        nonlocal most
        version = next(versions)
        adds = ((version, b"key%d" % version),)
        said: Interval | Snapshot = Interval(owner.name, owner.epoch, version - 1, version, adds, ())
        if not replica.set.at(owner.name)[1]:
            said = Snapshot(owner.name, owner.epoch, version, adds)
        replica.receive(Sender(owner.name, owner.epoch), Deltas((said,)), 0.0)
        most = max(most, len(replica.set.elements(owner.name)))

    assert growth(step) < GROWTH_BYTES_MAX
    replica.check()
    assert most == 100


def test_sets_that_are_replaced_faster_than_they_are_emptied_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(or_set, "SWEEP_ELEMENTS", 10)
    held, versions = or_set.ORSet("me", EPOCHS[0], lambda _key: None), itertools.count(20)

    def step(_dice: random.Random) -> None:
        version = next(versions)
        adds = tuple((number, b"key%d.%d" % (version, number)) for number in range(1, 21))
        held.apply(Snapshot("owner", EPOCHS[0], version, adds))

    assert growth(step) < GROWTH_BYTES_MAX
    held.check()


def test_bytes_that_are_no_message_leave_nothing_behind() -> None:
    sender = Sender("ann", EPOCHS[0])
    refused = 0

    def step(dice: random.Random) -> None:
        nonlocal refused
        frames = encode("test", sender, dice.choice(KINDS)(dice))
        damaged = dice.randrange(len(frames))
        frame = bytearray(frames[damaged]) or bytearray(1)
        frame[dice.randrange(len(frame))] ^= dice.randrange(1, 256)
        frames[damaged] = bytes(frame[: dice.randrange(len(frame) + 1)])
        with suppress(DecodeError):
            decode("test", frames)
            refused -= 1
        refused += 1

    assert growth(step) < GROWTH_BYTES_MAX
    assert refused > SECOND // 2
