"""Comparing the whole state of two replicas, and what each then needs (anti-entropy).

First a fingerprint of everything; only when it differs, records and versions of all owners; then the deltas. Pure
functions: they change nothing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from gossip.messages import (
    DELTAS_PER_MESSAGE_MAX,
    FINGERPRINT_BYTES,
    SIGHTINGS_PER_MESSAGE_MAX,
    VERSIONS_PER_MESSAGE_MAX,
    Deltas,
    Heartbeat,
    Members,
    Version,
    Versions,
)
from gossip.or_set import BOTTOM
from gossip.payload import content_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gossip.membership import Membership
    from gossip.or_set import Delta, ORSet

CHUNK_BYTES: Final = 256 * 1024
"""An answer of many deltas goes in messages of about this size; one delta is never divided."""


def fingerprint(membership: Membership, held: ORSet, now: float) -> bytes:
    """A hash of everything that this replica tells others."""
    hasher = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    for sighting in sorted(membership.told(now), key=lambda told: told.member.name):
        member, (epoch, version) = sighting.member, held.at(sighting.member.name)
        numbers = (member.epoch.counter, member.epoch.nonce, member.refutation, int(member.status))
        hasher.update(f"{member.name}{numbers}{epoch.counter},{epoch.nonce},{version};".encode())
    return hasher.digest()


def records(membership: Membership, now: float) -> Iterator[Members]:
    """All records that this replica tells others."""
    told = membership.told(now)
    for start in range(0, len(told), SIGHTINGS_PER_MESSAGE_MAX):
        yield Members(tuple(told[start : start + SIGHTINGS_PER_MESSAGE_MAX]))


def outline(membership: Membership, held: ORSet, now: float) -> Iterator[Versions]:
    """How far this replica has come with each member that it tells others about."""
    versions = [Version(told.member.name, *held.at(told.member.name)) for told in membership.told(now)]
    for start in range(0, len(versions), VERSIONS_PER_MESSAGE_MAX):
        yield Versions(tuple(versions[start : start + VERSIONS_PER_MESSAGE_MAX]))


def difference(membership: Membership, held: ORSet, theirs: Iterable[Version]) -> tuple[list[Version], list[Version]]:
    """Where this replica is behind (what it has), and where the other is (what the other has)."""
    mine_behind: list[Version] = []
    theirs_behind: list[Version] = []
    for their in theirs:
        mine = held.at(their.owner)
        if their.owner == membership.me.name:
            latest = membership.me.epoch
        elif their.owner in membership.others:
            latest = membership.others[their.owner].member.epoch
        else:
            continue
        if (their.epoch, their.version) < mine:
            theirs_behind.append(their)
        elif (their.epoch, their.version) > mine and their.owner != membership.me.name and their.epoch <= latest:
            mine_behind.append(Version(their.owner, *mine))
    return mine_behind, theirs_behind


def push(membership: Membership, held: ORSet, theirs_behind: Iterable[Version]) -> Iterator[Heartbeat | Deltas]:
    """What brings the other up to date.

    Who has this node's set of a former epoch is shown the head first: it may hold the same keys and need none of them.
    """
    me = membership.me
    rest = []
    for their in theirs_behind:
        if their.owner == me.name and their.epoch not in (BOTTOM, me.epoch):
            yield Heartbeat(me, held.head())
        else:
            rest.append(their)
    yield from missing(held, rest)


def missing(held: ORSet, have: Iterable[Version]) -> Iterator[Deltas]:
    """What one who has these versions misses of these owners."""
    chunk: list[Delta] = []
    size = 0
    for owner, version in {version.owner: version for version in have}.items():
        delta = held.diff(owner, version.epoch, version.version)
        if delta is None:
            continue
        if chunk and (size + content_bytes(delta) > CHUNK_BYTES or len(chunk) == DELTAS_PER_MESSAGE_MAX):
            yield Deltas(tuple(chunk))
            chunk, size = [], 0
        chunk.append(delta)
        size += content_bytes(delta)
    if chunk:
        yield Deltas(tuple(chunk))
