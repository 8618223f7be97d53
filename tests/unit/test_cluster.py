"""What the mirror says to the cluster, and what it makes of what others say."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gossip import Member
from gossip.or_set import Epoch
from mirror.cluster import Cluster
from mirror.elements import TagElement, Word, content_key, group_of, tag_group
from mirror.oci import Digest, Repository, Tag
from mirror.stores import ContentAdded, ContentRemoved, StoreEvent, TagRemoved, TagSet

REPOSITORY = Repository("registry.test:5000", "lib/app")
TAG = Tag("v1")
OLD, NEW = Digest.of(b"old"), Digest.of(b"new", "sha512")


@dataclass
class FakeNode:
    """A gossip node that is all of the cluster."""

    keys: set[bytes] = field(default_factory=set)
    others: list[Member] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    me: Member = field(default_factory=lambda: member("me"))

    def add(self, key: bytes) -> None:
        self.keys.add(key)

    def remove(self, key: bytes) -> None:
        self.keys.discard(key)

    def holders(self, key: bytes) -> list[Member]:
        return self.others if key in self.keys else []

    def ranked_last(self, name: str) -> bool:
        return name in self.silent

    def keys_in_group(self, group: bytes) -> list[bytes]:
        return sorted(key for key in self.keys if group_of(key) == group)


def member(name: str, address: str = "10.0.0.1", **attributes: str) -> Member:
    return Member(name, Epoch(3, 14), address, 1, 2, "zone-a", attributes)


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


def stored(digest: Digest, at: int) -> bytes:
    return TagElement(Word.STORED, at, digest, tag_group(REPOSITORY, TAG)).key


def cluster(node: FakeNode) -> Cluster:
    return Cluster(node)  # type: ignore[arg-type]


class OneListing:
    """A store that tells some events, and then nothing more."""

    def __init__(self, *events: StoreEvent) -> None:
        self._events = list(events)

    async def watch(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        yield self._events


async def test_the_elements_are_what_the_store_can_serve(node: FakeNode) -> None:
    events = (ContentAdded(OLD), ContentAdded(NEW), ContentRemoved(OLD), TagSet(REPOSITORY, TAG, NEW, 5))
    await cluster(node).advertise(OneListing(*events))  # type: ignore[arg-type]
    assert node.keys == {content_key(NEW), stored(NEW, 5)}


async def test_a_tag_that_moved_is_one_element(node: FakeNode) -> None:
    both = cluster(node)
    await both.advertise(OneListing(TagSet(REPOSITORY, TAG, OLD, 5), TagSet(REPOSITORY, TAG, NEW, 6)))  # type: ignore[arg-type]
    assert node.keys == {stored(NEW, 6)}
    await both.advertise(OneListing(TagRemoved(REPOSITORY, TAG)))  # type: ignore[arg-type]
    assert node.keys == set()


def test_the_latest_of_what_is_known_of_a_tag_counts(node: FakeNode) -> None:
    for digest, at in ((OLD, 2), (NEW, 10), (OLD, 9)):
        node.keys.add(stored(digest, at))
    node.keys.add(TagElement(Word.STORED, 99, OLD, tag_group(REPOSITORY, Tag("v2"))).key)
    assert cluster(node).last_known(REPOSITORY, TAG) == NEW
    assert cluster(node).last_known(REPOSITORY, Tag("v3")) is None


def test_a_holder_is_reached_at_the_address_and_port_of_its_record(node: FakeNode) -> None:
    node.keys.add(content_key(OLD))
    node.others = [
        member("a", peer_port="29991"),
        member("b", "fd00::1", peer_port="1"),
        member("c"),
        member("d", peer_port="1@evil"),
    ]
    node.silent = {"b"}
    holders = cluster(node).holders(OLD)
    assert [(holder.target.name, holder.url) for holder in holders] == [
        ("a", "http://10.0.0.1:29991"),
        ("b", "http://[fd00::1]:1"),
    ]
    assert [holder.suspect for holder in holders] == [False, True]
    assert holders[0].target.epoch == "3.14"
    assert holders[0].zone == "zone-a"
