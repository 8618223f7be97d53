"""What members of the herd say to each other: everything comes through, and nothing else gets in."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gossip.messages import QUESTION_BYTES_MAX
from mirror.herd.words import (
    NAME_CHARACTERS_MAX,
    NAMES_MAX,
    Claim,
    Closed,
    End,
    Follow,
    Given,
    Lead,
    Noted,
    Probe,
    Question,
    Release,
    Renewal,
    Scope,
    Small,
    Verdict,
    Wait,
    read_question,
    read_verdict,
    write,
)
from mirror.oci import SMALL_BYTES_MAX

names = st.text(max_size=30)
offsets = st.integers(0, 2**63 - 1)
seconds = st.floats(0, 1e8)
scopes = st.sampled_from(Scope)
several = st.lists(names, max_size=5).map(tuple)
smalls = st.builds(Small, names, st.binary(max_size=200), seconds)
questions: st.SearchStrategy[Question] = st.one_of(
    st.builds(Claim, scopes, names, offsets, several, several, st.booleans(), seconds, st.booleans(), seconds, several),
    st.builds(Renewal, scopes, names, offsets),
    st.builds(Release, scopes, names, st.sampled_from(End), seconds, st.none() | smalls, st.booleans()),
)
verdicts: st.SearchStrategy[Verdict] = st.one_of(
    st.builds(Lead, st.booleans()),
    st.builds(Follow, names),
    st.builds(Wait, seconds),
    st.just(Probe()),
    st.builds(Closed, seconds, st.booleans()),
    st.builds(Given, smalls),
    st.just(Noted()),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@given(questions)
def test_every_question_comes_through(question: Question) -> None:
    assert read_question(write(question)) == question


@given(verdicts)
def test_every_verdict_comes_through(verdict: Verdict) -> None:
    assert read_verdict(write(verdict)) == verdict


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    refused_or_read(data)


@given(st.sampled_from(["Claim", "Renewal", "Release", "Lead", "Follow", "Wait", "Given", "Noted", "else"]), anything)
@example("Claim", {})
@example("Given", {"small": None})
def test_documents_of_any_kind_are_read_or_refused(word: str, document: object) -> None:
    refused_or_read(orjson.dumps([word, document]))


@given(questions | verdicts, st.data())
def test_a_message_with_one_value_of_another_kind_is_read_or_refused(
    message: Question | Verdict, data: st.DataObject
) -> None:
    word, values = orjson.loads(write(message))
    if values:
        values[data.draw(st.sampled_from(sorted(values)))] = data.draw(anything)
    refused_or_read(orjson.dumps([word, values]))


def refused_or_read(data: bytes) -> None:
    """What is read is a message again, the same one; anything else is a ValueError."""
    for read in (read_question, read_verdict):
        try:
            message = read(data)
        except ValueError:
            continue
        assert read(write(message)) == message


@pytest.mark.parametrize(
    "document",
    [
        ["Claim", {"scope": "zone", "object": "o", "offset": -1}],
        ["Claim", {"scope": "zone", "object": "o", "offset": 1.5}],
        ["Claim", {"scope": "zone", "object": "o", "offset": True}],
        ["Claim", {"scope": "zone", "object": "o", "offset": 2**63}],
        ["Claim", {"scope": "world", "object": "o"}],
        ["Claim", {"scope": "zone", "object": "o" * (NAME_CHARACTERS_MAX + 1)}],
        ["Claim", {"scope": "zone", "object": "o", "lost": ["n"] * (NAMES_MAX + 1)}],
        ["Claim", {"scope": "zone", "object": "o", "lost": ["n" * (NAME_CHARACTERS_MAX + 1)]}],
        ["Claim", {"scope": "zone", "object": "o", "waited_s": -1.0}],
        ["Claim", {"scope": "zone", "object": "o", "known": 1}],
        ["Claim", {"scope": "zone"}],
        ["Claim", None],
        ["Release", {"scope": "zone", "object": "o", "end": "done", "small": {"media_type": "t", "data": "?"}}],
        ["Lead", {}],
        [["Claim"], {}],
        "Claim",
        {},
    ],
)
def test_a_question_that_is_not_well_formed_is_refused(document: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words differ
        read_question(orjson.dumps(document))


def test_a_verdict_is_no_question_and_a_question_no_verdict() -> None:
    with pytest.raises(ValueError, match="unknown word"):
        read_question(write(Lead()))
    with pytest.raises(ValueError, match="unknown word"):
        read_verdict(write(Renewal(Scope.ZONE, "o", 0)))


def test_a_field_of_a_later_version_is_ignored() -> None:
    document = ["Renewal", {"scope": "zone", "object": "o", "offset": 7, "mood": "fine"}]
    assert read_question(orjson.dumps(document)) == Renewal(Scope.ZONE, "o", 7)


def test_the_largest_small_object_fits_into_a_question_of_gossip() -> None:
    small = Small("application/vnd.oci.image.manifest.v1+json", bytes(SMALL_BYTES_MAX))
    release = Release(Scope.CLUSTER, "registry.test sha256:" + "0" * 64, End.DONE, small=small)
    assert len(write(release)) <= QUESTION_BYTES_MAX
    assert read_question(write(release)) == release
