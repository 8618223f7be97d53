"""What the index costs: memory for a pair, and the time of a lookup, of a change, and of a member that goes.

    python -m tests.benchmark.gossip_index [--members N] [--keys-per-member N] [--keys N]

Each member holds a sample of the keys whose popularity falls as in Zipf's law, so some keys have a thousand holders
and most a few. Times are of single calls, taken one by one with a clock that itself costs about 0.05 us.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from typing import TYPE_CHECKING, TypeVar

from gossip.config import Config
from gossip.lookup import Lookup
from gossip.membership import Member, Membership
from gossip.or_set import Epoch, Interval, ORSet, Outcome, Snapshot
from tests.benchmark.figures import figure, memory_bytes, quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KEY_BYTES = 33
"""As the mirror's: an algorithm and a sha256 digest."""
LOOKUPS = 100_000
CHANGES = 20_000
PURGES = 100
LIMIT = 64
MICRO = 1e6

T = TypeVar("T")


def main(members: int, keys_per_member: int, distinct: int) -> None:
    rng = random.Random(1)
    keys = [rng.randbytes(KEY_BYTES) for _ in range(distinct)]
    shares = [sample(rng, distinct, keys_per_member) for _ in range(members)]
    gc.collect()
    before = memory_bytes()
    held = ORSet("me", Epoch(1, 1), lambda _key: None)
    # Each snapshot has bytes objects of its own, as one that was decoded has.
    snapshots = (snapshot(name_of(number), [bytes(bytearray(keys[i])) for i in s]) for number, s in enumerate(shares))
    filling = timed(lambda delta: assert_applied(held, delta), snapshots)
    gc.collect()
    pairs = held.index.pairs
    print(f"{members} members, {pairs} pairs, {len(held.index)} distinct keys")
    figure("memory for a pair", (memory_bytes() - before) / pairs, "B", 20)
    figure("applying a snapshot, for a pair", sum(filling) / pairs, "us")
    figure(f"applying a snapshot of {keys_per_member} keys in one call, p99", quantile(filling, 0.99) / 1000, "ms")

    lookup = Lookup(membership(members), held)
    lookup.holders(keys[0])
    by_holders = sorted(keys, key=lambda key: len(held.index.slots(key)))
    cases = {
        "a key like any": rng.choices(keys, k=LOOKUPS),
        f"a key of {len(held.index.slots(by_holders[-1]))} holders": [by_holders[-1]] * LOOKUPS,
        "a key of nobody": [rng.randbytes(KEY_BYTES) for _ in range(LOOKUPS)],
    }
    for what, asked in cases.items():
        times = timed(lambda key: lookup.holders(key, LIMIT, rng.getrandbits(16)), asked)
        figure(f"lookup of {what}, p50", quantile(times, 0.5), "us")
        figure(f"lookup of {what}, p99", quantile(times, 0.99), "us", 50)
    change(held, rng, members)
    purges = timed(held.forget, [name_of(number) for number in range(min(members, PURGES))])
    figure(f"forgetting a member of {keys_per_member} keys, p99", quantile(purges, 0.99) / 1000, "ms", 5)


def change(held: ORSet, rng: random.Random, members: int) -> None:
    """One fresh addition each time, of a key that nobody has and of one that others have; the same delta again."""
    known = [key for _, key in held.elements(name_of(0))]
    for what in ("new", "known"):
        times: list[float] = []
        again: list[float] = []
        while len(times) < CHANGES:
            name = name_of(rng.randrange(members))
            epoch, version = held.at(name)
            key = rng.choice(known)
            if what == "new" or held.index.holds(held.cells[name].slot, key):
                key = rng.randbytes(KEY_BYTES)
            delta = Interval(name, epoch, version, version + 1, ((version + 1, key),), ())
            times += timed(lambda delta: assert_applied(held, delta), [delta])
            again += timed(held.apply, [delta])
        figure(f"applying one fresh addition, a {what} key, p50", quantile(times, 0.5), "us", 10)
        figure(f"applying one fresh addition, a {what} key, p99", quantile(times, 0.99), "us")
        figure("the same delta once more, p50", quantile(again, 0.5), "us")


def sample(rng: random.Random, distinct: int, count: int) -> list[int]:
    """Distinct key numbers, low ones far more often."""
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        # The inverse of Zipf's distribution function with exponent 1, near enough.
        chosen[int(distinct ** rng.random()) - 1] = None
    return list(chosen)


def snapshot(owner: str, keys: list[bytes]) -> Snapshot:
    return Snapshot(owner, Epoch(1, 1), len(keys), tuple(enumerate(keys, 1)))


def membership(count: int) -> Membership:
    """Members of four zones, all of them visible."""
    known = Membership(Config(name="me", zone="zone0"), Epoch(1, 1))
    for number in range(count):
        known.learn(Member(name_of(number), Epoch(1, 1), "192.0.2.1", 1, 2, f"zone{number % 4}"), 0.0)
    return known


def name_of(number: int) -> str:
    return f"node{number:05}"


def assert_applied(held: ORSet, delta: Snapshot | Interval) -> None:
    outcome = held.apply(delta)
    assert outcome is Outcome.APPLIED


def timed(call: Callable[[T], object], arguments: Iterable[T]) -> list[float]:
    """The microseconds that each call took."""
    times = []
    for argument in arguments:
        started = time.perf_counter()
        call(argument)
        times.append((time.perf_counter() - started) * MICRO)
    return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--keys-per-member", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=20_000)
    options = parser.parse_args()
    main(options.members, options.keys_per_member, options.keys)
