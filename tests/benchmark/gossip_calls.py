"""How long one call of a replica holds the event loop when everything is as large as it may be.

    python -m tests.benchmark.gossip_calls [--members N] [--keys N]

Calls of the kinds that take longest, in a cluster of 10,000 members and with an owner of 65,536 keys: the best of some
rounds, in the CPU time of the thread, so that what else the machine does counts less. The first figure tells how fast
the machine is.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from gossip import codec, overlay
from gossip.config import Config
from gossip.counters import Counters
from gossip.gaps import PER_OWNER_MAX
from gossip.membership import DROP_S, MEMBERS_MAX, Claim, Member, Status
from gossip.messages import (
    BUCKETS,
    CLAIMS_PER_MESSAGE_MAX,
    Buckets,
    Deltas,
    Members,
    Message,
    Pull,
    Sender,
    Versions,
)
from gossip.or_set import BOTTOM, KEYS_PER_OWNER_MAX, Epoch, Interval, LiveSet, ORSet, Outcome, Snapshot
from gossip.outputs import Reply
from gossip.replica import Replica
from gossip.transfer import Outgoing
from tests.benchmark.figures import figure
from tests.steps import outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from gossip.or_set import Delta
    from gossip.outputs import Output

ROUNDS = 9
LIVES = 3
CALL_MS = 5.0
KEY_BYTES = 33
EPOCH = Epoch(1, 1)
REMOVED = (1000, 4000)
LEFT = (900, 4000)
FALL_S = 10.0
FORGET_S = Config("me").forget_s / 2 + 1.0

T = TypeVar("T")


def main(members: int, keys: int) -> None:
    figure("a loop of a million additions", min(timed(million) for _ in range(ROUNDS)), "ms")
    rng = random.Random(1)
    of_an_owner([rng.randbytes(KEY_BYTES) for _ in range(keys)])
    of_many_members(members)
    of_a_newcomer(members)


def of_an_owner(keys: list[bytes]) -> None:
    """What an owner of many keys costs those who hold its set."""
    print(f"an owner of {len(keys)} keys")
    adds = tuple(enumerate(sorted(keys), 1))
    own = holding(keys)
    held = filled(adds)
    owners = [holding(keys) for _ in range(ROUNDS)]
    starting = iter(owners)
    in_steps("its own new epoch, once at its start", lambda: next(starting).begin(EPOCH))
    outcome(own.begin(EPOCH))
    heads = iter([replace(own.head(), epoch=Epoch(number, 1)) for number in range(2, 2 + ROUNDS)])
    in_steps("its new epoch without changes, at those who hold its set", lambda: held.rebase(next(heads)), bool)
    others = iter([filled(adds) for _ in range(ROUNDS)])
    shown("forgetting it", lambda: next(others).forget("owner"))
    forgetful = filled(adds)
    forgetful.forget("owner")
    shown("a slice of what was forgotten", forgetful.sweep)
    read = filled(adds)
    with read.index.pinned():
        read.forget("owner")
        while not read.swept:
            read.sweep()
    shown("the same of what somebody read until now", read.sweep)
    shown("the first part for one who lacks it", lambda: Outgoing(held, (), [("owner", BOTTOM, 0)]).next(), bool)
    shown(
        "what one lacks who missed a few changes", lambda: held.diff("owner", held.at("owner")[0], len(keys) - 3), bool
    )
    changes_of(adds)


def changes_of(adds: tuple[tuple[int, bytes], ...]) -> None:
    """What those who hold the owner's set do when it changes much at once."""
    version = len(adds)
    for count in (0, 10):
        applied(f"it restarts with {count} keys", adds, Snapshot("owner", Epoch(2, 1), count, adds[:count]))
    for count in REMOVED:
        removed = tuple(range(1, version + 1, version // count))[:count]
        applied(f"it removed {count} keys", adds, Interval("owner", EPOCH, version, version + count, (), removed))
    for count in LEFT:
        live = tuple(range(1, version + 1, version // count))[:count]
        applied(f"it removed all but {count} keys", adds, LiveSet("owner", EPOCH, version, 2 * version, (), live))


def of_many_members(count: int) -> None:
    """What many members cost one."""
    print(f"{count} members")
    replica, others = cluster(count)
    names = [member.name for member in others]
    said = [Members(tuple(map(Claim, batch))) for batch in batches(others)]
    shown("a message of known records", lambda: hear(replica, others[0], said[0], 1.0))
    in_steps("the neighbours", lambda: overlay.neighbours("me", names), bool)
    frames = codec.encode("c", Sender("other", EPOCH), said[0])
    shown("reading a message of records", lambda: codec.decode("c", frames), bool)

    def judged_anew() -> float:
        return max(timed(partial(replica.lookup.outdated, name)) for name in names)

    longest = min(judged_anew() for _ in range(ROUNDS))
    figure("something changed about each member, for the look-ups: the longest call", longest, "ms", CALL_MS)

    def listed_anew() -> object:
        replica.lookup.outdated(names[0])
        return replica.lookup.members()

    shown("all members, after one of them changed", listed_anew, bool)
    nothing = Versions(tuple(range(BUCKETS)), ())
    shown("the answer to a newcomer that knows nobody", lambda: replies(hear(replica, others[1], nothing, 2.0)), bool)
    asked = differing(replica, others[2], 3.0)
    shown("where it stands, for one whose whole state differs", lambda: differing(replica, others[2], 3.0), bool)
    frames = codec.encode("c", Sender("other", EPOCH), asked)
    shown("reading that", lambda: codec.decode("c", frames), bool)
    shown("the answer to that", lambda: replies(hear(replica, others[3], asked, 3.0)), bool)
    missing = Pull(tuple((name, BOTTOM, 0) for name in names[:count]))
    shown("the answer to one who pulls from all owners", lambda: replies(hear(replica, others[4], missing, 4.0)), bool)

    lives = [cluster(count)[0] for _ in range(LIVES)]
    through_time("a minute in which nobody speaks", lives, 1.0, 61.0)
    through_time("a day later, when all are forgotten", lives, FORGET_S, FORGET_S + 5.0)
    lives = [cluster(count)[0] for _ in range(LIVES)]
    falling = batches([replace(member, status=Status.DOWN) for member in others[: count // 2]])
    messages = [Members(tuple(map(Claim, batch))) for batch in falling]
    heard("half of them go down: the longest message of records", lives, others[-1], messages, FALL_S)
    through_time("the minute after that", lives, FALL_S, FALL_S + 60.0)
    through_time("ten minutes later, when their content is dropped", lives, FALL_S + DROP_S, FALL_S + DROP_S + 5.0)


def of_a_newcomer(count: int) -> None:
    """What the changes of many cost one who holds none of their sets, so that each change comes too early."""
    print(f"a newcomer among {count} members")
    lives, others = [acquainted(count)[0] for _ in range(LIVES)], acquainted(count)[1]
    for version in range(2, 2 + PER_OWNER_MAX):
        changes = [Deltas(tuple(early(member, version) for member in batch)) for batch in batches(others)]
        heard(f"version {version} of each comes too early: the longest message", lives, others[0], changes, 0.5)


def early(member: Member, version: int) -> Interval:
    """A change for those who hold the version before it."""
    return Interval(member.name, member.epoch, version - 1, version, ((version, b"key"),), ())


def holding(keys: list[bytes]) -> ORSet:
    """An owner that has these keys, before it starts."""
    own = ORSet("owner", EPOCH, lambda _key: None)
    for key in keys:
        own.add(key)
    return own


def filled(adds: tuple[tuple[int, bytes], ...]) -> ORSet:
    """A replica of a set, of the epoch before."""
    held = ORSet("me", EPOCH, lambda _key: None)
    held.apply(Snapshot("owner", EPOCH, len(adds), adds))
    return held


def applied(what: str, adds: tuple[tuple[int, bytes], ...], delta: Delta) -> None:
    """Print how long it takes to apply a delta to the set that these are, or to find that it would take long."""
    held = iter([filled(adds) for _ in range(ROUNDS)])
    shown(what, lambda: next(held).apply(delta), lambda result: result in {Outcome.APPLIED, Outcome.LONG})


def cluster(count: int) -> tuple[Replica, list[Member]]:
    """One that knows so many, each of whom holds a key, and them."""
    replica, others = acquainted(count)
    for member in others:
        hear(replica, member, Deltas((Snapshot(member.name, member.epoch, 1, ((1, b"key"),)),)), 0.5)
    while replica.deadline < 1.0:
        replica.tick(replica.deadline)
    return replica, others


def acquainted(count: int) -> tuple[Replica, list[Member]]:
    """One that knows so many, and has none of their sets; and them."""
    rng = random.Random(2)
    replica = Replica(Config("me"), counter=0, rng=rng, counters=Counters())
    replica.start(0.0)
    others = [Member(f"node{number:05}", Epoch(1, number + 1), "192.0.2.1", 1, 2) for number in range(count - 1)]
    for batch in batches(others):
        hear(replica, batch[0], Members(tuple(map(Claim, batch))), 0.5)
    return replica, others


def differing(replica: Replica, other: Member, now: float) -> Versions:
    """Let one compare its state with another's that has nothing in common with it; what it asks."""
    replica._exchange.incoming = None
    replica._exchange._asked[other.name] = now + 1.0
    [asked] = [
        message
        for message in replies(hear(replica, other, Buckets(tuple(range(1, BUCKETS + 1))), now))
        if isinstance(message, Versions)
    ]
    return asked


def hear(replica: Replica, member: Member, message: Message, now: float) -> list[Output]:
    replica._exchange._served.clear()
    return replica.receive(Sender(member.name, member.epoch), message, now)


def replies(outputs: list[Output]) -> list[Message]:
    return [output.message for output in outputs if isinstance(output, Reply)]


def batches(members: list[Member]) -> list[list[Member]]:
    size = CLAIMS_PER_MESSAGE_MAX
    return [members[start : start + size] for start in range(0, len(members), size)]


def shown(what: str, call: Callable[[], object], sound: Callable[[object], bool] = lambda _: True) -> None:
    """Print the best of some rounds of a call, whose result must be `sound`."""
    times = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        result = call()
        times.append((time.thread_time() - started) * 1000)
        assert sound(result), what
    figure(what, min(times), "ms", CALL_MS)


def in_steps(
    what: str, call: Callable[[], Generator[None, None, T] | None], sound: Callable[[T], bool] = lambda _: True
) -> None:
    """Print the longest step of a call that is done in steps, and all of them, each at the best of some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        steps = call()
        assert steps is not None
        times: list[float] = []
        done: list[T] = []
        while not done:
            started = time.thread_time()
            try:
                next(steps)
            except StopIteration as end:
                done.append(end.value)
            times.append((time.thread_time() - started) * 1000)
        assert sound(done[0]), what
        rounds.append(times)
    figure(f"{what}: the longest of {len(rounds[0])} steps", max(map(min, zip(*rounds, strict=True))), "ms", CALL_MS)
    figure(f"{what}: all steps", min(map(sum, rounds)), "ms")


def heard(what: str, lives: list[Replica], source: Member, messages: Sequence[Message], now: float) -> None:
    """Print the longest of some messages that a replica hears, each at the best of some lives that are the same."""
    times = [
        min(timed(lambda life=life, message=message: hear(life, source, message, now)) for life in lives)  # type: ignore[misc]
        for message in messages
    ]
    figure(what, max(times), "ms", CALL_MS)


def through_time(what: str, lives: list[Replica], since: float, until: float) -> None:
    """Print the longest tick of a replica from one time to another, at the best of some lives that are the same."""
    rounds = []
    for replica in lives:
        now, times = since, list[float]()
        while now < until:
            now = max(now, replica.deadline)
            times.append(timed(lambda replica=replica, now=now: replica.tick(now)))  # type: ignore[misc]
        rounds.append(times)
    longest = max(map(min, zip(*rounds, strict=True)))
    figure(f"{what}: the longest of {len(rounds[0])} ticks", longest, "ms", CALL_MS)


def million() -> None:
    total = 0
    for number in range(1_000_000):
        total += number


def timed(call: Callable[[], object]) -> float:
    """The milliseconds that a call took."""
    started = time.thread_time()
    call()
    return (time.thread_time() - started) * 1000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=MEMBERS_MAX)
    parser.add_argument("--keys", type=int, default=KEYS_PER_OWNER_MAX)
    options = parser.parse_args()
    gc.freeze()
    main(options.members, options.keys)
