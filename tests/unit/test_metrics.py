"""What is counted, from requests on real sockets; and that labels stay few, whatever clients ask for."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import aiohttp
import pytest
from starlette.middleware import Middleware

from mirror.errors import NotFoundError, RefusedError, SourceError, UnavailableError
from mirror.metrics import REGISTRIES_MAX, Metrics
from mirror.oci import OCTET_STREAM, Descriptor, Digest
from mirror.pieces import Piece
from mirror.registry import create_registry
from mirror.source import Content, MemoryBody, Request
from mirror.trail import ID_HEADER, MISSES, STEPS_MAX, Step, Trail, What
from mirror.upload_slots import Surroundings, UploadSlots
from tests.serving import serving

DATA = random.Random(3).randbytes(2_000_000)
DIGEST = Digest.of(DATA)


@dataclass
class Giving:
    """A source that gives `DATA`, as if it came from elsewhere, or fails."""

    origin: str = "peer"
    zone: str = ""
    failure: SourceError | None = None
    seen: list[Request] = field(default_factory=list)

    async def resolve(self, request: Request) -> Descriptor:
        return Descriptor(OCTET_STREAM, DIGEST, len(DATA))

    async def open(self, request: Request) -> Content:
        self.seen.append(request)
        request.trail.note(What.ABSENT, "store")
        if self.failure:
            raise self.failure
        descriptor = Descriptor(OCTET_STREAM, DIGEST, len(DATA))
        return Content(descriptor, range(len(DATA)), MemoryBody(DATA), self.origin, "node-b", zone=self.zone)


def path(registry: str = "registry.test") -> str:
    return f"/v2/lib/app/blobs/{DIGEST}?ns={registry}"


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one name, by their labels' values in the order of their names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and sample.value
    }


async def fetch(source: Giving, metrics: Metrics, *paths: str, headers: dict[str, str] | None = None) -> None:
    """Ask the client face for each of the paths."""
    async with serving(create_registry(source, metrics.face("client"))) as url, aiohttp.ClientSession() as session:
        for each in paths:
            async with session.get(url + each, headers=headers) as response:
                await response.read()


async def test_a_pull_is_counted_by_source_registry_and_zone() -> None:
    metrics = Metrics("zone-a")
    await fetch(Giving(zone="zone-b"), metrics, path())
    assert samples(metrics, "skvaller_requests_total") == {("client", "registry.test", "peer", "2xx"): 1}
    assert samples(metrics, "skvaller_content_bytes_total") == {("client", "registry.test", "peer"): len(DATA)}
    assert samples(metrics, "skvaller_first_byte_seconds_count") == {("peer", "other"): 1}
    assert samples(metrics, "skvaller_throughput_bytes_per_second_count") == {("peer", "other"): 1}
    assert samples(metrics, "skvaller_misses_total") == {("absent", "store"): 1}


async def test_an_answer_that_sends_the_runtime_to_the_registry_is_counted_as_such_and_a_refusal_is_not() -> None:
    metrics = Metrics()
    for failure in (NotFoundError("no"), UnavailableError("down"), RefusedError(401)):
        await fetch(Giving(failure=failure), metrics, path())
    assert samples(metrics, "skvaller_requests_total") == {
        ("client", "registry.test", "aside", "4xx"): 1,
        ("client", "registry.test", "aside", "5xx"): 1,
        ("client", "registry.test", "none", "4xx"): 1,
    }


async def test_clients_cannot_make_more_than_so_many_registries() -> None:
    metrics = Metrics()
    await fetch(Giving(), metrics, *(path(f"r{number}.test") for number in range(REGISTRIES_MAX + 3)))
    counted = samples(metrics, "skvaller_content_bytes_total")
    assert len(counted) == REGISTRIES_MAX + 1
    assert counted["client", "other", "peer"] == 3 * len(DATA)


async def test_every_step_is_counted_and_only_so_many_are_kept() -> None:
    metrics = Metrics()
    trail = Trail.of(None, metrics.face("client").noted)
    for _ in range(STEPS_MAX + 5):
        trail.note(What.RESUMED, "peer", "node-b")
    for what in What:
        trail.note(what, "upstream")
    assert len(trail.steps) == STEPS_MAX
    assert samples(metrics, "skvaller_resumes_total") == {("peer",): STEPS_MAX + 5, ("upstream",): 1}
    assert samples(metrics, "skvaller_hedges_total") == samples(metrics, "skvaller_stalls_total") == {(): 1}
    assert sum(samples(metrics, "skvaller_misses_total").values()) == len(MISSES)
    assert samples(metrics, "skvaller_herd_total") == {("led",): 1, ("followed",): 1, ("escaped",): 1}


@pytest.mark.parametrize("what", What)
def test_every_step_reads_as_words(what: What) -> None:
    assert all(str(Step(what, source)) for source in ("store", "peer", "upstream"))


def test_a_step_reads_as_words() -> None:
    assert str(Step(What.STALE, "peer", "node-b")) == "node-b no longer has it"
    assert str(Step(What.ABSENT, "store")) == "not in the store"
    assert str(Step(What.LED, "peer")) == "this node led its zone"
    assert str(Step(What.LED, "upstream")) == "this node fetched it for others"


@pytest.mark.parametrize("header", ["a b", "x" * 65, "ä", '"', "a,b"])
async def test_an_id_that_is_not_short_and_plain_is_replaced(header: str) -> None:
    source = Giving()
    await fetch(source, Metrics(), path(), headers={ID_HEADER: header})
    assert source.seen[0].trail.id != header
    assert len(source.seen[0].trail.id) == 16


async def test_an_id_that_came_with_the_request_is_kept() -> None:
    source = Giving()
    await fetch(source, Metrics(), path(), headers={ID_HEADER: "pull-7"})
    assert source.seen[0].trail.id == "pull-7"


class Slow(MemoryBody):
    """Looks at the metrics while it is given."""

    metrics: Metrics

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        assert samples(self.metrics, "skvaller_uploads") == {(): 1}
        yield self.data


class Uploading(Giving):
    body: Slow

    async def open(self, request: Request) -> Content:
        content = await super().open(request)
        content.body = self.body
        return content


async def test_the_slots_that_are_taken_are_told_while_they_are() -> None:
    metrics, source = Metrics(), Uploading()
    source.body = Slow(DATA)
    source.body.metrics = metrics
    slots = Middleware(
        UploadSlots,
        observer=metrics.face("peer"),
        slots=2,
        surroundings=Surroundings(lambda _: [], lambda _: [], lambda _: True, lambda: False),
    )
    app = create_registry(source, metrics.face("peer"), [slots])
    async with serving(app) as url, aiohttp.ClientSession() as session, session.get(url + path()) as response:
        assert await response.read() == DATA
    assert samples(metrics, "skvaller_uploads") == {}
