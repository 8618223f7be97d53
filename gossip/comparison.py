"""Comparing the whole state of two replicas (anti-entropy): hashes first, then numbers, then what one lacks.

Each live member has one hash, over its name, its record's rank, and the version that is held of its set. The exclusive
or of those in a bucket is the bucket's hash, that of all is the fingerprint. So a fingerprint costs what changed since
the last one, and two replicas that differ in a few members find them by 16 bytes, 2 KB, and some 60 bytes for each
member in a bucket that differs. Members that are gone have no hash, and no content is compared of them: replicas
forget them at different times. Who holds one for live is told by who knows better.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Final

from gossip.membership import Claim, Status
from gossip.messages import BUCKET_BYTES, BUCKETS, DELTAS_PER_MESSAGE_MAX, FINGERPRINT_BYTES, Deltas, Version
from gossip.or_set import BOTTOM
from gossip.payload import content_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gossip.membership import Member, Membership
    from gossip.messages import Standing, Versions
    from gossip.or_set import Delta, Epoch, ORSet

_BUCKET_MASK: Final = 2 ** (8 * BUCKET_BYTES) - 1
ANSWER_BYTES_MAX: Final = 64 * 1024
ANSWER_ELEMENTS_MAX: Final = 2048
"""What a `Pull` is answered with at once; what is more goes in parts."""


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

    def touch(self, name: str) -> None:
        """Something changed about this member."""
        self._touched[name] = None

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

    def check(self) -> None:
        """Assert that the hashes are those of the state."""
        fresh = StateHash(self._membership, self._held)
        for name in self._membership.others:
            fresh.touch(name)
        assert fresh.fingerprint() == self.fingerprint()

    def _update(self) -> None:
        for name in self._touched:
            before, after = self._hashes.pop(name, 0), self._hash(name)
            if after:
                self._hashes[name] = after
            self._buckets[bucket_of(name)] ^= before ^ after
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


def bucket_of(name: str) -> int:
    """The bucket of a member."""
    return zlib.crc32(name.encode()) % BUCKETS


def versions(membership: Membership, held: ORSet, buckets: Iterable[int], now: float) -> list[Version]:
    """Where this replica stands with the members in some buckets, those that are gone among them."""
    wanted = frozenset(buckets)
    members = [membership.me, *(other.member for other in membership.others.values())]
    return [
        Version(member.name, *held.at(member.name), member.life, member.status)
        for member in members
        if bucket_of(member.name) in wanted and (member is membership.me or membership.told(member.name, now))
    ]


def difference(
    membership: Membership, held: ORSet, theirs: Versions, accuser: Callable[[Member], str], now: float
) -> tuple[list[Claim], list[Standing], bool]:
    """The records that the other lacks; where it stands with the owners of whose content it lacks some; and whether it
    has anything that this replica lacks."""
    claims: list[Claim] = []
    have: list[Standing] = []
    behind = False
    told = {version.owner: version for version in theirs.versions}
    wanted = frozenset(theirs.buckets)
    members = [membership.me, *(other.member for other in membership.others.values())]
    for member in members:
        name = member.name
        their = told.pop(name, None)
        if their is None:
            if bucket_of(name) in wanted and member.status < Status.DOWN:
                claims.append(Claim(member, accuser(member)))
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
    return claims, [entry for entry in have if entry[1:] < held.at(entry[0])], behind


def small_answer(held: ORSet, have: Iterable[Standing]) -> Deltas | None:
    """What one who stands there misses of these owners, if it is little enough for one message."""
    deltas: list[Delta] = []
    size = 0
    for owner, epoch, after in {entry[0]: entry for entry in have}.values():
        cell = held.cells.get(owner)
        if cell is not None and len(cell.sequences) > (ANSWER_ELEMENTS_MAX if after == 0 else ANSWER_BYTES_MAX // 2):
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
