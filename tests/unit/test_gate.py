"""What policy keeps out never reaches the sources; a password that was refused is not asked for again."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mirror.challenge import Challenge
from mirror.errors import NotFoundError, RefusedError, UnavailableError
from mirror.gate import Switched
from mirror.listings import Listing, ListingRequest
from mirror.oci import OCTET_STREAM, Descriptor, Digest, Kind, Repository, Tag
from mirror.policy import Policy, RegistryPolicy
from mirror.source import Content, MemoryBody, Request, read_all
from tests.gating import gated

DATA = b"a manifest"
DIGEST = Digest.of(DATA)
REPOSITORY = Repository("registry.test", "lib/app")
BY_DIGEST = Request(REPOSITORY, Kind.MANIFEST, DIGEST)
BY_TAG = Request(REPOSITORY, Kind.MANIFEST, Tag("v1"))
CHALLENGE = (("WWW-Authenticate", 'Basic realm="x"'), ("Content-Type", "application/json"))


@dataclass
class Everything:
    """All sources in one, and the registry."""

    refusal: RefusedError | None = None
    asked: list[Request | ListingRequest] = field(default_factory=list)

    async def resolve(self, request: Request) -> Descriptor:
        self.asked.append(request)
        if self.refusal:
            raise self.refusal
        return Descriptor("m/t", DIGEST, len(DATA))

    attest = resolve

    async def open(self, request: Request) -> Content:
        self.asked.append(request)
        return Content(Descriptor(OCTET_STREAM, request.digest, len(DATA)), range(len(DATA)), MemoryBody(DATA), "store")

    async def list(self, request: ListingRequest) -> Listing:
        self.asked.append(request)
        if self.refusal:
            raise self.refusal
        return Listing("application/json", b"{}")

    async def token_for_anybody(self, registry: str, challenge: Challenge) -> str:
        raise UnavailableError("no token")


async def test_by_tag_or_by_digest_the_object_is_opened_by_digest() -> None:
    for request in (BY_TAG, BY_DIGEST):
        everything = Everything()
        gate = gated(everything, everything)
        assert (await gate.resolve(request)).digest == DIGEST
        content = await gate.open(request)
        assert await read_all(content.body, 100) == DATA
        assert everything.asked[-1] == BY_DIGEST


@pytest.mark.parametrize(
    "policy",
    [
        Policy(mirroring=False),
        Policy({"registry.test": RegistryPolicy(mirror=False)}),
        Policy({"*": RegistryPolicy(exclude=("lib/*",))}),
    ],
)
async def test_what_is_not_mirrored_is_not_found_and_nobody_is_asked(policy: Policy) -> None:
    everything = Everything()
    gate = gated(everything, everything, policy)
    for request in (BY_TAG, BY_DIGEST):
        with pytest.raises(NotFoundError):
            await gate.resolve(request)
        with pytest.raises(NotFoundError):
            await gate.open(request)
    with pytest.raises(NotFoundError):
        await gate.list(ListingRequest(REPOSITORY))
    assert everything.asked == []


@pytest.mark.parametrize(("authorization", "left"), [("Basic eDp5", 1), ("Bearer x", 2), (None, 2)])
async def test_after_a_password_that_was_refused_the_challenge_is_left_out(
    authorization: str | None, left: int
) -> None:
    everything = Everything(RefusedError(401, CHALLENGE, b"no"))
    gate = gated(everything, everything)
    requests = [Request(REPOSITORY, Kind.MANIFEST, each, authorization=authorization) for each in (Tag("v1"), DIGEST)]
    for request in requests:
        with pytest.raises(RefusedError) as refusal:
            await gate.resolve(request)
        assert (refusal.value.status, refusal.value.body) == (401, b"no")
        assert refusal.value.headers == CHALLENGE[-left:]
    with pytest.raises(RefusedError) as refusal:
        await gate.list(ListingRequest(REPOSITORY, authorization=authorization))
    assert refusal.value.headers == CHALLENGE[-left:]


async def test_other_nodes_get_nothing_either_when_nothing_is_mirrored() -> None:
    everything = Everything()
    policy = Policy()
    switched = Switched(everything, lambda: policy)
    await switched.resolve(BY_DIGEST)
    await switched.open(BY_DIGEST)
    policy = Policy(mirroring=False)
    with pytest.raises(NotFoundError):
        await switched.resolve(BY_DIGEST)
    with pytest.raises(NotFoundError):
        await switched.open(BY_DIGEST)
