"""What the mirror puts into the gossiped set, and what it reads out of it.

Two kinds of element, as bytes that are opaque to gossip:

- *content*: `<algorithm><digest>`. This node can serve the object.
- *tag*: `T<at><algorithm><digest><registry>/<name>:<tag>`, with `at` in seconds of Unix time (8 bytes, big-endian).
  This node learned then that the tag means the digest: last-known knowledge, never an authority on freshness. The
  tags of one name form a *group*, through which they are found; the latest counts. (Clocks of nodes differ; a
  registry that answers is always asked first.)

`<algorithm>` is one byte, the digest its raw bytes, so a content element is 33 bytes for sha256.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from mirror.choice import Holder
from mirror.oci import Digest
from mirror.peer_mac import Target
from mirror.stores import ContentAdded, ContentRemoved, TagSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from gossip import Member, Node
    from mirror.oci import Repository, Tag
    from mirror.stores import Store, StoreEvent

log = logging.getLogger(__name__)

PEER_PORT: Final = "peer_port"
"""The attribute of a member's record that tells the port of its peer face."""

_ALGORITHMS: Final = {"sha256": b"\x01", "sha512": b"\x02"}
_LENGTHS: Final = {1: ("sha256", 32), 2: ("sha512", 64)}
_TAG: Final = b"T"
_AT_BYTES: Final = 8


def content_key(digest: Digest) -> bytes:
    """The element that says that its owner has the object."""
    return _ALGORITHMS[digest.algorithm] + bytes.fromhex(digest.hex)


def tag_group(repository: Repository, tag: Tag) -> bytes:
    """The group of all elements about one tag."""
    return f"{repository}:{tag}".encode()


def tag_key(repository: Repository, tag: Tag, digest: Digest, at: int) -> bytes:
    """The element that says that its owner saw the tag mean the digest."""
    return _TAG + at.to_bytes(_AT_BYTES, "big") + content_key(digest) + tag_group(repository, tag)


def read_tag_key(key: bytes) -> tuple[int, Digest, bytes] | None:
    """When, which digest and which group; None for an element that is no tag. (Any member can send anything.)"""
    if key[:1] != _TAG or len(key) < 2 + _AT_BYTES:
        return None
    algorithm, length = _LENGTHS.get(key[1 + _AT_BYTES], ("", 0))
    start = 2 + _AT_BYTES
    raw, group = key[start : start + length], key[start + length :]
    if not length or len(raw) != length or not group:
        return None
    return int.from_bytes(key[1 : 1 + _AT_BYTES], "big"), Digest(algorithm, raw.hex()), group


def group_of(key: bytes) -> bytes | None:
    """Tells gossip's index which elements to find by name."""
    tag = read_tag_key(key)
    return tag[2] if tag else None


class Cluster:
    """The replicated index, in the mirror's terms."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tags: dict[tuple[Repository, Tag], bytes] = {}
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
        """What the tag was last seen to mean, by this node or another."""
        known = (read_tag_key(key) for key in self._node.keys_in_group(tag_group(repository, tag)))
        latest = max((entry for entry in known if entry), default=None)
        return latest[1] if latest else None

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
                key = tag_key(repository, tag, digest, at)
                self._tags[repository, tag] = key
                self._node.add(key)
            case _:
                self._forget_tag(event.repository, event.tag)

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
