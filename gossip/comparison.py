"""Comparing the whole state of two replicas (anti-entropy): hashes first, then numbers, then what one lacks.

Each live member has one hash, over its name, its record's rank, and the version that is held of its set. The exclusive
or of those in a bucket is the bucket's hash, that of all is the fingerprint. So a fingerprint costs what changed since
the last one, and two replicas that differ in a few members find them by 16 bytes, 2 KB, and some 60 bytes for each
member in a bucket that differs. Members that are gone have no hash, and no content is compared of them: replicas
forget them at different times. Who holds one for live is told by who knows better.

Where many differ, as after a partition, some buckets are compared and then others, so that no step takes longer than
some milliseconds.
"""

from __future__ import annotations

import hashlib
import zlib
from functools import lru_cache
from itertools import accumulate, chain, count
from typing import TYPE_CHECKING, Final

from gossip.membership import NAMES_KEPT, Claim, Status
from gossip.messages import BUCKET_BYTES, BUCKETS, DELTAS_PER_MESSAGE_MAX, FINGERPRINT_BYTES, Deltas, Version
from gossip.or_set import BOTTOM
from gossip.payload import content_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gossip.membership import Member, Membership
    from gossip.messages import Standing
    from gossip.or_set import Delta, Epoch, ORSet

_BUCKET_MASK: Final = 2 ** (8 * BUCKET_BYTES) - 1
TOLD_MAX: Final = 512
ANSWERED_MAX: Final = 1024
"""About so many members one tells of in `Versions`, and one looks at to answer them: 2 to 3 ms of work either way."""
TOUCHED_MAX: Final = 256
"""So many hashes are made anew at a time: about 1 ms of work."""
ANSWER_BYTES_MAX: Final = 64 * 1024
ANSWER_ELEMENTS_MAX: Final = 2048
ANSWER_NUMBERS_MAX: Final = 8192
"""What a `Pull` is answered with at once; what is more, or of a larger set, goes in parts."""


class StateHash:
    """The hashes of one replica's state, made up to date when they are asked for.

    `touch` must be called when a member's record or the version held of its set changes.
    """

    def __init__(self, membership: Membership, held: ORSet) -> None:
        self._membership = membership
        self._held = held
        self._touched: dict[str, None] = {membership.me.name: None}
        self._hashes: dict[str, int] = {}
        self._buckets = [0] * BUCKETS
        self._sizes = [0] * BUCKETS
        self._names: list[dict[str, int]] = [{} for _ in range(BUCKETS)]
        """Those on record in each bucket, the gone among them, numbered as they became known."""
        self._numbers = count()

    def touch(self, name: str) -> None:
        """Something changed about this member."""
        self._touched[name] = None
        if len(self._touched) >= TOUCHED_MAX:
            self._update()

    def fingerprint(self) -> bytes:
        """One hash of everything."""
        self._update()
        value = 0
        for bucket in self._buckets:
            value ^= bucket
        return value.to_bytes(FINGERPRINT_BYTES)

    def buckets(self) -> tuple[int, ...]:
        """A hash of each bucket."""
        self._update()
        return tuple(bucket & _BUCKET_MASK for bucket in self._buckets)

    def portion(self, buckets: Sequence[int], most: int) -> tuple[int, ...]:
        """The first of some buckets, one at least: those that have about so many live members together."""
        self._update()
        members = accumulate(self._sizes[bucket] for bucket in buckets)
        return tuple(bucket for bucket, before in zip(buckets, chain((0,), members), strict=False) if before < most)

    def members(self, buckets: Iterable[int]) -> list[Member]:
        """The records in some buckets, those of the gone among them, in the order in which they became known; each
        once, if a bucket is named twice."""
        self._update()
        known, me = self._membership.others, self._membership.me
        numbered = {name: number for bucket in dict.fromkeys(buckets) for name, number in self._names[bucket].items()}
        return [me if name == me.name else known[name].member for name in sorted(numbered, key=numbered.__getitem__)]

    def check(self) -> None:
        """Assert that the hashes are those of the state."""
        fresh = StateHash(self._membership, self._held)
        for name in self._membership.others:
            fresh.touch(name)
        assert fresh.fingerprint() == self.fingerprint()
        assert fresh._sizes == self._sizes
        assert list(map(set, fresh._names)) == list(map(set, self._names))

    def _update(self) -> None:
        for name in self._touched:
            before, after = self._hashes.pop(name, 0), self._hash(name)
            if after:
                self._hashes[name] = after
            bucket = bucket_of(name)
            if name in self._membership.others or name == self._membership.me.name:
                self._names[bucket].setdefault(name, next(self._numbers))
            else:
                self._names[bucket].pop(name, None)
            self._buckets[bucket] ^= before ^ after
            self._sizes[bucket] += bool(after) - bool(before)
        self._touched.clear()

    def _hash(self, name: str) -> int:
        if name == self._membership.me.name:
            member = self._membership.me
        elif name in self._membership.others and name not in self._membership.gone:
            member = self._membership.others[name].member
        else:
            return 0
        epoch, version = self._held.at(name)
        numbers = (*_numbers(member.epoch), member.refutation, int(member.status), *_numbers(epoch), version)
        text = f"{name}{numbers}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=FINGERPRINT_BYTES, person=b"gossip/state").digest())


@lru_cache(maxsize=NAMES_KEPT)
def bucket_of(name: str) -> int:
    """The bucket of a member."""
    return zlib.crc32(name.encode()) % BUCKETS


def versions(membership: Membership, held: ORSet, members: Iterable[Member], now: float) -> list[Version]:
    """Where this replica stands with some members."""
    return [
        Version(member.name, *held.at(member.name), member.life, member.status)
        for member in members
        if member is membership.me or membership.told(member.name, now)
    ]


def difference(
    membership: Membership,
    held: ORSet,
    members: Iterable[Member],
    theirs: Iterable[Version],
    *,
    accuser: Callable[[Member], str],
    now: float,
) -> tuple[list[Claim], list[Standing], bool]:
    """Of all `members` in some buckets, and what another replica tells of those in them: the records that it lacks;
    where it stands with the owners of whose content it lacks some; and whether it has anything that this one lacks."""
    claims: list[Claim] = []
    have: list[Standing] = []
    behind = False
    told = {version.owner: version for version in theirs}
    for member in members:
        name = member.name
        their = told.pop(name, None)
        if their is None:
            if member.status < Status.DOWN:
                claims.append(Claim(member, accuser(member)))
                if held.at(name) > (BOTTOM, 0):
                    have.append((name, BOTTOM, 0))
            continue
        rank, their_rank = (member.life, member.status), (their.life, their.status)
        if rank > their_rank and (name not in membership.gone or membership.told(name, now)):
            claims.append(Claim(member, accuser(member)))
        behind |= rank < their_rank
        if member.status < Status.DOWN:
            mine = held.at(name)
            if (their.epoch, their.version) < mine:
                have.append((name, their.epoch, their.version))
            behind |= (their.epoch, their.version) > mine and name != membership.me.name
    behind |= any(their.status < Status.DOWN for their in told.values())
    return claims, have, behind


def small_answer(held: ORSet, have: Iterable[Standing]) -> Deltas | None:
    """What one who stands there misses of these owners, if it is little enough for one message."""
    deltas: list[Delta] = []
    size = 0
    for owner, epoch, after in {entry[0]: entry for entry in have}.values():
        cell = held.cells.get(owner)
        if cell is not None and len(cell.sequences) > (ANSWER_ELEMENTS_MAX if after == 0 else ANSWER_NUMBERS_MAX):
            return None
        delta = held.diff(owner, epoch, after)
        if delta is not None:
            deltas.append(delta)
            size += content_bytes(delta)
            if size > ANSWER_BYTES_MAX or len(deltas) > DELTAS_PER_MESSAGE_MAX:
                return None
    return Deltas(tuple(deltas))


def _numbers(epoch: Epoch) -> tuple[int, int]:
    return (epoch.counter, epoch.nonce)
