"""What nodes tell each other of tags and of the switch, and what each makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mirror import hearsay as hearsay_module
from mirror.elements import Known, SwitchElement, TagElement, Word, group_of, tag_group
from mirror.hearsay import VERIFIED_S_MAX, Hearsay
from mirror.oci import Digest, Repository, Tag

REPOSITORY = Repository("registry.test:5000", "lib/app")
TAG = Tag("v1")
OLD, NEW = Digest.of(b"old"), Digest.of(b"new", "sha512")
NOW = 1_000_000


@dataclass
class FakeNode:
    """A gossip node that is all of the cluster."""

    keys: set[bytes] = field(default_factory=set)

    def add(self, key: bytes) -> None:
        self.keys.add(key)

    def remove(self, key: bytes) -> None:
        self.keys.discard(key)

    def keys_in_group(self, group: bytes) -> list[bytes]:
        return sorted(key for key in self.keys if group_of(key) == group)

    def groups(self) -> list[bytes]:
        return list({group for key in self.keys if (group := group_of(key))})


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


def hearsay(node: FakeNode) -> Hearsay:
    return Hearsay(node)  # type: ignore[arg-type]


def stored(digest: Digest, at: int) -> bytes:
    return TagElement(Word.STORED, at, digest, tag_group(REPOSITORY, TAG)).key


def verified(digest: Digest, at: int) -> bytes:
    return TagElement(Word.VERIFIED, at, digest, tag_group(REPOSITORY, TAG)).key


def test_verified_and_stored_meanings_are_told_apart_and_the_latest_of_each_counts(node: FakeNode) -> None:
    node.keys = {verified(OLD, NOW - 50), verified(NEW, NOW - 10), stored(OLD, NOW - 1), stored(NEW, NOW - 2)}
    known = hearsay(node).known(REPOSITORY, TAG, NOW)
    assert known == Known(NEW, NOW - 10, OLD)
    assert known.last == NEW, "a store that dated its old image anew does not make the cluster stale"
    assert known.fresh(NOW, 11) == NEW
    assert known.fresh(NOW, 10) is None


@pytest.mark.parametrize("at", [NOW - VERIFIED_S_MAX, NOW + 3600])
def test_what_was_verified_long_ago_or_by_a_wrong_clock_counts_for_nothing(node: FakeNode, at: int) -> None:
    node.keys = {verified(NEW, at), stored(OLD, 5)}
    assert hearsay(node).known(REPOSITORY, TAG, NOW).last == OLD


def test_what_any_node_said_lately_is_not_said_again(node: FakeNode) -> None:
    this = hearsay(node)
    node.keys = {verified(OLD, NOW - 5)}
    this.verified(REPOSITORY, TAG, OLD, NOW, 60)
    assert node.keys == {verified(OLD, NOW - 5)}
    this.verified(REPOSITORY, TAG, OLD, NOW + 60, 60)
    assert node.keys == {verified(OLD, NOW - 5), verified(OLD, NOW + 60)}
    this.verified(REPOSITORY, TAG, NEW, NOW + 61, 60)
    assert node.keys == {verified(OLD, NOW - 5), verified(NEW, NOW + 61)}, "of itself, a node keeps the last word"


def test_an_older_meaning_that_comes_late_does_not_take_the_place_of_a_newer_one(node: FakeNode) -> None:
    this = hearsay(node)
    this.verified(REPOSITORY, TAG, NEW, NOW + 0.4, 60)
    this.verified(REPOSITORY, TAG, OLD, NOW - 0.1, 60)
    assert node.keys == {verified(NEW, NOW)}


def test_a_meaning_that_another_node_knows_better_is_withdrawn(node: FakeNode) -> None:
    this = hearsay(node)
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
    this = hearsay(node)
    this.invalidate(REPOSITORY, TAG, NOW)
    assert this.known(REPOSITORY, TAG, NOW).fresh(NOW, 300) is None
    this.verified(REPOSITORY, TAG, NEW, NOW + 31, 60)
    assert this.known(REPOSITORY, TAG, NOW + 31).fresh(NOW + 31, 300) == NEW


def test_verifying_after_an_invalidation_is_told_at_once(node: FakeNode) -> None:
    this = hearsay(node)
    this.verified(REPOSITORY, TAG, OLD, NOW, 60)
    this.invalidate(REPOSITORY, TAG, NOW + 1)
    this.verified(REPOSITORY, TAG, OLD, NOW + 2, 60)
    assert this.known(REPOSITORY, TAG, NOW + 2).fresh(NOW + 2, 300) == OLD


def test_what_a_node_says_is_bounded_and_goes_after_a_day(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearsay_module, "VERIFIED_MAX", 3)
    this = hearsay(node)
    for number in range(5):
        this.verified(REPOSITORY, Tag(f"v{number}"), OLD, NOW + number, 60)
    assert len(node.keys) == 3
    this.tidy(NOW + VERIFIED_S_MAX + 10)
    assert node.keys == set()


def is_on(each: Hearsay) -> bool:
    return each.mirroring


def test_the_switch_of_all_nodes_is_taken_up_by_each_and_outlives_the_one_that_threw_it(node: FakeNode) -> None:
    one, other = hearsay(node), hearsay(node)
    assert is_on(one)
    one.switch(on=False, now=NOW)
    assert not is_on(other)
    one.tidy(NOW + 1)
    other.tidy(NOW + 1)
    assert node.keys == {SwitchElement(NOW, mirroring=False).key}, "however many say it, it is one element"
    one.switch(on=True, now=NOW - 30)
    assert is_on(other), "the last throw counts, also by a clock that is behind"
    node.keys.discard(SwitchElement(NOW, mirroring=False).key)
    other.tidy(NOW + 2)
    assert node.keys == {SwitchElement(NOW + 1, mirroring=True).key}


def test_the_tags_of_a_repository_are_those_that_mean_something_to_anybody(node: FakeNode) -> None:
    def stored_as(name: str) -> bytes:
        return TagElement(Word.STORED, NOW, OLD, name.encode()).key

    node.keys = {
        verified(NEW, NOW - 10),
        stored(OLD, NOW),
        stored_as(f"{REPOSITORY}:v2"),
        stored_as(f"{REPOSITORY}:not a tag"),
        stored_as(f"{REPOSITORY}er:v3"),
        stored_as("registry.test/lib/app:v4"),
        TagElement(Word.INVALIDATED, NOW, None, f"{REPOSITORY}:v5".encode()).key,
        TagElement(Word.VERIFIED, NOW - VERIFIED_S_MAX - 1, OLD, f"{REPOSITORY}:v6".encode()).key,
    }
    assert sorted(tag.name for tag in hearsay(node).tags(REPOSITORY, NOW)) == ["v1", "v2"]
