"""The bytes that the mirror puts into the gossiped set, and what any member may put there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirror.elements import SWITCH_GROUP, SwitchElement, TagElement, Word, content_key, group_of, tag_group
from mirror.oci import Digest, Repository, Tag

REPOSITORY = Repository("registry.test:5000", "lib/app")
TAG = Tag("v1")
OLD, NEW = Digest.of(b"old"), Digest.of(b"new", "sha512")


@given(st.binary(max_size=120), st.sampled_from([b"", b"T", b"V", b"I", b"K"]))
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


@given(st.integers(0, 2**63), st.booleans())
def test_a_switch_written_is_the_switch_read(at: int, mirroring: bool) -> None:
    element = SwitchElement(at, mirroring)
    assert SwitchElement.parse(element.key) == element
    assert group_of(element.key) == SWITCH_GROUP
    assert TagElement.parse(element.key) is None
