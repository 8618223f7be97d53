"""What the mirror puts into the gossiped set, and what it reads out of it.

Two kinds of element, as bytes that are opaque to gossip:

- *content*: `<algorithm><digest>`. This node can serve the object.
- *tag*: `<word><at><algorithm><digest><registry>/<name>:<tag>`, with `at` in seconds of Unix time (8 bytes,
  big-endian). The elements of one name form a *group*, through which they are found. There are three words:
  `T`, this node's store has the object under this name since then, whoever gave it the name (a runtime also dates
  what it pulled long ago, imported or named itself); `V`, this node *verified* the name then: it asked the registry;
  `I`, what was verified until then is no longer to be believed (without a digest).

`<algorithm>` is one byte, the digest its raw bytes, so a content element is 33 bytes for sha256.

What is known of a tag is `Known`: whether it is fresh, verified elements alone say; a node whose runtime holds an old
image cannot make it stale. When the registry is away the last verified meaning counts, and only without one what
stores have. Verified elements count for a day, so that one that nobody renewed does not outlive what stores know.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from mirror.choice import Holder
from mirror.herd.roster import Place, Roster
from mirror.oci import Digest
from mirror.peer_mac import Target
from mirror.stores import ContentAdded, ContentRemoved, TagSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from gossip import Member, Node
    from mirror.oci import Repository, Tag
    from mirror.stores import Store, StoreEvent

log = logging.getLogger(__name__)

ROSTER_S: Final = 0.5
"""How old the list of members may be by which coordinators are found; making it takes some milliseconds when there are
thousands."""

PEER_PORT: Final = "peer_port"
"""The attribute of a member's record that tells the port of its peer face."""

_ALGORITHMS: Final = {"sha256": b"\x01", "sha512": b"\x02"}
_LENGTHS: Final = {1: ("sha256", 32), 2: ("sha512", 64)}
_STORED: Final = b"T"
_VERIFIED: Final = b"V"
_INVALIDATED: Final = b"I"
_AT_BYTES: Final = 8

VERIFIED_S_MAX: Final = 24 * 3600
"""How long a verified tag counts for anything, and how long an invalidation is kept."""
TIDY_INTERVAL_S: Final = 30.0
SKEW_S_MAX: Final = 60
"""What lies further in the future is not believed: the clock of whoever wrote it is wrong."""
VERIFIED_MAX: Final = 4096
"""Verified tags and invalidations of this node; the oldest go first."""


def content_key(digest: Digest) -> bytes:
    """The element that says that its owner has the object."""
    return _ALGORITHMS[digest.algorithm] + bytes.fromhex(digest.hex)


def tag_group(repository: Repository, tag: Tag) -> bytes:
    """The group of all elements about one tag."""
    return f"{repository}:{tag}".encode()


class Word(Enum):
    """What an element says of a tag; see above."""

    STORED = _STORED
    VERIFIED = _VERIFIED
    INVALIDATED = _INVALIDATED


@dataclass(frozen=True, slots=True)
class TagElement:
    """One element about a tag; `digest` is None just for an invalidation."""

    word: Word
    at: int
    digest: Digest | None
    group: bytes

    @property
    def key(self) -> bytes:
        """The element's bytes."""
        digest = content_key(self.digest) if self.digest else b""
        return self.word.value + self.at.to_bytes(_AT_BYTES, "big") + digest + self.group

    @classmethod
    def parse(cls, key: bytes) -> TagElement | None:
        """Read an element; None for one that is no tag. (Any member can send anything.)"""
        word = _WORDS.get(key[:1])
        if word is None or len(key) < 2 + _AT_BYTES:
            return None
        at, rest = int.from_bytes(key[1 : 1 + _AT_BYTES], "big"), key[1 + _AT_BYTES :]
        if word is Word.INVALIDATED:
            return cls(word, at, None, rest)
        algorithm, length = _LENGTHS.get(rest[0], ("", 0))
        raw, group = rest[1 : 1 + length], rest[1 + length :]
        if not length or len(raw) != length or not group:
            return None
        return cls(word, at, Digest(algorithm, raw.hex()), group)


_WORDS: Final = {word.value: word for word in Word}


@dataclass(frozen=True, slots=True)
class Known:
    """What the cluster knows of a tag: when it was last verified, to mean which digest; what stores last had."""

    verified: Digest | None = None
    verified_at: int = 0
    stored: Digest | None = None
    invalidated_at: int = 0

    @property
    def last(self) -> Digest | None:
        """The last that it was known to mean."""
        return self.verified or self.stored

    def fresh(self, now: float, ttl_s: float) -> Digest | None:
        """What it means, if that was verified less than `ttl_s` ago and not invalidated since."""
        is_fresh = now - ttl_s < self.verified_at <= now + SKEW_S_MAX and self.verified_at > self.invalidated_at
        return self.verified if is_fresh else None


def group_of(key: bytes) -> bytes | None:
    """Tells gossip's index which elements to find by name."""
    element = TagElement.parse(key)
    return element.group if element else None


class Cluster:
    """The replicated index, in the mirror's terms."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._roster: Roster | None = None
        self._roster_at = 0.0
        self._tags: dict[tuple[Repository, Tag], bytes] = {}
        self._said: dict[tuple[Word, bytes], TagElement] = {}  # the oldest comes first
        self.listed = asyncio.Event()
        """Set once the store has said what it has."""

    def me(self) -> Target:
        """Who this node is to its peers now."""
        return _target(self._node.me)

    def holders(self, digest: Digest) -> list[Holder]:
        """The visible members that have the object, this node excluded."""
        members = self._node.holders(content_key(digest))
        holders = (_holder(member, suspect=self._node.ranked_last(member.name)) for member in members)
        return [holder for holder in holders if holder is not None]

    def known(self, repository: Repository, tag: Tag, now: float) -> Known:
        """What this node and the others know of a tag."""
        return self._known(tag_group(repository, tag), now)

    def last_known(self, repository: Repository, tag: Tag) -> Digest | None:
        """The last that a tag was known to mean, however long ago."""
        return self.known(repository, tag, time.time()).last

    def verified(self, repository: Repository, tag: Tag, digest: Digest, now: float, old_s: float) -> None:
        """The registry said just now what a tag means: let all nodes know, unless one said so less than `old_s` ago.

        Each element costs all nodes a message and some memory, so what another node said is enough.
        """
        group = tag_group(repository, tag)
        if self.known(repository, tag, now).fresh(now, old_s) != digest:
            self._say(TagElement(Word.VERIFIED, int(now), digest, group))

    def invalidate(self, repository: Repository, tag: Tag, now: float) -> None:
        """Let no node believe any more what was verified of a tag until now, be it by a clock that is ahead."""
        at = max(int(now), self.known(repository, tag, now).verified_at)
        self._say(TagElement(Word.INVALIDATED, at, None, tag_group(repository, tag)))

    async def advertise(self, store: Store, *listeners: Callable[[StoreEvent], None]) -> None:
        """Keep this node's elements equal to what its store can serve, for as long as the agent runs.

        The listeners are told of each change as well: a store has one watcher.
        """
        async with aclosing(store.watch()) as batches:
            async for events in batches:
                for event in events:
                    self._apply(event)
                    for listener in listeners:
                        listener(event)
                self.listed.set()

    def _apply(self, event: StoreEvent) -> None:
        match event:
            case ContentAdded(digest):
                self._node.add(content_key(digest))
            case ContentRemoved(digest):
                self._node.remove(content_key(digest))
            case TagSet(repository, tag, digest, at):
                self._forget_tag(repository, tag)
                key = TagElement(Word.STORED, at, digest, tag_group(repository, tag)).key
                self._tags[repository, tag] = key
                self._node.add(key)
            case _:
                self._forget_tag(event.repository, event.tag)

    async def keep_tidy(self) -> None:
        """Withdraw what this node said of tags and is of no use any more, for as long as the agent runs."""
        while True:
            await asyncio.sleep(TIDY_INTERVAL_S)
            self.tidy(time.time())

    def tidy(self, now: float) -> None:
        """Withdraw what is a day old, and what another node knows better.

        Were an outdated meaning left, it would be the last known when the one that knows better goes away.
        """
        for element in list(self._said.values()):
            latest = self._known(element.group, now)
            outdated = element.word is Word.VERIFIED and latest.verified != element.digest
            if outdated or element.at <= now - VERIFIED_S_MAX:
                self._unsay(element)

    def _known(self, group: bytes, now: float) -> Known:
        latest: dict[Word, tuple[int, Digest | None]] = {}
        for key in self._node.keys_in_group(group):
            element = TagElement.parse(key)
            if element is None:
                continue
            if element.word is not Word.STORED and not now - VERIFIED_S_MAX < element.at <= now + SKEW_S_MAX:
                continue
            latest[element.word] = max(latest.get(element.word, (-1, None)), (element.at, element.digest))
        verified_at, verified = latest.get(Word.VERIFIED, (0, None))
        return Known(
            verified,
            verified_at,
            latest.get(Word.STORED, (0, None))[1],
            latest.get(Word.INVALIDATED, (0, None))[0],
        )

    def member(self, name: str) -> Holder | None:
        """How to reach a visible member."""
        member = self._node.member(name)
        return _holder(member, suspect=self._node.ranked_last(name)) if member else None

    def alive(self, name: str) -> bool:
        """Whether this is a member, this node included, that is not thought to be gone."""
        return name == self._node.me.name or (self._node.member(name) is not None and not self._node.ranked_last(name))

    def roster(self) -> Roster:
        """The live members, as of some moment ago."""
        now = self._clock()
        if self._roster is None or now - self._roster_at > ROSTER_S:
            me = self._node.me
            live = [each for each in self._node.members() if not self._node.ranked_last(each.name)]
            self._roster = Roster(Place(me.name, me.zone), [Place(each.name, each.zone) for each in live])
            self._roster_at = now
        return self._roster

    def _say(self, element: TagElement) -> None:
        if before := self._said.get((element.word, element.group)):
            self._unsay(before)
        self._said[element.word, element.group] = element
        self._node.add(element.key)
        if len(self._said) > VERIFIED_MAX:
            self._unsay(next(iter(self._said.values())))

    def _unsay(self, element: TagElement) -> None:
        del self._said[element.word, element.group]
        self._node.remove(element.key)

    def _forget_tag(self, repository: Repository, tag: Tag) -> None:
        if key := self._tags.pop((repository, tag), None):
            self._node.remove(key)


def _target(member: Member) -> Target:
    return Target(member.name, f"{member.epoch.counter}.{member.epoch.nonce}")


def _holder(member: Member, *, suspect: bool) -> Holder | None:
    port = member.attributes.get(PEER_PORT, "")
    if not (port.isascii() and port.isdecimal()):
        log.warning("member %s names no peer port", member.name)
        return None
    host = f"[{member.address}]" if ":" in member.address else member.address
    return Holder(_target(member), f"http://{host}:{port}", member.zone, suspect=suspect)
