"""Upload slots: what a full node says, and what the one that asked makes of it."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from starlette.middleware import Middleware
from starlette.types import Message, Receive, Scope, Send

from mirror import upload_slots
from mirror.choice import Holder, Standing
from mirror.errors import UnavailableError
from mirror.extensions import SPLICE
from mirror.load import (
    ALTERNATIVES_HEADER,
    ALTERNATIVES_MAX,
    LOAD_HEADER,
    WAITED_HEADER,
    Load,
    read_names,
    write_names,
)
from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, Descriptor, Digest, Kind, Repository
from mirror.peer_mac import Target
from mirror.peers import Peers
from mirror.pieces import Piece
from mirror.registry import create_registry
from mirror.source import Content, Request, read_all
from mirror.trail import READER_HEADER, Trail, What
from mirror.upload_slots import ANSWERS_MAX, CHILDREN_MAX, WAIT_S, Surroundings, UploadSlots
from tests.herds import Listed
from tests.serving import serving

DATA = b"x" * 100
DIGEST = Digest.of(DATA)
BLOB = Request(Repository("registry.test", "lib/app"), Kind.BLOB, DIGEST)
SLOTS = 2


class Slow:
    """A store whose objects end only when they may."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    async def resolve(self, request: Request) -> Descriptor:
        return Descriptor(OCTET_STREAM, request.digest, len(DATA))

    async def open(self, request: Request) -> Content:
        return Content(await self.resolve(request), range(len(DATA)), self, "store")

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        yield DATA[:50]
        await self.may_end.wait()
        yield DATA[50:]

    async def aclose(self) -> None:
        return


@asynccontextmanager
async def node(
    store: Slow, metrics: Metrics, *alternatives: str, lineage: Sequence[str] = (), slow: bool = False
) -> AsyncGenerator[str]:
    """The peer face of a node with `SLOTS` upload slots."""
    slots = Middleware(
        UploadSlots,
        observer=metrics.face("peer"),
        slots=SLOTS,
        surroundings=Surroundings(
            lambda digest: list(alternatives),
            lambda digest: lineage,
            lambda name: not name.startswith("far"),
            lambda: slow,
        ),
    )
    async with serving(create_registry(store, metrics.face("peer"), [slots])) as url:
        yield url


def blob(url: str) -> str:
    return f"{url}/v2/lib/app/blobs/{DIGEST}?ns=registry.test"


async def test_a_node_that_was_found_slow_sends_newcomers_to_others_if_there_are_any() -> None:
    store, metrics = Slow(), Metrics()
    store.may_end.set()
    async with aiohttp.ClientSession() as session:
        async with node(store, metrics, "other", slow=True) as url, session.get(blob(url)) as answer:
            assert answer.status == 503
            assert answer.headers[ALTERNATIVES_HEADER] == "other"
        waited = {WAITED_HEADER: str(math.ceil(WAIT_S))}
        async with node(store, metrics, "other", slow=True) as url, session.get(blob(url), headers=waited) as answer:
            assert answer.status == 200
        async with node(store, metrics, slow=True) as url, session.get(blob(url)) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("same_blob", "lineage", "more"),
    [(False, [], True), (False, ["giver"], True), (True, [], True), (True, ["giver"], False)],
    ids=["other blobs", "other blobs on their way", "a blob that it has itself", "a blob that it has from a node"],
)
async def test_a_node_whose_readers_all_keep_up_gives_to_one_more_after_a_while(
    same_blob: bool, lineage: list[str], more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_slots, "RAISE_S", 0.05)
    keeps_up, ended = False, asyncio.Event()

    async def holding(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await ended.wait()

    surroundings = Surroundings(lambda digest: [], lambda digest: lineage, lambda name: True, lambda: False)
    slots = UploadSlots(holding, Metrics().face("peer"), SLOTS, surroundings)

    async def status(child: str) -> int:
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.set_result(message["status"])

        async def receive() -> Message:
            raise NotImplementedError

        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/v2/lib/app/blobs/{DIGEST if same_blob else Digest.of(child.encode())}",
            "headers": [(READER_HEADER.lower().encode(), child.encode())],
            "extensions": {SPLICE: {"keeps_up": lambda: keeps_up}},
        }
        tasks.append(asyncio.create_task(slots(scope, receive, send)))
        return await answered

    tasks: list[asyncio.Task[None]] = []
    assert [await status(name) for name in ("ann", "bob", "cyd")] == [200, 200, 503]
    await asyncio.sleep(0.1)
    assert await status("cyd") == 503
    keeps_up = True
    assert [await status(name) for name in ("cyd", "dan")] == [200 if more else 503, 503]
    await asyncio.sleep(0.1)
    assert await status("dan") == (200 if more else 503)
    ended.set()
    await asyncio.gather(*tasks)


async def test_a_full_node_says_503_with_its_load_and_names_others() -> None:
    store, metrics = Slow(), Metrics()
    names = ["node-b", "käthe, the 2nd", *"cdefghi"]
    async with node(store, metrics, *names) as url, aiohttp.ClientSession() as session:
        first, second = await session.get(blob(url)), await session.get(blob(url))
        assert (first.headers[LOAD_HEADER], second.headers[LOAD_HEADER]) == ("0/2", "1/2")
        async with session.get(blob(url)) as third:
            assert third.status == 503
            assert third.headers[LOAD_HEADER] == "2/2"
            assert read_names(third.headers[ALTERNATIVES_HEADER], ALTERNATIVES_MAX) == tuple(names[:ALTERNATIVES_MAX])
            assert (await third.json())["errors"][0]["code"] == "UNAVAILABLE"
        store.may_end.set()
        assert await first.read() == await second.read() == DATA
        async with session.get(blob(url)) as again:
            assert again.status == 200
    assert metrics.refused.labels("peer", "slots")._value.get() == 1


async def test_who_has_waited_gets_a_slot_beyond_the_others() -> None:
    store = Slow()
    async with node(store, Metrics(), "other") as url, aiohttp.ClientSession() as session:
        answers: list[aiohttp.ClientResponse] = []

        async def status(waited: str) -> int:
            headers = {READER_HEADER: f"member {len(answers)}", WAITED_HEADER: waited}
            answers.append(await session.get(blob(url), headers=headers))
            return answers[-1].status

        assert [await status(waited) for waited in ("", "1", "2")] == [200, 200, 503]
        assert [await status(waited) for waited in ("3", "5", "6", "8")] == [200, 503, 200, 503]
        assert [await status(waited) for waited in ("-9", "x", "9" * 40)] == [503] * 3, "nonsense is no time"
        for answer in answers:
            answer.close()


async def test_slots_may_be_more_than_the_answers_that_are_given_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_upload_slots.SLOTS", ANSWERS_MAX + 1)
    async with (
        node(Slow(), Metrics()) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        busy = [await session.get(blob(url)) for _ in range(ANSWERS_MAX + 1)]
        assert {response.status for response in busy} == {200}
        async with session.get(blob(url)) as beyond:
            assert beyond.status == 503
        for response in busy:
            response.close()


async def test_what_is_no_blob_needs_no_slot() -> None:
    async with node(Slow(), Metrics()) as url, aiohttp.ClientSession() as session:
        busy = [await session.get(blob(url)) for _ in range(SLOTS)]
        async with session.head(blob(url)) as head, session.get(f"{url}/v2/") as version:
            assert (head.status, version.status) == (200, 200)
            assert head.headers[LOAD_HEADER] == "2/2"
        async with session.get(f"{url}/v2/lib/app/blobs/nonsense?ns=registry.test") as wrong:
            assert wrong.status == 400
        for response in busy:
            response.close()


async def test_a_peer_that_leaves_gives_its_slot_back() -> None:
    store = Slow()
    async with node(store, Metrics()) as url, aiohttp.ClientSession() as session:
        for _ in range(SLOTS * 3):
            (await session.get(blob(url))).close()
            await asyncio.sleep(0.05)
        store.may_end.set()
        async with asyncio.timeout(5):
            while (await session.get(blob(url))).status != 200:
                await asyncio.sleep(0.01)


def asked_by(name: str) -> dict[str, str]:
    return {READER_HEADER: name}


async def test_a_full_node_names_its_children_first_and_never_the_one_that_asks() -> None:
    store = Slow()
    async with node(store, Metrics(), "n1", "bob", "cyd") as url, aiohttp.ClientSession() as session:
        busy = [await session.get(blob(url), headers=asked_by(name)) for name in ("ann", "bob")]
        assert len(busy) == CHILDREN_MAX
        async with session.get(blob(url), headers=asked_by("cyd")) as third:
            named = read_names(third.headers[ALTERNATIVES_HEADER], ALTERNATIVES_MAX)
        assert sorted(named[:2]) == ["ann", "bob"]
        assert named[2:] == ("n1",)
        async with session.get(blob(url), headers=asked_by("n1")) as other:
            named = read_names(other.headers[ALTERNATIVES_HEADER], ALTERNATIVES_MAX)
        assert sorted(named[:2]) == ["ann", "bob"]
        assert named[2:] == ("cyd",)
        store.may_end.set()
        for response in busy:
            await response.read()


async def test_whom_the_bytes_come_through_is_told_at_once_that_there_are_none_for_it() -> None:
    store = Slow()
    async with node(store, Metrics(), lineage=["dad", "granny"]) as url, aiohttp.ClientSession() as session:
        busy = [await session.get(blob(url)) for _ in range(SLOTS)]
        async with session.get(blob(url), headers=asked_by("granny")) as asked:
            assert asked.status == 404
            assert ALTERNATIVES_HEADER not in asked.headers
        for response in busy:
            response.close()


async def test_a_slot_is_kept_for_the_nodes_of_the_own_zone() -> None:
    store = Slow()
    async with node(store, Metrics()) as url, aiohttp.ClientSession() as session:
        far = await session.get(blob(url), headers=asked_by("far1"))
        async with session.get(blob(url), headers=asked_by("far2")) as second:
            assert second.status == 503
            assert read_names(second.headers[ALTERNATIVES_HEADER], ALTERNATIVES_MAX) == ("far1",)
        near = await session.get(blob(url), headers=asked_by("near"))
        assert (far.status, near.status) == (200, 200)
        for response in (far, near):
            response.close()


async def test_a_member_may_have_several_parts_of_a_blob_and_counts_once() -> None:
    store = Slow()
    async with node(store, Metrics()) as url, aiohttp.ClientSession() as session:
        readers = ("ann", "ann", "ann", "far")
        busy = [await session.get(blob(url), headers=asked_by(name)) for name in readers]
        assert [response.status for response in busy] == [200] * len(readers)
        async with session.get(blob(url), headers=asked_by("cyd")) as third:
            assert (third.status, third.headers[LOAD_HEADER]) == (503, "2/2")
        while len(busy) < ANSWERS_MAX:
            busy.append(await session.get(blob(url), headers=asked_by("far")))
            assert busy[-1].status == 200
        async with session.get(blob(url), headers=asked_by("ann")) as beyond:
            assert beyond.status == 503, "there is an end to it"
        for response in busy:
            response.close()


def at(*urls: str) -> Listed:
    return Listed([Holder(Target(f"n{number}", "1"), url, str(number)) for number, url in enumerate(urls)])


async def test_a_full_peer_is_left_for_the_one_that_it_names_and_is_not_blamed() -> None:
    full, free, metrics = Slow(), Slow(), Metrics()
    request = replace(BLOB, trail=Trail())
    free.may_end.set()
    standing = Standing("0", random.Random(1), asyncio.get_running_loop().time)
    async with node(full, metrics, "n5") as busy, node(free, metrics) as named, aiohttp.ClientSession() as session:
        taken = [await session.get(blob(busy)) for _ in range(SLOTS)]
        index = at(busy, *["http://127.0.0.1:1"] * 4, named)  # only the named one can be reached within the tries
        async with Peers(index, None, standing) as peers:
            content = await peers.open(request)
            assert content.holder == "n5"
            assert await read_all(content.body, 1000) == DATA
            assert request.trail.steps == [(What.FULL, "peer", "n0")]
            assert peers.alternatives(DIGEST)[0] != "n0", "it is full, as it said, and so comes after the others"
        for response in taken:
            response.close()


async def test_when_all_are_full_peers_are_unavailable() -> None:
    standing = Standing("0", random.Random(1), asyncio.get_running_loop().time)
    async with node(Slow(), Metrics()) as url, aiohttp.ClientSession() as session:
        taken = [await session.get(blob(url)) for _ in range(SLOTS)]
        async with Peers(at(url), None, standing) as peers:
            with pytest.raises(UnavailableError, match="slots are taken"):
                await peers.open(BLOB)
        for response in taken:
            response.close()


@pytest.mark.parametrize("text", [None, "", "3", "3/0", "-1/5", "3/64/7", "a/b", "1/99999999", " 1/2", "٣/٦"])
def test_a_load_that_makes_no_sense_is_ignored(text: str | None) -> None:
    assert Load.parse(text) is None


def test_names_of_any_kind_come_through_a_header() -> None:
    names = ("a", "b c", "ü,%", "x\r\ny")
    assert read_names(write_names(names), ALTERNATIVES_MAX) == names
    assert write_names(names).isascii()
    assert "\n" not in write_names(names)
    assert read_names(None, 8) == read_names("", 8) == ()
