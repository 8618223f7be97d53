"""The replicated index, in the mirror's terms: who holds what, and who is there.

What this node's store has is put into the gossiped set as it comes and goes (`mirror.elements` says in which bytes).
What the nodes tell each other besides is in `mirror.hearsay`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from mirror.choice import Holder
from mirror.elements import TagElement, Word, content_key, tag_group
from mirror.hearsay import Hearsay
from mirror.herd.roster import Place, Roster
from mirror.peer_mac import Target
from mirror.stores import ContentAdded, ContentRemoved, TagSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from gossip import Member, Node
    from mirror.oci import Digest, Repository, Tag
    from mirror.stores import Store, StoreEvent

log = logging.getLogger(__name__)

ROSTER_S: Final = 0.5
"""How old the list of members may be by which coordinators are found; making it takes some milliseconds when there are
thousands."""

PEER_PORT: Final = "peer_port"
"""The attribute of a member's record that tells the port of its peer face."""
PEER_TLS: Final = "peer_tls"
"""The attribute that tells that its peer face speaks TLS."""


class Cluster:
    """The replicated index, in the mirror's terms."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._roster: Roster | None = None
        self._roster_at = 0.0
        self._tags: dict[tuple[Repository, Tag], bytes] = {}
        self.hearsay = Hearsay(node)
        """What nodes tell each other of tags."""
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

    def last_known(self, repository: Repository, tag: Tag) -> Digest | None:
        """The last that a tag was known to mean, however long ago."""
        return self.hearsay.known(repository, tag, time.time()).last

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

    def member(self, name: str) -> Holder | None:
        """How to reach a visible member."""
        member = self._node.member(name)
        return _holder(member, suspect=self._node.ranked_last(name)) if member else None

    def near(self, name: str) -> bool:
        """Whether a member is in this node's zone; one that is not known is not far."""
        member = self._node.member(name)
        return member is None or member.zone == self._node.me.zone

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

    def _forget_tag(self, repository: Repository, tag: Tag) -> None:
        if key := self._tags.pop((repository, tag), None):
            self._node.remove(key)


def _target(member: Member) -> Target:
    return Target(member.name, f"{member.epoch.counter}.{member.epoch.nonce}")


def _holder(member: Member, *, suspect: bool) -> Holder | None:
    port = member.attributes.get(PEER_PORT, "")
    if not (port.isascii() and port.isdecimal()):
        log.warning("member %s names no peer port, so it is not asked for content: is it an agent?", member.name)
        return None
    host = f"[{member.address}]" if ":" in member.address else member.address
    scheme = "https" if member.attributes.get(PEER_TLS) else "http"
    return Holder(_target(member), f"{scheme}://{host}:{port}", member.zone, suspect=suspect)
