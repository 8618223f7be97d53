"""A tag is as fresh as the policy wants it, and the last known when the registry is away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from mirror import tags as tags_module
from mirror.authorization import Authorization
from mirror.challenge import Challenge
from mirror.elements import Known
from mirror.errors import NotFoundError, RefusedError, SourceError, UnavailableError
from mirror.oci import Descriptor, Digest, Kind, Repository, Tag
from mirror.policy import TAG_MOMENT_S, Authorize, Policy, RegistryPolicy, Unreachable
from mirror.policy import Tags as Rule
from mirror.source import Content, Request
from mirror.tags import Tags
from tests.gating import Alone, Heard

REPOSITORY = Repository("registry.test", "lib/app")
V1 = Request(REPOSITORY, Kind.MANIFEST, Tag("v1"))
OLD, NEW, OTHER = Digest.of(b"old"), Digest.of(b"new"), Digest.of(b"other")
NOW = 1_000_000.0


@dataclass
class Upstream:
    """A registry that says what `v1` means, at once or when it is let go on."""

    meaning: Digest = NEW
    failure: SourceError | None = None
    going_on: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.going_on.set()

    async def resolve(self, request: Request) -> Descriptor:
        self.asked.append(request.authorization)
        await self.going_on.wait()
        if self.failure:
            raise self.failure
        return Descriptor("m/t", self.meaning, 1)

    attest = resolve

    async def token_for_anybody(self, registry: str, challenge: Challenge) -> str:
        raise UnavailableError("no token")


@dataclass
class Objects:
    """Objects that are held by somebody."""

    held: set[Digest] = field(default_factory=lambda: {OLD, NEW, OTHER})

    async def resolve(self, request: Request) -> Descriptor:
        if request.digest not in self.held:
            raise NotFoundError("nobody has it")
        return Descriptor("m/t", request.digest, 1)

    async def open(self, request: Request) -> Content:
        raise NotImplementedError


@dataclass
class Stage:
    upstream: Upstream = field(default_factory=Upstream)
    objects: Objects = field(default_factory=Objects)
    heard: Heard = field(default_factory=Heard)
    now: float = NOW

    def __post_init__(self) -> None:
        self.together = Alone(self.upstream)

    def tags(self, **rules: object) -> Tags:
        policy = Policy({"registry.test": RegistryPolicy(**rules)})  # type: ignore[arg-type]
        authorization = Authorization(self.upstream, lambda: policy, clock=lambda: self.now, key=b"k")
        return Tags(
            self.objects,
            self.together,
            authorization,
            self.heard,
            lambda: policy,
            remember=self.heard.remember,
            clock=lambda: self.now,
        )

    def knows(self, known: Known) -> None:
        self.heard.tags[Tag("v1")] = known


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def meaning(tags: Tags, request: Request = V1) -> Digest:
    return (await tags.resolve(request)).digest


async def test_a_tag_is_the_registrys_to_explain_however_fresh_the_cluster_is(stage: Stage) -> None:
    stage.knows(Known(OLD, int(NOW)))
    assert await meaning(stage.tags()) == NEW
    assert stage.heard.tags[Tag("v1")].verified == NEW, "all nodes are told"
    assert stage.heard.remembered == [NEW], "and the store"


async def test_a_refusal_of_the_registry_is_passed_on_whatever_is_known(stage: Stage) -> None:
    stage.knows(Known(OLD, int(NOW)))
    stage.upstream.failure = RefusedError(401)
    with pytest.raises(RefusedError):
        await meaning(stage.tags())


async def test_without_the_registry_a_tag_means_what_was_last_known(stage: Stage) -> None:
    stage.upstream.failure = UnavailableError("down")
    with pytest.raises(UnavailableError):
        await meaning(stage.tags())
    stage.knows(Known(stored=OLD))
    assert await meaning(stage.tags()) == OLD
    stage.knows(Known(NEW, 1, stored=OLD))
    assert await meaning(stage.tags()) == NEW, "what a store has is less than what the registry once said"


async def test_what_others_tell_while_the_registry_is_waited_for_counts(stage: Stage) -> None:
    stage.upstream.failure = UnavailableError("down")
    stage.upstream.going_on.clear()
    asking = asyncio.create_task(meaning(stage.tags()))
    await asyncio.sleep(0.01)
    stage.knows(Known(NEW, 1))
    stage.upstream.going_on.set()
    assert await asking == NEW


async def test_a_registry_that_is_slow_is_not_waited_for_when_something_is_known(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags_module, "BUDGET_S", 0.01)
    stage.upstream.going_on.clear()
    stage.knows(Known(OLD, 1))
    tags = stage.tags()
    assert await meaning(tags) == OLD
    stage.upstream.going_on.set()
    await asyncio.sleep(0.01)
    assert stage.heard.tags[Tag("v1")].verified == NEW, "what it says late is known next time"


async def test_a_registry_that_is_slow_is_waited_for_when_nothing_is_known(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags_module, "BUDGET_S", 0.01)
    stage.upstream.going_on.clear()
    asyncio.get_running_loop().call_later(0.05, stage.upstream.going_on.set)
    assert await meaning(stage.tags()) == NEW


async def test_with_cluster_nobody_asks_until_the_ttl_is_over(stage: Stage) -> None:
    tags = stage.tags(tags=Rule.CLUSTER, tag_ttl_s=60)
    stage.knows(Known(OLD, int(NOW)))
    for after in (0, 30, 59):
        stage.now = NOW + after
        assert await meaning(tags) == OLD
    assert stage.upstream.asked == []
    stage.now = NOW + 61
    assert await meaning(tags) == NEW


async def test_what_the_registry_said_to_another_node_is_verified_as_of_then(stage: Stage) -> None:
    tags = stage.tags(tags=Rule.CLUSTER, tag_ttl_s=60)
    stage.together.age_s = 4.0
    assert await meaning(tags) == NEW
    assert stage.heard.tags[Tag("v1")] == Known(NEW, int(NOW) - 4)
    stage.now = NOW + 57
    assert await meaning(tags) == NEW
    assert len(stage.upstream.asked) == 2, "a minute after it was said it is not fresh any more"


@pytest.mark.parametrize(("rule", "age_max_s"), [(Rule.UPSTREAM, TAG_MOMENT_S), (Rule.CLUSTER, 60.0)])
async def test_how_old_that_may_be_the_policy_says(stage: Stage, rule: Rule, age_max_s: float) -> None:
    stage.knows(Known(OLD, 1, invalidated_at=7))
    await meaning(stage.tags(tags=rule, tag_ttl_s=60))
    assert stage.together.asked == [(age_max_s, 7)], "and not from before the invalidation"


async def test_of_a_protected_registry_each_node_asks_for_itself(stage: Stage) -> None:
    assert await meaning(stage.tags(authorize=Authorize.UPSTREAM)) == NEW
    assert (len(stage.upstream.asked), stage.together.asked) == (1, [])


async def test_with_cluster_a_runtime_that_holds_an_old_image_makes_nothing_fresh(stage: Stage) -> None:
    stage.knows(Known(stored=OLD))
    assert await meaning(stage.tags(tags=Rule.CLUSTER)) == NEW


async def test_with_cluster_an_invalidation_makes_the_next_pull_ask(stage: Stage) -> None:
    stage.knows(Known(OLD, int(NOW), invalidated_at=int(NOW)))
    assert await meaning(stage.tags(tags=Rule.CLUSTER)) == NEW


async def test_with_cluster_the_registry_is_asked_when_nobody_has_what_is_known(stage: Stage) -> None:
    stage.knows(Known(OLD, int(NOW)))
    stage.objects.held = {NEW}
    assert await meaning(stage.tags(tags=Rule.CLUSTER)) == NEW


async def test_what_lies_in_the_future_is_not_fresh(stage: Stage) -> None:
    stage.knows(Known(OLD, int(NOW) + 3600))
    assert await meaning(stage.tags(tags=Rule.CLUSTER)) == NEW


async def test_with_never_a_tag_is_not_found_and_nobody_is_asked(stage: Stage) -> None:
    with pytest.raises(NotFoundError):
        await meaning(stage.tags(tags=Rule.NEVER))
    assert stage.upstream.asked == []


async def test_those_who_ask_the_same_at_the_same_time_are_one_request(stage: Stage) -> None:
    stage.upstream.going_on.clear()
    tags = stage.tags()
    asking = [asyncio.create_task(meaning(tags)) for _ in range(20)]
    await asyncio.sleep(0)
    asking[0].cancel()
    stage.upstream.going_on.set()
    assert await asyncio.gather(*asking[1:]) == [NEW] * 19, "who goes away takes nothing from the others"
    assert stage.upstream.asked == [None]
    await meaning(tags)
    assert len(stage.upstream.asked) == 2, "an answer is shared by those who waited for it alone"


async def test_who_asks_after_an_invalidation_does_not_share_what_was_asked_before(stage: Stage) -> None:
    stage.upstream.going_on.clear()
    tags = stage.tags()
    before = asyncio.create_task(meaning(tags))
    await asyncio.sleep(0)
    stage.knows(Known(invalidated_at=int(NOW)))
    after = asyncio.create_task(meaning(tags))
    await asyncio.sleep(0)
    stage.upstream.going_on.set()
    await asyncio.gather(before, after)
    assert stage.together.asked == [(TAG_MOMENT_S, 0), (TAG_MOMENT_S, int(NOW))]


async def test_what_was_asked_before_an_invalidation_is_not_verified_after_it(stage: Stage) -> None:
    stage.upstream.going_on.clear()
    asking = asyncio.create_task(meaning(stage.tags()))
    while not stage.upstream.asked:
        await asyncio.sleep(0)
    stage.now = NOW + 3
    stage.upstream.going_on.set()
    assert await asking == NEW
    assert stage.heard.tags[Tag("v1")].verified_at == int(NOW), "as of when it was asked"


async def test_other_credentials_are_another_question(stage: Stage) -> None:
    tags = stage.tags()
    requests = [V1, Request(REPOSITORY, Kind.MANIFEST, Tag("v1"), authorization="Bearer a")]
    await asyncio.gather(*(meaning(tags, request) for request in requests))
    assert stage.upstream.asked == [None, "Bearer a"]


async def test_of_a_protected_registry_fresh_tags_are_for_those_who_were_let_in(stage: Stage) -> None:
    stage.knows(Known(OLD, int(NOW)))
    tags = stage.tags(tags=Rule.CLUSTER, authorize=Authorize.UPSTREAM)
    assert await meaning(tags) == NEW, "the first one is asked for"
    stage.knows(Known(OLD, int(NOW)))
    assert await meaning(tags) == OLD
    assert len(stage.upstream.asked) == 1


@pytest.mark.parametrize("unreachable", Unreachable)
async def test_of_a_protected_registry_that_is_away_strangers_get_the_last_known_only_if_it_fails_open(
    stage: Stage, unreachable: Unreachable
) -> None:
    stage.knows(Known(OLD, int(NOW)))
    stage.upstream.failure = UnavailableError("down")
    tags = stage.tags(authorize=Authorize.UPSTREAM, unreachable=unreachable)
    if unreachable is Unreachable.OPEN:
        assert await meaning(tags) == OLD
    else:
        with pytest.raises(UnavailableError):
            await meaning(tags)
