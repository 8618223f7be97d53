"""Lists while the registry is away: what is known, for those who are let in; never an empty list instead of none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import aiohttp
import pytest

from mirror import known_lists
from mirror.authorization import Authorization
from mirror.challenge import Challenge
from mirror.errors import OverQuotaError, RefusedError, SourceError, UnavailableError
from mirror.known_lists import KnownLists
from mirror.listings import Listing, ListingRequest
from mirror.metrics import Metrics
from mirror.oci import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, Kind, Repository, Tag
from mirror.policy import Authorize, Policy, RegistryPolicy, Unreachable
from mirror.registry import create_registry
from mirror.source import FirstOf, Request
from tests.serving import serving

REPOSITORY = Repository("registry.test", "lib/app")
SUBJECT = Digest.of(b"subject")
TAGS = ListingRequest(REPOSITORY)
REFERRERS = ListingRequest(REPOSITORY, SUBJECT)
SIGNATURE = {"mediaType": OCI_MANIFEST, "artifactType": "a/signature", "annotations": {"by": "me"}}
SBOM = {"mediaType": OCI_MANIFEST, "config": {"mediaType": "a/sbom"}}


@dataclass
class Registry:
    """A registry that answers a listing with `failure`, or `page`; whoever it knows it lets in."""

    failure: SourceError | None = field(default_factory=lambda: UnavailableError("down"))
    page: Listing = Listing("application/json", b"all")
    silent: bool = False

    async def list(self, request: ListingRequest) -> Listing:
        if self.silent:
            await asyncio.Event().wait()
        if self.failure:
            raise self.failure
        return self.page

    async def attest(self, request: Request) -> Descriptor:
        if request.authorization != "Bearer good":
            raise RefusedError(401)
        return Descriptor(OCI_MANIFEST, SUBJECT, 7)

    resolve = attest

    async def token_for_anybody(self, registry: str, challenge: Challenge) -> str:
        raise UnavailableError("no token")


@dataclass
class Node:
    """What a node knows: tags of the cluster, and manifests of its store with the repositories that they belong to."""

    names: tuple[str, ...] = ("v2", "v10", "v1")
    manifests: dict[Digest, bytes] = field(default_factory=dict)
    belonging: dict[Digest, Repository] = field(default_factory=dict)

    def add(self, document: Mapping[str, object], repository: Repository = REPOSITORY) -> Digest:
        data = json.dumps(document).encode()
        self.manifests[Digest.of(data)] = data
        self.belonging[Digest.of(data)] = repository
        return Digest.of(data)

    def tags(self, repository: Repository, now: float) -> list[Tag]:
        return [Tag(name) for name in self.names] if repository == REPOSITORY else []

    async def referring(self, repository: Repository, subject: Digest) -> dict[Digest, bytes]:
        return {
            digest: data
            for digest, data in self.manifests.items()
            if subject == SUBJECT and self.belonging[digest] == repository
        }


def lists(
    node: Node | None = None,
    registry: Registry | None = None,
    policy: Policy = Policy(),  # noqa: B008 - it is frozen
) -> tuple[KnownLists, Authorization]:
    """The lists of a node, and who is let in."""
    registry, node = registry or Registry(), node or Node()
    authorization = Authorization(registry, lambda: policy, clock=lambda: 0.0, key=b"k")
    known = KnownLists(registry, authorization, node, node, lambda: policy, clock=lambda: 0.0)
    return known, authorization


async def listed(known: KnownLists, **query: str) -> tuple[Listing, list[str]]:
    listing = await known.list(replace(TAGS, query=tuple(query.items())))
    return listing, json.loads(listing.body)["tags"]


async def test_what_the_registry_answers_is_passed_on_as_it_is() -> None:
    registry = Registry(failure=None)
    known, _ = lists(registry=registry)
    assert await known.list(TAGS) is registry.page
    registry.failure = RefusedError(404)
    with pytest.raises(RefusedError):
        await known.list(TAGS)


@pytest.mark.parametrize("failure", [UnavailableError("down"), OverQuotaError("429")])
async def test_without_the_registry_the_tags_that_the_cluster_knows_are_listed_in_order(failure: SourceError) -> None:
    known, _ = lists(registry=Registry(failure))
    listing, tags = await listed(known)
    assert tags == ["v1", "v10", "v2"]
    assert json.loads(listing.body)["name"] == "lib/app"
    assert (listing.warning, listing.next_query) == (known_lists.WARNING, ())


async def test_a_registry_that_is_silent_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_lists, "ASKED_S_MAX", 0.05)
    known, _ = lists(registry=Registry(silent=True))
    assert (await listed(known))[1] == ["v1", "v10", "v2"]
    with pytest.raises(UnavailableError, match=r"within 0.05 s"):
        await known.list(REFERRERS)


@pytest.mark.parametrize(
    ("query", "page", "following"),
    [
        ({"n": "2"}, ["v1", "v10"], (("n", "2"), ("last", "v10"))),
        ({"n": "2", "last": "v10"}, ["v2"], ()),
        ({"n": "3"}, ["v1", "v10", "v2"], ()),
        ({"n": "0"}, [], ()),
        ({"last": "v11"}, ["v2"], ()),
        ({"last": "w"}, [], ()),
        ({"n": "-1"}, ["v1", "v10", "v2"], ()),
        ({"n": "9" * 99}, ["v1", "v10", "v2"], ()),
    ],
)
async def test_known_tags_come_in_pages(
    query: dict[str, str], page: list[str], following: tuple[tuple[str, str], ...]
) -> None:
    listing, tags = await listed(lists()[0], **query)
    assert (tags, listing.next_query) == (page, following)


async def test_a_page_of_known_tags_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_lists, "TAGS_MAX", 2)
    for query in ({}, {"n": "100"}):
        listing, tags = await listed(lists()[0], **query)
        assert (tags, listing.next_query) == (["v1", "v10"], (("n", "2"), ("last", "v10")))


async def test_tags_that_are_not_mirrored_are_not_listed() -> None:
    known, _ = lists(policy=Policy({"registry.test": RegistryPolicy(exclude=("*:v1*",))}))
    assert (await listed(known))[1] == ["v2"]


async def test_where_nothing_is_known_there_is_no_answer_rather_than_an_empty_one() -> None:
    known, _ = lists(Node(names=()))
    for request in (TAGS, REFERRERS):
        with pytest.raises(UnavailableError, match="down"):
            await known.list(request)


async def test_referrers_of_the_repository_are_described_and_those_of_others_left_out() -> None:
    node = Node()
    signature = node.add(SIGNATURE)
    sbom = node.add(SBOM)
    node.add({**SBOM, "annotations": {"private": "yes"}}, Repository("registry.test", "lib/other"))
    listing = await lists(node)[0].list(REFERRERS)
    assert (listing.media_type, listing.filters, listing.warning) == (OCI_INDEX, "", known_lists.WARNING)
    index = json.loads(listing.body)
    assert (index["schemaVersion"], index["mediaType"]) == (2, OCI_INDEX)
    assert sorted(index["manifests"], key=lambda each: each["artifactType"]) == [
        {"mediaType": OCI_MANIFEST, "digest": str(sbom), "size": len(node.manifests[sbom]), "artifactType": "a/sbom"},
        {
            "mediaType": OCI_MANIFEST,
            "digest": str(signature),
            "size": len(node.manifests[signature]),
            "artifactType": "a/signature",
            "annotations": {"by": "me"},
        },
    ]


@pytest.mark.parametrize(("kind", "number"), [("a/sbom", 1), ("a/signature", 1), ("a/nothing", 0)])
async def test_known_referrers_are_filtered_by_their_kind(kind: str, number: int) -> None:
    node = Node()
    node.add(SIGNATURE)
    node.add(SBOM)
    listing = await lists(node)[0].list(replace(REFERRERS, query=(("artifactType", kind),)))
    assert listing.filters == "artifactType"
    assert len(json.loads(listing.body)["manifests"]) == number


async def test_lists_of_a_protected_registry_are_for_those_who_were_let_in() -> None:
    known, authorization = lists(policy=Policy({"registry.test": RegistryPolicy(authorize=Authorize.UPSTREAM)}))
    good, bad = (replace(TAGS, authorization=each) for each in ("Bearer good", "Bearer bad"))
    with pytest.raises(UnavailableError):
        await known.list(good)
    await authorization.resolve(Request(REPOSITORY, Kind.MANIFEST, Tag("v1"), authorization="Bearer good"))
    await known.list(good)
    for request in (bad, TAGS):
        with pytest.raises(UnavailableError):
            await known.list(request)


async def test_a_protected_registry_may_be_open_while_it_is_away() -> None:
    rules = RegistryPolicy(authorize=Authorize.UPSTREAM, unreachable=Unreachable.OPEN)
    known, _ = lists(policy=Policy({"registry.test": rules}))
    assert (await listed(known))[1] == ["v1", "v10", "v2"]


async def test_the_client_is_warned_and_led_to_the_next_page() -> None:
    app = create_registry(FirstOf([]), Metrics().face("client"), lists=lists()[0])
    async with serving(app) as base, aiohttp.ClientSession() as session:
        async with session.get(f"{base}/v2/lib/app/tags/list?n=1&ns=registry.test") as response:
            assert response.status == 200
            assert response.headers["Warning"] == f'299 - "{known_lists.WARNING}"'
            assert response.headers["Link"] == '</v2/lib/app/tags/list?n=1&last=v1&ns=registry.test>; rel="next"'
