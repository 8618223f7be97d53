"""Of a protected registry everybody gets what the registry lets them have, and the registry is asked little."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from mirror.authorization import NO_S, YES_S, Authorization
from mirror.challenge import Challenge
from mirror.errors import RefusedError, SourceError, UnavailableError
from mirror.oci import OCTET_STREAM, ByteRange, Descriptor, Digest, Kind, Repository
from mirror.policy import Authorize, Policy, RegistryPolicy, Unreachable
from mirror.source import Content, MemoryBody, Request, read_all
from tests.unit.test_challenge import jwt

TEAM = Repository("registry.corp", "team/app")
CHALLENGE = RefusedError(401, (("WWW-Authenticate", 'Bearer realm="https://auth.corp/token"'),))
LAYER, CONFIG = Digest.of(b"layer"), Digest.of(b"config")
MANIFEST = json.dumps({"config": {"digest": str(CONFIG)}, "layers": [{"digest": str(LAYER)}]}).encode()
ALICE, MALLORY, NOBODY = "Bearer alice", "Bearer mallory", "Bearer nobody"


@dataclass
class Upstream:
    """A registry that lets in whom it names, to the objects of their repositories."""

    admits: dict[str, set[str | None]] = field(default_factory=lambda: {"team/app": {ALICE}})
    has: dict[str, set[Digest]] = field(default_factory=lambda: {"team/app": {Digest.of(MANIFEST), LAYER, CONFIG}})
    failure: SourceError | None = None
    asked: Counter[str | None] = field(default_factory=Counter)
    tokens: int = 0

    async def attest(self, request: Request) -> Descriptor:
        self.asked[request.authorization] += 1
        if self.failure:
            raise self.failure
        if request.authorization not in self.admits.get(request.repository.name, set()):
            raise CHALLENGE
        if request.digest not in self.has[request.repository.name]:
            raise RefusedError(404)
        return Descriptor("m/t", request.digest, 1)

    async def resolve(self, request: Request) -> Descriptor:
        raise AssertionError("a mirror of the registry must not decide who is let in")

    async def token_for_anybody(self, registry: str, challenge: Challenge) -> str:
        self.tokens += 1
        assert challenge.realm == "https://auth.corp/token"
        return "nobody"


@dataclass
class Stage:
    upstream: Upstream = field(default_factory=Upstream)
    rules: RegistryPolicy = field(default_factory=lambda: RegistryPolicy(authorize=Authorize.UPSTREAM))
    now: float = 1_000_000.0

    def __post_init__(self) -> None:
        self.authorization = Authorization(
            self.upstream, lambda: Policy({"registry.corp": self.rules}), clock=lambda: self.now, key=b"k"
        )

    async def admitted(self, request: Request) -> bool:
        try:
            await self.authorization.check(request)
        except SourceError:
            return False
        return True


@pytest.fixture
def stage() -> Stage:
    return Stage()


def wanted(digest: Digest, authorization: str | None, repository: Repository = TEAM) -> Request:
    kind = Kind.MANIFEST if digest == Digest.of(MANIFEST) else Kind.BLOB
    return Request(repository, kind, digest, authorization=authorization)


def manifest_of(authorization: str | None) -> Request:
    return wanted(Digest.of(MANIFEST), authorization)


async def served(stage: Stage, request: Request, positions: range | None = None) -> bytes:
    positions = range(len(MANIFEST)) if positions is None else positions
    body = MemoryBody(MANIFEST[positions.start : positions.stop])
    content = Content(Descriptor("m/t", request.digest, len(MANIFEST)), positions, body, "store")
    return await read_all((await stage.authorization.listing(request, content)).body, 10_000)


async def test_an_open_registry_is_not_asked(stage: Stage) -> None:
    stage.rules = RegistryPolicy()
    assert await stage.admitted(manifest_of(None))
    assert not stage.upstream.asked


async def test_who_is_let_in_is_asked_for_once_and_gets_what_the_manifest_lists(stage: Stage) -> None:
    assert await stage.admitted(manifest_of(ALICE))
    assert await served(stage, manifest_of(ALICE)) == MANIFEST
    for digest in (Digest.of(MANIFEST), CONFIG, LAYER):
        assert await stage.admitted(wanted(digest, ALICE))
    assert stage.upstream.asked == {ALICE: 1}


@pytest.mark.parametrize("authorization", [None, MALLORY])
async def test_who_is_not_let_in_gets_the_registrys_challenge_although_others_were(
    stage: Stage, authorization: str | None
) -> None:
    await stage.authorization.check(manifest_of(ALICE))
    await served(stage, manifest_of(ALICE))
    for digest in (Digest.of(MANIFEST), LAYER):
        with pytest.raises(RefusedError) as refusal:
            await stage.authorization.check(wanted(digest, authorization))
        assert refusal.value.headers == CHALLENGE.headers


async def test_a_reader_of_one_repository_gets_nothing_of_another_in_its_name(stage: Stage) -> None:
    other = Repository("registry.corp", "other/app")
    stage.upstream.admits["other/app"] = {MALLORY}
    stage.upstream.has["other/app"] = {CONFIG}
    await stage.authorization.check(manifest_of(ALICE))
    await served(stage, manifest_of(ALICE))
    assert await stage.admitted(wanted(CONFIG, MALLORY, other))
    with pytest.raises(RefusedError, match="404"):
        await stage.authorization.check(wanted(LAYER, MALLORY, other))


async def test_a_layer_that_reads_like_a_manifest_is_none_and_lists_nothing(stage: Stage) -> None:
    foreign = Digest.of(b"of another repository")
    layer = json.dumps({"layers": [{"digest": str(foreign)}]}).encode()
    manifest = json.dumps({"layers": [{"digest": str(Digest.of(layer))}]}).encode()
    stage.upstream.has["team/app"] = {Digest.of(manifest)}
    for data in (manifest, layer):
        request = Request(TEAM, Kind.MANIFEST, Digest.of(data), authorization=ALICE)
        if await stage.admitted(request):
            content = Content(Descriptor("m/t", request.digest, len(data)), range(len(data)), MemoryBody(data), "store")
            await stage.authorization.listing(request, content)
    assert await stage.admitted(wanted(Digest.of(layer), ALICE)), "it is a blob of the repository"
    assert not await stage.admitted(wanted(foreign, ALICE))


async def test_what_a_manifest_says_to_be_elsewhere_is_not_attested(stage: Stage) -> None:
    data = json.dumps({"layers": [{"digest": str(LAYER), "urls": ["https://elsewhere"]}, {"digest": str(CONFIG)}]})
    request = Request(TEAM, Kind.MANIFEST, Digest.of(data.encode()), authorization=ALICE)
    stage.upstream.has["team/app"] = {request.digest}
    await stage.authorization.check(request)
    body = MemoryBody(data.encode())
    content = Content(Descriptor("m/t", request.digest, len(data)), range(len(data)), body, "store")
    await stage.authorization.listing(request, content)
    assert await stage.admitted(wanted(CONFIG, ALICE))
    assert not await stage.admitted(wanted(LAYER, ALICE))


async def test_a_part_of_a_manifest_lists_nothing(stage: Stage) -> None:
    await stage.authorization.check(manifest_of(ALICE))
    request = manifest_of(ALICE).in_part(ByteRange(0, 4))
    assert await served(stage, request, range(5)) == MANIFEST[:5]
    stage.upstream.asked.clear()
    await stage.admitted(wanted(LAYER, ALICE))
    assert stage.upstream.asked == {ALICE: 1}


async def test_a_blob_of_a_protected_registry_is_not_read_here(stage: Stage) -> None:
    content = Content(Descriptor(OCTET_STREAM, LAYER, 5), range(5), MemoryBody(b"layer"), "store")
    body = content.body
    assert (await stage.authorization.listing(wanted(LAYER, ALICE), content)).body is body


async def test_a_yes_counts_for_minutes(stage: Stage) -> None:
    assert await stage.admitted(manifest_of(ALICE))
    stage.upstream.admits["team/app"] = set()
    stage.now += YES_S - 1
    assert await stage.admitted(manifest_of(ALICE))
    stage.now += 2
    assert not await stage.admitted(manifest_of(ALICE))


async def test_a_yes_does_not_outlive_the_token_it_was_given_to(stage: Stage) -> None:
    token = jwt({"exp": stage.now + 10})
    stage.upstream.admits["team/app"] = {token}
    assert await stage.admitted(manifest_of(token))
    stage.upstream.admits["team/app"] = set()
    stage.now += 11
    assert not await stage.admitted(manifest_of(token))


async def test_a_public_repository_needs_no_credentials_and_no_challenge(stage: Stage) -> None:
    stage.upstream.admits["team/app"] = {NOBODY}
    assert await stage.admitted(manifest_of(None))
    await served(stage, manifest_of(None))
    assert await stage.admitted(wanted(LAYER, None))
    assert await stage.admitted(wanted(LAYER, MALLORY)), "whoever asks"
    assert stage.upstream.asked == {None: 1, NOBODY: 1}


async def test_a_registry_that_needs_no_token_from_anybody_is_public(stage: Stage) -> None:
    stage.upstream.admits["team/app"] = {None}
    assert await stage.admitted(manifest_of(None))
    assert await stage.admitted(manifest_of(MALLORY))
    assert stage.upstream.tokens == 0


async def test_whether_a_private_repository_is_public_is_not_asked_at_each_request(stage: Stage) -> None:
    for _ in range(5):
        assert not await stage.admitted(manifest_of(None))
    assert stage.upstream.tokens == 1
    stage.now += NO_S + 1
    assert not await stage.admitted(manifest_of(None))
    assert stage.upstream.tokens == 2


async def test_while_the_registry_is_away_those_who_were_let_in_go_on_and_strangers_do_not(stage: Stage) -> None:
    await stage.authorization.check(manifest_of(ALICE))
    await served(stage, manifest_of(ALICE))
    stage.upstream.failure = UnavailableError("down")
    assert await stage.admitted(wanted(LAYER, ALICE))
    with pytest.raises(UnavailableError):
        await stage.authorization.check(wanted(LAYER, MALLORY))
    stage.rules = replace(stage.rules, unreachable=Unreachable.OPEN)
    assert await stage.admitted(wanted(LAYER, MALLORY))


async def test_what_is_remembered_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.authorization._attested, "_elements_max", 3)
    for number in range(5):
        stage.authorization.attested(TEAM, Kind.BLOB, Digest.of(str(number).encode()))
    assert len(stage.authorization._attested._ends) == 3


async def test_no_header_is_kept(stage: Stage) -> None:
    await stage.authorization.check(manifest_of(ALICE))
    remembered = [vars(each) for each in vars(stage.authorization).values() if hasattr(each, "_ends")]
    assert len(remembered) == 3
    assert "alice" not in repr(remembered).lower()
