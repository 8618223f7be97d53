"""Peers that are gone, slow, busy, stale or lying: another one is asked, and the pull goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mirror import hedge, peer_connection
from mirror import peers as peers_module
from mirror.choice import Holder, Search, Standing
from mirror.errors import FullError, NotFoundError, NotYetError, UnavailableError
from mirror.load import WAITED_HEADER
from mirror.metrics import Metrics
from mirror.oci import ByteRange, Descriptor, Digest, Kind, Repository
from mirror.peer_mac import HEADER, PeerMac, Target
from mirror.peers import TRIES_MAX, Peers
from mirror.registry import create_registry
from mirror.source import Content, MemoryBody, Request, read_all
from mirror.trail import Trail, What
from tests.herds import Listed
from tests.serving import HOST, Heard, Script, answering, free_port, scripted, serving

DATA = b"0123456789" * 10
DIGEST = Digest.of(DATA)
BLOB = Request(Repository("registry.test:5000", "lib/app"), Kind.BLOB, DIGEST, authorization="Basic secret")
MAC = PeerMac(b"k" * 32)
BUSY = answering("503 Busy", ["Content-Length: 0"])
GOOD = answering("200 OK", [f"Content-Length: {len(DATA)}"], DATA)


def holder(url: str, name: str, zone: str) -> Holder:
    return Holder(Target(name, "1.1"), url, zone)


@asynccontextmanager
async def peers_at(*urls: str) -> AsyncGenerator[Peers]:
    """Peers that are asked in the order given: each is in a zone of its own behind the first, by standing."""
    standing = Standing("zone", random.Random(1), asyncio.get_running_loop().time)
    holders = [holder(url, f"peer-{number}", "zone" if not number else "elsewhere") for number, url in enumerate(urls)]
    async with Peers(Listed(holders), MAC, standing, "me") as peers:
        yield peers


async def test_a_peer_is_asked_with_a_mac_and_without_the_clients_credentials() -> None:
    async with scripted(GOOD) as server, peers_at(server.url) as peers:
        content = await peers.open(BLOB)
        assert await read_all(content.body, 1000) == DATA
        assert (content.origin, content.holder) == ("peer", "peer-0")
    (heard,) = server.heard
    assert heard.path == f"/v2/lib/app/blobs/{DIGEST}?ns=registry.test:5000"
    assert MAC.verify(heard.headers[HEADER.lower()], Target("peer-0", "1.1"), "GET", heard.path, "")
    assert "authorization" not in heard.headers


async def test_the_range_is_under_the_mac() -> None:
    async with scripted(answering("416 Range", ["Content-Range: bytes */100", "Content-Length: 0"])) as server:
        async with peers_at(server.url) as peers:
            content = await peers.open(BLOB.in_part(ByteRange.starting_at(100)))
            assert content.positions == range(0)
            await content.body.aclose()
    heard = server.heard[0]
    assert MAC.verify(heard.headers[HEADER.lower()], Target("peer-0", "1.1"), "GET", heard.path, "bytes=100-")


async def hang(_: Heard, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def slam(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


BAD: dict[str, tuple[Script, str]] = {
    "stale": (answering("404 Not Found", ["Content-Length: 0"]), "stale"),
    "busy": (BUSY, "unavailable"),
    "forbidden": (answering("403 Forbidden", ["Content-Length: 0"]), "unavailable"),
    "redirecting": (answering("307 Elsewhere", ["Location: http://127.0.0.1:1/", "Content-Length: 0"]), "unavailable"),
    "hung": (hang, "unavailable"),
    "resetting": (slam, "unavailable"),
    "lying": (answering("200 OK", ["Content-Length: 100"], b"x" * 100), "corrupt"),
    "short": (answering("200 OK", ["Content-Length: 200"], DATA), "unavailable"),
}


@pytest.mark.parametrize(("script", "reason"), BAD.values(), ids=BAD.keys())
async def test_a_bad_peer_is_replaced_by_another_one(
    script: Script, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_connection, "SILENCE_S", 0.5)
    request = replace(BLOB, trail=Trail())
    async with scripted(script) as bad, scripted(GOOD) as good:
        async with peers_at(bad.url, good.url) as peers:
            content = await peers.open(request)
            assert await read_all(content.body, 1000) == DATA
            assert content.holder == "peer-1"
    assert request.trail.steps == [(reason, "peer", "peer-0")]


async def test_a_peer_that_failed_is_not_asked_first_again() -> None:
    async with scripted(BUSY) as bad, scripted(GOOD) as good, peers_at(bad.url, good.url) as peers:
        for _ in range(3):
            await (await peers.open(BLOB)).body.aclose()
        assert len(bad.heard) == 1
        assert len(good.heard) == 3


async def test_a_peer_that_broke_off_in_the_same_answer_is_left_out() -> None:
    async with scripted(GOOD) as server, peers_at(server.url) as peers:
        with pytest.raises(NotFoundError):
            await peers.open(BLOB.without(["peer-0"]))
        assert server.heard == []


@pytest.mark.parametrize("herd", [False, True])
async def test_a_second_peer_is_asked_when_the_first_is_slow_to_answer(
    monkeypatch: pytest.MonkeyPatch, herd: bool
) -> None:
    monkeypatch.setattr(hedge, "HEDGE_S_MAX", 0.1)
    request = replace(BLOB, trail=Trail(), hashes=True)
    async with scripted(hang) as slow, scripted(GOOD) as good:
        async with peers_at(slow.url, good.url) as peers, asyncio.timeout(1):
            holders = peers._index.holders(DIGEST)
            content = await (peers.open_from(holders, request, Search()) if herd else peers.open(request))
            assert await read_all(content.body, 1000) == DATA
    assert content.holder == "peer-1"
    assert request.trail.steps == [(What.HEDGED, "peer", "")], "it was only slow, and is not blamed"


@pytest.mark.parametrize(
    ("headers", "givers", "relays"),
    [
        ([], ["peer-0"], []),
        (["Skvaller-Lineage: ", "Skvaller-Givers: upstream"], ["upstream"], ["peer-0"]),
        (["Skvaller-Lineage: rae,ann", "Skvaller-Givers: upstream,ann"], ["upstream", "ann"], ["peer-0", "rae"]),
    ],
)
async def test_who_only_passes_bytes_on_is_a_relay(headers: list[str], givers: list[str], relays: list[str]) -> None:
    script = answering("200 OK", [f"Content-Length: {len(DATA)}", *headers], DATA)
    async with scripted(script) as server, peers_at(server.url) as peers:
        content = await peers.open(BLOB)
        await content.body.aclose()
    assert (content.givers, content.relays) == (givers, relays)


async def test_a_relay_that_goes_on_from_the_registry_is_a_relay_still() -> None:
    class Relay:
        """What is in flight at a node that began with ann and goes on from the registry."""

        async def resolve(self, request: Request) -> Descriptor:
            raise NotImplementedError

        async def open(self, request: Request) -> Content:
            descriptor = Descriptor("a/b", DIGEST, len(DATA))
            return Content(descriptor, range(len(DATA)), MemoryBody(DATA), "peer", "ann", ["ann", "upstream"])

    async with serving(create_registry(Relay(), Metrics().face("peer"))) as url, peers_at(url) as peers:
        content = await peers.open(BLOB)
        await content.body.aclose()
    assert (content.givers, content.relays) == (["ann", "upstream"], ["peer-0"])


async def test_a_dead_peer_costs_one_refused_connection() -> None:
    async with scripted(GOOD) as good, peers_at(f"http://{HOST}:{free_port()}", good.url) as peers:
        assert (await peers.open(BLOB)).holder == "peer-1"


async def test_only_so_many_holders_are_asked() -> None:
    async with scripted(BUSY) as bad, peers_at(*[bad.url] * (TRIES_MAX + 3)) as peers:
        with pytest.raises(UnavailableError, match="peer-"):
            await peers.open(BLOB)
        assert len(bad.heard) == TRIES_MAX


async def test_what_no_member_holds_is_not_found_without_asking() -> None:
    async with peers_at() as peers:
        with pytest.raises(NotFoundError):
            await peers.open(BLOB)


async def test_a_head_is_answered_by_the_first_that_can() -> None:
    async with scripted(slam) as bad, scripted(answering("200 OK", ["Content-Length: 100"])) as good:
        async with peers_at(bad.url, good.url) as peers:
            descriptor = await peers.resolve(BLOB)
    assert (descriptor.digest, descriptor.size) == (DIGEST, 100)


FULL_NAMES_THE_SECOND = answering("503 Full", ["Skvaller-Alternatives: peer-1", "Content-Length: 0"])
NOTHING = answering("404 Not Found", ["Content-Length: 0"])


async def test_the_children_that_a_full_member_names_are_asked_and_it_is_not_blamed() -> None:
    search = Search()
    async with scripted(FULL_NAMES_THE_SECOND) as full, scripted(GOOD) as child, peers_at(full.url, child.url) as peers:
        first = peers._index.holders(DIGEST)[:1]
        content = await peers.open_from(first, BLOB, search)
        assert content.holder == "peer-1"
        assert await read_all(content.body, 1000) == DATA
    assert not search.lost | search.absent


async def test_peers_are_told_how_long_the_client_has_waited() -> None:
    async with scripted(GOOD) as peer, peers_at(peer.url) as peers:
        for waited_s in (0.9, 7.8):
            content = await peers.open_from(peers._index.holders(DIGEST), BLOB, Search(waited_s=waited_s))
            await content.body.aclose()
    assert [heard.headers.get(WAITED_HEADER.lower()) for heard in peer.heard] == [None, "7"]


async def test_a_member_that_is_full_or_has_no_bytes_yet_is_worth_waiting_for_whatever_the_last_one_said() -> None:
    for status, header, expected in (
        ("503 Not yet", "Retry-After: 1", NotYetError),
        ("503 Full", "Skvaller-Alternatives: ", FullError),
    ):
        worth_it = answering(status, [header, "Content-Length: 0"])
        async with scripted(worth_it) as first, scripted(slam) as last, peers_at(first.url, last.url) as peers:
            with pytest.raises(expected):
                await peers.open_from(peers._index.holders(DIGEST), BLOB, Search())


async def test_children_in_another_zone_are_passed_over_by_those_who_keep_to_theirs() -> None:
    async with scripted(FULL_NAMES_THE_SECOND) as full, scripted(GOOD) as child, peers_at(full.url, child.url) as peers:
        first = peers._index.holders(DIGEST)[:1]
        with pytest.raises(UnavailableError, match="slots are taken"):
            await peers.open_from(first, BLOB, Search("zone"))
        assert not child.heard


async def test_what_is_read_whole_before_it_is_given_is_not_fetched_twice_in_a_herd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hedge, "HEDGE_S_MAX", 0.1)

    async def slowly(heard: Heard, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
        for position in range(0, 100, 10):
            writer.write((head if not position else b"") + DATA[position : position + 10])
            await asyncio.sleep(0.03)

    async with scripted(slowly) as first, scripted(GOOD) as second, peers_at(first.url, second.url) as peers:
        content = await peers.open_from(peers._index.holders(DIGEST), BLOB, Search())
        assert await read_all(content.body, 1000) == DATA
    assert content.holder == "peer-0"
    assert not second.heard


async def test_one_that_another_named_may_wait_for_bytes_itself_and_is_not_hurried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hedge, "HEDGE_S_MAX", 0.1)
    request = replace(BLOB, trail=Trail(), hashes=True)
    names_two = answering("503 Full", ["Skvaller-Alternatives: peer-1,peer-2", "Content-Length: 0"])

    async def late(heard: Heard, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        await GOOD(heard, writer)

    async with scripted(names_two) as full, scripted(late) as child, scripted(GOOD) as other:
        async with peers_at(full.url, child.url, other.url) as peers:
            content = await peers.open_from(peers._index.holders(DIGEST)[:1], request, Search())
            assert await read_all(content.body, 1000) == DATA
    assert content.holder == "peer-1"
    assert not other.heard


async def test_who_is_about_to_have_it_is_asked_again_after_the_others() -> None:
    answers = iter([answering("503 Not yet", ["Retry-After: 1", "Content-Length: 0"]), GOOD])

    async def soon(heard: Heard, writer: asyncio.StreamWriter) -> None:
        await next(answers)(heard, writer)

    search = Search()
    async with scripted(soon) as first, scripted(NOTHING) as second, peers_at(first.url, second.url) as peers:
        content = await peers.open_from(peers._index.holders(DIGEST), BLOB, search)
        assert content.holder == "peer-0"
        await content.body.aclose()
        assert len(first.heard) == 2
    assert (search.lost, search.absent, search.barren) == (set(), {"peer-1"}, {"peer-0"})


async def test_whom_a_full_one_names_is_not_asked_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "HOPS_S", -1.0)
    async with scripted(FULL_NAMES_THE_SECOND) as full, scripted(GOOD) as child, peers_at(full.url, child.url) as peers:
        with pytest.raises(FullError):
            await peers.open_from(peers._index.holders(DIGEST)[:1], BLOB, Search())
        assert not child.heard


async def test_one_that_does_not_answer_for_long_keeps_nobody_from_asking_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers_module, "HOPS_S", 0.0)
    async with scripted(slam) as first, scripted(GOOD) as second, peers_at(first.url, second.url) as peers:
        content = await peers.open_from(peers._index.holders(DIGEST), BLOB, Search())
        assert content.holder == "peer-1"
        await content.body.aclose()


async def test_bytes_that_come_through_this_node_itself_are_not_taken_and_nobody_is_blamed() -> None:
    own = answering("200 OK", [f"Content-Length: {len(DATA)}", "Skvaller-Lineage: dad,me"], DATA)
    search = Search()
    async with scripted(own) as child, peers_at(child.url) as peers:
        with pytest.raises(NotFoundError):
            await peers.open_from(peers._index.holders(DIGEST), BLOB, search)
    assert (search.lost, search.absent) == (set(), {"peer-0"})


async def test_who_cannot_be_reached_is_lost_and_who_has_nothing_absent() -> None:
    search = Search()
    async with scripted(NOTHING) as empty, peers_at(f"http://{HOST}:{free_port()}", empty.url) as peers:
        with pytest.raises(UnavailableError):
            await peers.open_from(peers._index.holders(DIGEST), BLOB, search)
    assert (search.lost, search.absent) == ({"peer-0"}, {"peer-1"})
