"""What comes from registries is counted, and every "no" of theirs is noted where it belongs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mirror.challenge import Challenge
from mirror.errors import OverQuotaError, RefusedError, SourceError, UnavailableError
from mirror.metered import Metered
from mirror.oci import Descriptor, Digest, Kind, Repository, Tag
from mirror.source import Content, MemoryBody, Request, read_all
from mirror.trail import What

DATA = b"a blob"
DIGEST = Digest.of(DATA)
REPOSITORY = Repository("registry.test", "lib/app")


@dataclass
class Registry:
    failure: SourceError | None = None

    async def resolve(self, request: Request) -> Descriptor:
        if self.failure:
            raise self.failure
        return Descriptor("m/t", DIGEST, len(DATA))

    attest = resolve

    async def open(self, request: Request) -> Content:
        return Content(await self.resolve(request), range(len(DATA)), MemoryBody(DATA), "upstream")

    async def token_for_anybody(self, registry: str, challenge: Challenge) -> str:
        return f"{registry}'s"


@pytest.mark.parametrize(
    ("failure", "noted"),
    [
        (RefusedError(404), What.ABSENT),
        (RefusedError(401), What.REFUSED),
        (OverQuotaError("429"), What.OVER_QUOTA),
        (UnavailableError("down"), What.UNAVAILABLE),
    ],
)
async def test_a_no_is_noted_whatever_the_registry_was_asked(failure: SourceError, noted: What) -> None:
    metered = Metered(Registry(failure), lambda _registry, _size: None)
    for ask in (metered.resolve, metered.attest, metered.open):
        request = Request(REPOSITORY, Kind.MANIFEST, Tag("v1"))
        with pytest.raises(type(failure)):
            await ask(request)
        assert [(step.what, step.source) for step in request.trail.steps] == [(noted, "upstream")]


async def test_bytes_are_counted_as_they_are_read() -> None:
    fetched: list[tuple[str, int]] = []
    metered = Metered(Registry(), lambda registry, size: fetched.append((registry, size)))
    request = Request(REPOSITORY, Kind.BLOB, DIGEST)
    content = await metered.open(request)
    assert fetched == []
    assert await read_all(content.body, 100) == DATA
    assert sum(size for _, size in fetched) == len(DATA)
    assert {registry for registry, _ in fetched} == {"registry.test"}
    assert request.trail.steps == []
    assert (await metered.attest(request)).digest == (await metered.resolve(request)).digest == DIGEST
    assert await metered.token_for_anybody("registry.test", Challenge("https://auth")) == "registry.test's"
