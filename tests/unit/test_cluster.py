"""What the mirror says to the cluster, and what it makes of what others say."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip import Member
from gossip.or_set import Epoch
from mirror import cluster as cluster_module
from mirror.cluster import VERIFIED_S_MAX, Cluster, Known, TagElement, Word, content_key, group_of, tag_group
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


def verified(digest: Digest, at: int) -> bytes:
    return TagElement(Word.VERIFIED, at, digest, tag_group(REPOSITORY, TAG)).key


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


NOW = 1_000_000


def test_verified_and_stored_meanings_are_told_apart_and_the_latest_of_each_counts(node: FakeNode) -> None:
    node.keys = {verified(OLD, NOW - 50), verified(NEW, NOW - 10), stored(OLD, NOW - 1), stored(NEW, NOW - 2)}
    known = cluster(node).known(REPOSITORY, TAG, NOW)
    assert known == Known(NEW, NOW - 10, OLD)
    assert known.last == NEW, "a store that dated its old image anew does not make the cluster stale"
    assert known.fresh(NOW, 11) == NEW
    assert known.fresh(NOW, 10) is None


@pytest.mark.parametrize("at", [NOW - VERIFIED_S_MAX, NOW + 3600])
def test_what_was_verified_long_ago_or_by_a_wrong_clock_counts_for_nothing(node: FakeNode, at: int) -> None:
    node.keys = {verified(NEW, at), stored(OLD, 5)}
    assert cluster(node).known(REPOSITORY, TAG, NOW).last == OLD


def test_what_any_node_said_lately_is_not_said_again(node: FakeNode) -> None:
    this = cluster(node)
    node.keys = {verified(OLD, NOW - 5)}
    this.verified(REPOSITORY, TAG, OLD, NOW, 60)
    assert node.keys == {verified(OLD, NOW - 5)}
    this.verified(REPOSITORY, TAG, OLD, NOW + 60, 60)
    assert node.keys == {verified(OLD, NOW - 5), verified(OLD, NOW + 60)}
    this.verified(REPOSITORY, TAG, NEW, NOW + 61, 60)
    assert node.keys == {verified(OLD, NOW - 5), verified(NEW, NOW + 61)}, "of itself, a node keeps the last word"


def test_a_meaning_that_another_node_knows_better_is_withdrawn(node: FakeNode) -> None:
    this = cluster(node)
    this.verified(REPOSITORY, TAG, OLD, NOW, 60)
    this.tidy(NOW + 1)
    assert node.keys == {verified(OLD, NOW)}
    node.keys.add(verified(NEW, NOW + 2))
    node.keys.add(stored(NEW, NOW + 3))
    this.tidy(NOW + 4)
    node.keys.discard(verified(NEW, NOW + 2))  # that node goes away
    assert this.known(REPOSITORY, TAG, NOW + 5).last == NEW


def test_an_invalidation_outranks_a_clock_that_is_ahead_until_the_registry_is_asked(node: FakeNode) -> None:
    node.keys = {verified(OLD, NOW + 30)}
    this = cluster(node)
    this.invalidate(REPOSITORY, TAG, NOW)
    assert this.known(REPOSITORY, TAG, NOW).fresh(NOW, 300) is None
    this.verified(REPOSITORY, TAG, NEW, NOW + 31, 60)
    assert this.known(REPOSITORY, TAG, NOW + 31).fresh(NOW + 31, 300) == NEW


def test_verifying_after_an_invalidation_is_told_at_once(node: FakeNode) -> None:
    this = cluster(node)
    this.verified(REPOSITORY, TAG, OLD, NOW, 60)
    this.invalidate(REPOSITORY, TAG, NOW + 1)
    this.verified(REPOSITORY, TAG, OLD, NOW + 2, 60)
    assert this.known(REPOSITORY, TAG, NOW + 2).fresh(NOW + 2, 300) == OLD


def test_what_a_node_says_is_bounded_and_goes_after_a_day(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "VERIFIED_MAX", 3)
    this = cluster(node)
    for number in range(5):
        this.verified(REPOSITORY, Tag(f"v{number}"), OLD, NOW + number, 60)
    assert len(node.keys) == 3
    this.tidy(NOW + VERIFIED_S_MAX + 10)
    assert node.keys == set()


@given(st.binary(max_size=120), st.sampled_from([b"", b"T", b"V", b"I"]))
def test_any_element_of_any_member_can_be_read(key: bytes, word: bytes) -> None:
    group_of(word + key)


@given(st.integers(0, 2**63), st.sampled_from([OLD, NEW]), st.sampled_from(Word))
def test_a_tag_written_is_the_tag_read(at: int, digest: Digest, word: Word) -> None:
    element = TagElement(word, at, None if word is Word.INVALIDATED else digest, tag_group(REPOSITORY, TAG))
    assert TagElement.parse(element.key) == element
    assert group_of(element.key) == b"registry.test:5000/lib/app:v1"


def test_content_is_no_tag() -> None:
    assert group_of(content_key(OLD)) is None
    assert len(content_key(OLD)) == 33
