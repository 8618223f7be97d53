"""Watching a herd: whoever looks finds all of it, whatever the others say, and asks only so many."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from mirror.choice import Holder, Standing
from mirror.commands.herd import herd_lines
from mirror.doors import PeerDoor
from mirror.errors import UnavailableError
from mirror.herd.roster import Place, Roster
from mirror.herd.watch import ANSWER_S, ASKED_MAX, AT_ONCE, LOOK_S, ROUNDS_MAX, TURN_S, HerdWatch
from mirror.herd.words import NAMES_MAX, Part, read_part
from mirror.local_api import answer_part, create_local_api
from mirror.metrics import Metrics
from mirror.oci import Digest
from mirror.peer_mac import PeerMac, Target
from mirror.peers import Peers
from tests.herds import Listed
from tests.serving import serving
from tests.simulated_time import run

REGISTRY, DIGEST = "registry.test", Digest.of(b"layer")
SIZE = 1000


@dataclass
class Herd:
    """Members of a cluster, each with its part; those of no part do not answer."""

    parts: dict[str, Part | bytes | None]
    whole: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    at_once: int = 0
    at_once_max: int = 0
    zones: dict[str, str] = field(default_factory=dict)

    def roster(self) -> Roster:
        return Roster(self._place("me"), [self._place(name) for name in self.parts if name != "me"])

    def _place(self, name: str) -> Place:
        return Place(name, self.zones.get(name, ""))

    def member(self, name: str) -> Holder | None:
        known = name in self.parts and name != "me"
        return Holder(Target(name, "1.1"), f"http://{name}", self.zones.get(name, "")) if known else None

    def holders(self, digest: Digest) -> list[Holder]:
        return [holder for holder in map(self.member, self.whole) if holder is not None]

    def own_part(self, registry: str, digest: Digest) -> Part:
        assert (registry, digest) == (REGISTRY, DIGEST)
        own = self.parts["me"]
        assert isinstance(own, Part)
        return own

    async def ask_part(self, holder: Holder, path: str) -> bytes:
        assert parse_qs(urlsplit(path).query) == {"digest": [str(DIGEST)], "registry": [REGISTRY]}
        self.asked.append(holder.target.name)
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            part = self.parts[holder.target.name]
            await asyncio.sleep(0.01 if part is not None else 2 * ANSWER_S)
        finally:
            self.at_once -= 1
        if part is None:
            raise UnavailableError("it is gone")
        return part if isinstance(part, bytes) else orjson.dumps(part)

    async def look(self) -> dict[str, Any]:
        seen = await HerdWatch(self.own_part, self, self).look(REGISTRY, DIGEST)
        assert self.at_once_max <= AT_ONCE
        assert len(self.asked) == len(set(self.asked)), "nobody is asked twice"
        return seen


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(scene())


def coordinator(herd: Herd) -> str:
    return herd.roster().in_cluster(f"{REGISTRY} {DIGEST}".encode())[0]


def tree_of(nodes: int, watcher: Part) -> Herd:
    """A leader, two below it, two below each of these, and so on, which one watches from outside."""
    parts: dict[str, Part | bytes | None] = {"me": watcher}
    for number in range(nodes):
        readers = tuple(f"n{child}" for child in (2 * number + 1, 2 * number + 2) if child < nodes)
        giver = f"n{(number - 1) // 2}" if number else ""
        parts[f"n{number}"] = Part(taking=True, giver=giver, done=nodes - number, size=SIZE, readers=readers)
    herd = Herd(parts)
    for scope in herd.roster().in_cluster(f"{REGISTRY} {DIGEST}".encode()):
        part = herd.parts[scope]
        assert isinstance(part, Part)
        part.leaders = ("n0",)
    return herd


def givers(seen: dict[str, Any]) -> dict[str, str]:
    return {node["name"]: node["giver"] for node in seen["nodes"]}


def test_a_herd_of_which_one_is_no_part_is_found_through_its_coordinators() -> None:
    async def scene() -> None:
        seen = await tree_of(100, Part()).look()
        assert givers(seen) == {f"n{number}": f"n{(number - 1) // 2}" if number else "" for number in range(100)}
        assert seen["size"] == SIZE
        assert all(node["answers"] and node["taking"] for node in seen["nodes"])
        assert {node["name"]: node["done"] for node in seen["nodes"]}["n99"] == 1

    play(scene)


def test_a_follower_finds_the_herd_through_its_giver_when_no_coordinator_answers() -> None:
    async def scene() -> None:
        herd = Herd({"me": Part(taking=True, giver="ann", done=5, size=SIZE), "bob": Part(), "dan": None})
        herd.parts["ann"] = Part(taking=True, done=9, size=SIZE, readers=("me", "dan"))
        seen = await herd.look()
        assert givers(seen) == {"ann": "", "me": "ann", "dan": "ann"}
        assert [node["name"] for node in seen["nodes"] if not node["answers"]] == ["dan"]

    play(scene)


def test_who_gives_from_its_store_is_the_root_of_those_that_it_gives_to() -> None:
    async def scene() -> None:
        many: dict[str, Part | bytes | None] = {f"other-{number}": Part() for number in range(20)}
        herd = Herd({"me": Part(), "ann": Part(held=True, size=SIZE, readers=("bob",)), **many}, whole=["ann"])
        herd.parts["bob"] = Part(taking=True, giver="ann", done=1, size=SIZE)
        assert givers(await herd.look()) == {"ann": "", "bob": "ann"}

    play(scene)


def test_a_herd_larger_than_a_look_is_told_as_far_as_it_was_asked() -> None:
    async def scene() -> None:
        herd = tree_of(2000, Part())
        seen = await herd.look()
        assert ASKED_MAX - AT_ONCE <= len(herd.asked) <= ASKED_MAX + AT_ONCE
        assert len(seen["nodes"]) > 1.8 * ASKED_MAX, "those to whom somebody gives are named"
        assert seen["unasked"] == sum(not node["answers"] for node in seen["nodes"]) > 0

    play(scene)


def test_nodes_that_are_silent_cost_a_bounded_time() -> None:
    async def scene() -> None:
        gone = {f"gone-{number}": None for number in range(NAMES_MAX)}
        herd = Herd({"me": Part(taking=True, size=SIZE, readers=tuple(gone)), **gone})
        seen = await herd.look()
        assert asyncio.get_running_loop().time() <= LOOK_S + ANSWER_S
        assert len(seen["nodes"]) == 1 + NAMES_MAX

    play(scene)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"[]",
        b"{}x",
        b'{"readers": "bob"}',
        b'{"done": -1}',
        b'{"giver": 1}',
        orjson.dumps({"readers": ["x"] * (NAMES_MAX + 1)}),
    ],
)
def test_nonsense_is_no_answer(nonsense: bytes) -> None:
    async def scene() -> None:
        herd = Herd({"me": Part(taking=True, giver="ann", size=SIZE), "ann": nonsense})
        seen = await herd.look()
        assert [(node["name"], node["answers"]) for node in seen["nodes"]] == [("ann", False), ("me", True)]

    play(scene)


def test_however_many_look_the_nodes_are_asked_once_in_a_turn() -> None:
    async def scene() -> None:
        herd = Herd({"me": Part(), "ann": Part(taking=True, size=SIZE)})
        watch = HerdWatch(herd.own_part, herd, herd)
        await asyncio.gather(*(watch.look(REGISTRY, DIGEST) for _ in range(50)))
        assert herd.asked == ["ann"]
        await asyncio.sleep(TURN_S)
        await watch.look(REGISTRY, DIGEST)
        assert herd.asked == ["ann", "ann"]

    play(scene)


def test_the_command_draws_every_node_once_even_if_what_they_say_is_no_tree() -> None:
    async def scene() -> None:
        herd = Herd({"me": Part(taking=True, giver="ann", done=500, size=SIZE)})
        herd.parts["ann"] = Part(taking=True, giver="me", done=250, size=SIZE, readers=("me", "cyd"))
        herd.parts["cyd"] = Part(held=True)
        lines = list(herd_lines(await herd.look()))
        assert lines[0] == "2 nodes are fetching it, of 1.0 kB each; 750 B so far"
        assert sorted(line.split()[0] for line in lines[1:]) == ["ann", "cyd", "me"]
        assert "  cyd  has it" in lines

    play(scene)
    assert list(herd_lines({"nodes": []})) == ["no node is fetching it"]


def test_relays_are_asked_who_gave_an_object_and_those_that_do_not_say_cost_a_bounded_time() -> None:
    async def scene() -> None:
        herd = Herd({"me": Part(), "bob": Part(), "cyd": None, "dan": b"[]"})
        herd.parts["ann"] = Part(givers=("upstream", "bob"), relays=("fay", "me"))
        herd.parts["fay"] = Part(givers=("upstream", "gus"), relays=("ann",))
        watch = HerdWatch(herd.own_part, herd, herd)
        for silent in ("", "bob", "cyd", "dan", "eve"):
            began = asyncio.get_running_loop().time()
            told = await watch.relayed(REGISTRY, DIGEST, {"ann", silent or "ann"})
            assert told == ({"upstream", "bob", "gus"}, not silent)
            assert asyncio.get_running_loop().time() - began <= ANSWER_S + 0.02
        assert "me" not in herd.asked

    play(scene)


def test_relays_that_name_ever_more_are_not_asked_without_end() -> None:
    async def scene() -> None:
        chain = {f"n{number}": Part(givers=("ann",), relays=(f"n{number + 1}",)) for number in range(100)}
        herd = Herd({"me": Part(), **chain})
        told = await HerdWatch(herd.own_part, herd, herd).relayed(REGISTRY, DIGEST, {"n0"})
        assert told == ({"ann"}, False)
        assert len(herd.asked) == ROUNDS_MAX

    play(scene)


async def test_members_answer_members_and_nobody_else() -> None:
    mac, stranger = PeerMac(b"k" * 32), PeerMac(b"x" * 32)
    ann = Target("ann", "1.1")
    door = Middleware(PeerDoor, observer=Metrics().face("peer"), mac=mac, me=lambda: ann)
    told = Part(taking=True, giver="bob", done=3, size=SIZE, readers=("cyd",))
    mounted = Mount("/-", create_local_api({"herd": answer_part(lambda _registry, _digest: told)}))
    async with serving(Starlette(routes=[mounted], middleware=[door])) as url:
        for key in (mac, stranger):
            standing = Standing("", random.Random(1), asyncio.get_running_loop().time)
            holder = Holder(ann, url, "")
            async with Peers(Listed([holder]), key, standing, "me") as peers:
                asking = peers.ask_part(holder, f"/-/herd?digest={DIGEST}&registry={REGISTRY}")
                if key is mac:
                    assert read_part(await asking) == told
                else:
                    with pytest.raises(UnavailableError, match="403"):
                        await asking
