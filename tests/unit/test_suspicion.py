"""Who is to blame for wrong bytes, and for how long."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mirror.choice import Holder
from mirror.oci import Digest
from mirror.peer_mac import Target
from mirror.stores import ContentAdded, ContentRemoved
from mirror.suspicion import (
    BLAME_S,
    CASES_MAX,
    COMMIT_S,
    DIGESTS_MAX,
    LISTS_MAX,
    SUSPECT_S,
    Given,
    Suspicion,
    TrustedIndex,
)
from tests.herds import Listed

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
ANN, BOB = (Holder(Target(name, "1.1"), f"http://{name}", "") for name in ("ann", "bob"))


class Scene(Suspicion):
    """With a clock and a runtime that the test sets, and what was counted."""

    def __init__(self) -> None:
        super().__init__(lambda: self.now, lambda: self.answering_since, self)
        self.now = 1000.0
        self.answering_since: float | None = 0.0
        self.counted: list[str] = []

    def suspected(self) -> None:
        self.counted.append("suspected")

    def blamed(self) -> None:
        self.counted.append("blamed")

    def deliver(self, digest: Digest, *givers: str, relays: Sequence[str] = (), verified: bool = False) -> None:
        self.gave(digest, ([*givers], [*relays]), to_end=True, verified=verified)

    def retry(self, digest: Digest) -> bool:
        self.now += COMMIT_S + 1
        return self.doubted(digest, from_start=True)

    def names(self, digest: Digest) -> list[str]:
        return [holder.target.name for holder in self.trusted(digest, [ANN, BOB])]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_nobody_is_suspect_without_a_reason(scene: Scene) -> None:
    assert not scene.doubted(ONE, from_start=True)
    assert scene.names(ONE) == ["ann", "bob"]


def test_a_delivery_that_was_committed_is_above_suspicion(scene: Scene) -> None:
    scene.deliver(ONE, "ann")
    scene.heard(ContentAdded(ONE))
    assert not scene.retry(ONE)
    assert scene.counted == []


def test_a_delivery_that_was_not_committed_makes_its_giver_suspect_for_that_digest(scene: Scene) -> None:
    scene.deliver(ONE, "ann")
    assert not scene.doubted(ONE, from_start=True), "the runtime is given the time to commit"
    assert scene.retry(ONE)
    assert scene.names(ONE) == ["bob"]
    assert scene.names(TWO) == ["ann", "bob"]
    assert scene.counted == ["suspected"]


@pytest.mark.parametrize("answering_since", [None, 1000.1])
def test_a_runtime_that_was_away_says_nothing_of_the_giver(scene: Scene, answering_since: float | None) -> None:
    scene.deliver(ONE, "ann")
    scene.answering_since = answering_since
    assert not scene.retry(ONE)


def test_a_delivery_that_broke_off_says_nothing_of_the_giver(scene: Scene) -> None:
    scene.gave(ONE, (["ann"], []), to_end=False, verified=False)
    assert not scene.retry(ONE)


def test_all_who_gave_a_part_of_it_are_suspect(scene: Scene) -> None:
    scene.gave(ONE, (["ann"], []), to_end=False, verified=False)
    scene.gave(ONE, (["bob"], []), to_end=True, verified=False)
    assert scene.retry(ONE)
    assert scene.names(ONE) == []


def test_a_part_that_is_given_after_the_end_adds_its_giver_and_takes_nothing_back(scene: Scene) -> None:
    scene.gave(ONE, (["ann"], []), to_end=True, verified=False)
    scene.now += COMMIT_S + 1
    scene.gave(ONE, (["bob"], []), to_end=False, verified=False)
    assert not scene.doubted(ONE, from_start=False), "the runtime is given the time to commit"
    assert scene.retry(ONE)
    assert scene.names(ONE) == []


def test_a_delivery_that_begins_anew_has_other_givers(scene: Scene) -> None:
    scene.gave(ONE, (["ann"], []), to_end=False, verified=False)
    assert not scene.retry(ONE)
    scene.deliver(ONE, "bob")
    assert scene.retry(ONE)
    assert scene.names(ONE) == ["ann"]


def test_a_retry_that_is_right_and_committed_puts_the_blame_on_the_suspect(scene: Scene) -> None:
    scene.deliver(ONE, "ann")
    assert scene.retry(ONE)
    scene.deliver(ONE, "bob", verified=True)
    scene.heard(ContentAdded(ONE))
    assert scene.names(ONE) == ["bob"]
    assert scene.counted == ["suspected", "blamed"]
    scene.now += BLAME_S + 1
    assert scene.names(ONE) == ["ann", "bob"]


def test_a_commit_that_is_told_before_the_end_of_the_delivery_counts_as_well(scene: Scene) -> None:
    scene.deliver(ONE, "ann")
    assert scene.retry(ONE)
    scene.heard(ContentAdded(ONE))
    scene.deliver(ONE, "bob", verified=True)
    assert scene.counted == ["suspected", "blamed"]
    assert not scene.retry(ONE)


def test_a_retry_that_comes_from_the_registry_past_the_agent_blames_nobody(scene: Scene) -> None:
    scene.deliver(ONE, "ann")
    assert scene.retry(ONE)
    scene.heard(ContentAdded(ONE))
    scene.heard(ContentRemoved(ONE))
    assert scene.names(ONE) == ["ann", "bob"]
    assert "blamed" not in scene.counted


def test_a_runtime_that_does_not_commit_right_bytes_either_blames_nobody(scene: Scene) -> None:
    scene.deliver(ONE, "ann")
    assert scene.retry(ONE)
    scene.deliver(ONE, "bob", verified=True)
    assert scene.retry(ONE)
    assert scene.names(ONE) == ["bob"]
    assert scene.counted == ["suspected"]


def test_of_several_givers_one_is_to_blame_but_nobody_knows_which(scene: Scene) -> None:
    scene.blame(ONE, ["ann", "bob"])
    assert scene.counted == []
    assert scene.names(ONE) == []


def test_hashed_bytes_that_are_wrong_are_blamed_at_once_with_member_and_digest(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.blame(ONE, ["ann"])
    assert scene.names(ONE) == ["bob"]
    assert scene.names(TWO) == ["ann", "bob"]
    assert "ann" in caplog.text
    assert str(ONE) in caplog.text


def test_one_who_gives_several_wrong_objects_is_asked_for_nothing_for_a_while(scene: Scene) -> None:
    for number in range(DIGESTS_MAX):
        assert scene.names(TWO) == ["ann", "bob"]
        scene.blame(Digest.of(b"%d wrong" % number), ["ann"])
    assert scene.names(TWO) == ["bob"]
    scene.now += BLAME_S + 1
    assert scene.names(TWO) == ["ann", "bob"]


def test_relays_are_to_be_asked_once_who_gave_it_and_settle_who_is_to_blame(scene: Scene) -> None:
    scene.deliver(ONE, "ann", relays=["rae", "roy"])
    assert scene.to_ask(ONE) == set(), "nothing is wrong with it"
    assert scene.retry(ONE)
    assert scene.to_ask(ONE) == {"rae", "roy"}
    assert scene.to_ask(ONE) == set()
    scene.told(ONE, ["ann"], all_said=True)
    scene.deliver(ONE, "bob", verified=True)
    scene.heard(ContentAdded(ONE))
    assert scene.names(ONE) == ["bob"]
    assert scene.counted == ["suspected", "blamed"]


def test_who_a_relay_went_on_from_is_suspect_as_well_and_then_nobody_is_to_blame(scene: Scene) -> None:
    scene.deliver(ONE, "ann", relays=["rae"])
    assert scene.retry(ONE)
    scene.told(ONE, ["ann", "bob"], all_said=True)
    assert scene.names(ONE) == []
    scene.deliver(ONE, "upstream", verified=True)
    scene.heard(ContentAdded(ONE))
    assert scene.counted == ["suspected"]


@pytest.mark.parametrize("told", [False, True])
def test_nobody_is_to_blame_while_a_relay_does_not_say_who_gave_it(scene: Scene, told: bool) -> None:
    scene.deliver(ONE, "ann", relays=["rae", "roy"])
    assert scene.retry(ONE)
    if told:
        scene.told(ONE, ["ann"], all_said=False)
    assert scene.names(ONE) == ["bob"]
    scene.deliver(ONE, "bob", verified=True)
    scene.heard(ContentAdded(ONE))
    assert scene.counted == ["suspected"]


def test_hashed_bytes_that_are_wrong_and_came_through_a_relay_are_in_doubt(scene: Scene) -> None:
    scene.blame(ONE, ["ann"], ["rae"])
    assert scene.doubted(ONE, from_start=True)
    assert scene.to_ask(ONE) == {"rae"}
    assert scene.names(ONE) == ["bob"]
    assert scene.counted == []


def test_what_relays_say_of_an_object_that_is_settled_is_forgotten(scene: Scene) -> None:
    scene.told(ONE, ["ann"], all_said=True)
    assert scene.names(ONE) == ["ann", "bob"]


def test_a_relay_says_who_gave_it_before_its_own_runtime_asks_again_and_after(scene: Scene) -> None:
    assert scene.given(ONE) == Given()
    scene.deliver(ONE, "ann", relays=["rae"])
    given = Given(frozenset(["ann"]), frozenset(["rae"]))
    assert scene.given(ONE) == given
    assert scene.retry(ONE)
    assert scene.given(ONE) == given
    scene.told(ONE, ["ann"], all_said=True)
    scene.deliver(ONE, "bob", verified=True)
    assert scene.given(ONE) == given
    scene.heard(ContentAdded(ONE))
    assert scene.given(ONE) == Given(frozenset(["ann"])), "who is to blame is known"
    scene.now += BLAME_S + 1
    assert scene.given(ONE) == Given()


@pytest.mark.parametrize("left", [False, True])
def test_a_relay_names_who_gave_it_after_its_own_client_left_and_before_that_has_it(scene: Scene, left: bool) -> None:
    givers, relays = ["ann"], list[str]()
    scene.gives(ONE, (givers, relays))
    if left:
        scene.gave(ONE, (givers, relays), to_end=False, verified=False)
    givers.append("bob")
    relays.append("rae")
    assert scene.given(ONE) == Given(frozenset(["ann", "bob"]), frozenset(["rae"]))


def test_of_many_answers_for_one_object_all_who_gave_are_known_and_few_lists_kept(scene: Scene) -> None:
    for number in range(10 * LISTS_MAX):
        scene.gives(ONE, (["ann", f"b{number % 7}"], []))
    assert scene.given(ONE).givers == {"ann", *(f"b{number}" for number in range(7))}
    assert sum(len(givers) for givers, _ in scene._cases[ONE].lists) <= 3 * LISTS_MAX


def test_suspicion_fades(scene: Scene) -> None:
    scene.deliver(ONE, "ann")
    assert scene.retry(ONE)
    scene.now += SUSPECT_S
    assert not scene.doubted(ONE, from_start=True)
    assert scene.names(ONE) == ["ann", "bob"]


def test_what_is_remembered_is_bounded(scene: Scene) -> None:
    for number in range(CASES_MAX + 10):
        scene.deliver(Digest.of(b"%d" % number), "ann")
    assert len(scene._cases) == CASES_MAX


def test_an_index_leaves_out_those_in_doubt(scene: Scene) -> None:
    scene.blame(ONE, ["bob"])
    assert TrustedIndex(Listed([ANN, BOB]), scene).holders(ONE) == [ANN]
