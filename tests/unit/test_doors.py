"""Both faces of the registry are closed to those they are not for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from mirror.doors import LoopbackDoor, PeerDoor
from mirror.peer_mac import HEADER, PeerMac, Target

KEY = b"k" * 32
ME = Target("node-a", "3.14")
MAC = PeerMac(KEY)


class Refusals(list[str]):
    def refused(self, reason: str) -> None:
        self.append(reason)


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def knock(door: LoopbackDoor | PeerDoor, **scope: object) -> int:
    messages: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("a door reads no body")

    async def send(message: Message) -> None:
        messages.append(message)

    request: Scope = {
        "type": "http",
        "method": "GET",
        "client": ("127.0.0.1", 40000),
        "raw_path": b"/v2/a/blobs/x",
        "query_string": b"ns=registry.test",
        "headers": [],
        **scope,
    }
    await door(request, receive, send)
    status: int = messages[0]["status"]
    return status


@pytest.mark.parametrize("host", [b"127.0.0.1:29990", b"localhost:29990", b"LOCALHOST", b"[::1]:29990", b"127.0.0.1"])
async def test_a_client_of_this_machine_comes_in(host: bytes) -> None:
    assert await knock(LoopbackDoor(inside, Refusals()), headers=[(b"host", host)]) == 200
    assert await knock(LoopbackDoor(inside, Refusals()), headers=[(b"host", host)], client=("::1", 1)) == 200


@pytest.mark.parametrize("client", [("10.0.0.9", 40000), ("fe80::1", 40000), ("::ffff:10.0.0.9", 1), None])
async def test_a_client_of_another_machine_stays_out(client: tuple[str, int] | None) -> None:
    refusals = Refusals()
    assert await knock(LoopbackDoor(inside, refusals), headers=[(b"host", b"127.0.0.1")], client=client) == 403
    assert refusals == ["address"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"host", b"attacker.example")],
        [(b"host", b"127.0.0.1.attacker.example:29990")],
        [(b"host", b"attacker.example#127.0.0.1")],
        [(b"host", b"127.0.0.1"), (b"host", b"attacker.example")],
    ],
)
async def test_a_foreign_host_header_stays_out(headers: list[tuple[bytes, bytes]]) -> None:
    refusals = Refusals()
    assert await knock(LoopbackDoor(inside, refusals), headers=headers) == 403
    assert refusals == ["host"]


def signed(
    path: str, *, mac: PeerMac = MAC, target: Target = ME, method: str = "GET", part: str = ""
) -> list[tuple[bytes, bytes]]:
    headers = [(HEADER.lower().encode(), mac.sign(target, method, path, part).encode())]
    return [*headers, (b"range", part.encode())] if part else headers


def peer_door(refusals: Refusals) -> PeerDoor:
    return PeerDoor(inside, refusals, PeerMac(KEY), lambda: ME)


PATH = "/v2/a/blobs/x?ns=registry.test"


async def test_a_member_comes_in() -> None:
    assert await knock(peer_door(Refusals()), headers=signed(PATH)) == 200
    assert await knock(peer_door(Refusals()), headers=signed(PATH, part="bytes=5-")) == 200


async def test_while_the_secret_changes_members_that_share_one_of_several_come_in() -> None:
    new = b"n" * 32
    for asker, door in (((new, KEY), (KEY,)), ((KEY,), (new, KEY)), ((new, KEY), (new,)), ((KEY, new), (new, KEY))):
        refusals = Refusals()
        headers = signed(PATH, mac=PeerMac(*asker))
        assert await knock(PeerDoor(inside, refusals, PeerMac(*door), lambda: ME), headers=headers) == 200
        assert await knock(PeerDoor(inside, refusals, PeerMac(b"x" * 32), lambda: ME), headers=headers) == 403


def test_more_macs_than_a_cluster_has_secrets_are_not_looked_at() -> None:
    mac = MAC.sign(ME, "GET", PATH, "")
    assert MAC.verify(",,," + mac, ME, "GET", PATH, "")
    assert not MAC.verify(",,,," + mac, ME, "GET", PATH, "")


@pytest.mark.parametrize(
    "headers",
    [
        signed(PATH, mac=PeerMac(b"x" * 32)),
        signed(PATH, target=Target("node-b", "3.14")),
        signed(PATH, target=Target("node-a", "2.14")),
        signed(PATH, method="HEAD"),
        signed("/v2/a/blobs/y?ns=registry.test"),
        signed("/v2/a/blobs/x?ns=other.test"),
        [*signed(PATH), (b"range", b"bytes=5-")],
        [(HEADER.lower().encode(), "é".encode("latin-1"))],
    ],
)
async def test_a_mac_for_anything_else_stays_out(headers: object) -> None:
    refusals = Refusals()
    assert await knock(peer_door(refusals), headers=headers) == 403
    assert refusals == ["mac"]


async def test_a_stranger_stays_out() -> None:
    refusals = Refusals()
    assert await knock(peer_door(refusals)) == 403
    assert refusals == ["no_mac"]


@given(st.lists(st.text(max_size=8), min_size=5, max_size=5), st.lists(st.text(max_size=8), min_size=5, max_size=5))
def test_only_the_same_request_has_the_same_mac(one: list[str], other: list[str]) -> None:
    mac = PeerMac(KEY)

    def sign(fields: list[str]) -> str:
        return mac.sign(Target(fields[0], fields[1]), fields[2], fields[3], fields[4])

    assert (sign(one) == sign(other)) == (one == other)
