"""What the gossip node relies on in its transport. A second implementation has to pass this to take its place.

Two pass it: the product's, and the same with aiozmq replaced by sixty lines on the event loop's own reader
(`tests.conformance.reader_connection`), which shows that the seam holds.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

import pytest

from gossip import BindError, ClusterSecret
from gossip.codec import MESSAGE_BYTES_MAX
from gossip.transport import Address, Handler, Transport
from tests.conformance.reader_connection import create_reader_connection
from tests.integration.gossip.nodes import free_ports, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from gossip.secret import CurveKeys

    Frames = list[bytes]

HOST = "127.0.0.1"
QUIET_S = 0.1
"""Long enough for what should not come to come."""
CLOSE_S = 3.0
CURRENT, PREVIOUS, FOREIGN = (
    ClusterSecret(word * 32).curve_keys()[0] for word in (b"current", b"previous", b"foreign")
)


class Seam(Protocol):
    """What the node calls. Frames are lists of bytes, the first of what is published a topic of one letter."""

    async def start(self, address: str, publish_port: int, router_port: int) -> None: ...

    def publish(self, frames: Frames) -> None: ...

    def send(self, to: Address, frames: Frames) -> None: ...

    def link(self, name: str, address: Address) -> None: ...

    def unlink(self, name: str) -> None: ...

    async def close(self) -> None: ...


class End:
    """One end of the wire: a transport, and all that it told. `answer` says what to reply to a message at once."""

    def __init__(self, transport_of: Callable[[Handler, Sequence[CurveKeys]], Seam], keys: Sequence[CurveKeys]) -> None:
        self.hellos: list[Frames] = []
        self.published: list[Frames] = []
        self.asked: list[Frames] = []
        self.replies: list[Callable[[Frames], None]] = []
        self.events: list[str] = []
        self.counts: Counter[str] = Counter()
        self.answer: Callable[[Frames], Frames | None] = lambda _frames: None
        self.ports: list[int] = []
        self._keys = keys
        self.transport = transport_of(
            Handler(
                received=self._received,
                connected=lambda name: self.events.append(f"+{name}"),
                disconnected=lambda name: self.events.append(f"-{name}"),
                refused=lambda: self.counts.update(["refused"]),
                dropped=lambda: self.counts.update(["dropped"]),
                failed=lambda error: self.events.append(repr(error)),
            ),
            keys,
        )

    @property
    def publisher(self) -> Address:
        return Address(HOST, self.ports[0], self._keys[0].public if self._keys else b"")

    @property
    def router(self) -> Address:
        return Address(HOST, self.ports[1], self._keys[0].public if self._keys else b"")

    async def start(self, ports: list[int] | None = None) -> None:
        self.ports = ports or free_ports(2)
        await self.transport.start(HOST, *self.ports)

    async def listen_to(self, other: End) -> None:
        """Link, and wait until what the other publishes arrives."""
        self.transport.link("other", other.publisher)
        await self.hears(other)

    async def hears(self, other: End) -> None:
        hello = [b"H", os.urandom(8)]

        def heard() -> bool:
            other.transport.publish(hello)
            return hello in self.hellos

        await until(heard)

    def _received(self, frames: Frames, reply: Callable[[Frames], None] | None) -> None:
        if reply is None:
            (self.hellos if frames[0] == b"H" else self.published).append(frames)
            return
        self.asked.append(frames)
        self.replies.append(reply)
        if (answer := self.answer(frames)) is not None:
            reply(answer)


@pytest.fixture(params=["aiozmq", "add_reader"])
async def end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., End]]:
    """Makes ends by one implementation and closes them; it is an error when their transport failed."""
    if request.param == "add_reader":
        replacement = SimpleNamespace(create_zmq_connection=create_reader_connection)
        monkeypatch.setattr("gossip.channel.aiozmq", replacement)
    made: list[End] = []

    def make(*keys: CurveKeys) -> End:
        made.append(End(Transport, keys))
        return made[-1]

    yield make
    for one in made:
        await asyncio.wait_for(one.transport.close(), CLOSE_S)
        assert all(event[0] in "+-" for event in one.events), one.events


async def started(end: Callable[..., End], count: int, *keys: CurveKeys) -> list[End]:
    """So many ends that listen."""
    ends = [end(*keys) for _ in range(count)]
    for one in ends:
        await one.start()
    return ends


# What is published.


async def test_what_is_published_reaches_all_who_listen_whole_and_in_order(end: Callable[..., End]) -> None:
    speaker, *listeners = await started(end, 3)
    for listener in listeners:
        await listener.listen_to(speaker)
    messages = [[b"E", b"header %d" % number, b"", bytes(number)] for number in range(300)]
    for message in messages:
        speaker.transport.publish(message)
    await until(lambda: all(listener.published == messages for listener in listeners))
    assert not speaker.published


async def test_who_stopped_listening_hears_nothing_and_is_told_nothing(end: Callable[..., End]) -> None:
    speaker, listener, other = await started(end, 3)
    await listener.listen_to(speaker)
    await other.listen_to(speaker)
    listener.transport.unlink("other")
    listener.transport.unlink("other")
    speaker.transport.publish([b"E", b"news"])
    await until(lambda: other.published == [[b"E", b"news"]])
    await asyncio.sleep(QUIET_S)
    assert not listener.published
    assert listener.events == ["+other"]


async def test_a_link_of_the_same_name_takes_the_place_of_the_one_before(end: Callable[..., End]) -> None:
    former, present, listener = await started(end, 3)
    await listener.listen_to(former)
    await listener.listen_to(present)
    former.transport.publish([b"E", b"former"])
    present.transport.publish([b"E", b"present"])
    await until(lambda: [b"E", b"present"] in listener.published)
    await asyncio.sleep(QUIET_S)
    assert listener.published == [[b"E", b"present"]]


async def test_a_broken_connection_is_told_and_comes_back_by_itself(end: Callable[..., End]) -> None:
    speaker, listener = await started(end, 2)
    await listener.listen_to(speaker)
    await speaker.transport.close()
    await until(lambda: listener.events == ["+other", "-other"])
    again = end()
    await again.start(speaker.ports)
    await until(lambda: listener.events[-1] == "+other")
    await listener.hears(again)


async def test_a_link_to_nobody_is_not_told_as_connected(end: Callable[..., End]) -> None:
    [listener] = await started(end, 1)
    with socket.create_server((HOST, 0)) as mute:
        listener.transport.link("mute", Address(HOST, mute.getsockname()[1]))
        listener.transport.link("nobody", Address(HOST, 1))
        await asyncio.sleep(0.5)
        assert not {"+mute", "+nobody"} & set(listener.events), "to be accepted by a port is not to be heard"


async def test_a_listener_that_does_not_read_holds_up_nobody(end: Callable[..., End]) -> None:
    speaker, listener = await started(end, 2)
    await listener.listen_to(speaker)
    with socket.create_connection((HOST, speaker.ports[0])) as mute:
        # The greeting of ZMTP 3.0 without security, READY as a SUB, and a subscription to everything.
        mute.sendall(b"\xff" + bytes(8) + b"\x7f\3\0" + b"NULL".ljust(20, b"\0") + bytes(32))
        mute.sendall(b"\4\x19\5READY\x0bSocket-Type\0\0\0\3SUB" + b"\0\1\1")
        await asyncio.sleep(QUIET_S)
        message = [b"E", bytes(50_000)]
        for count in range(100, 2001, 100):
            for _ in range(100):
                speaker.transport.publish(message)
            await until(lambda count=count: len(listener.published) == count)  # type: ignore[misc]


# Questions and answers.


async def test_a_question_is_answered_to_the_one_who_asked(end: Callable[..., End]) -> None:
    server, first, second = await started(end, 3)
    server.answer = lambda frames: [b"R", b"answer", *frames[1:]]
    for number in range(20):
        first.transport.send(server.router, [b"R", b"first %d" % number])
        second.transport.send(server.router, [b"R", b"second %d" % number])
    await until(lambda: len(first.asked) == len(second.asked) == 20)
    assert first.asked == [[b"R", b"answer", b"first %d" % number] for number in range(20)]
    assert second.asked == [[b"R", b"answer", b"second %d" % number] for number in range(20)]


async def test_an_answer_can_be_answered(end: Callable[..., End]) -> None:
    one, other = await started(end, 2)
    one.answer = other.answer = lambda frames: [b"R", b"%d" % (int(frames[1]) + 1)] if int(frames[1]) < 9 else None
    one.transport.send(other.router, [b"R", b"0"])
    await until(lambda: [b"R", b"9"] in one.asked)
    assert [int(frames[1]) for frames in other.asked] == [0, 2, 4, 6, 8]
    assert [int(frames[1]) for frames in one.asked] == [1, 3, 5, 7, 9]


async def test_a_message_as_large_as_the_limit_passes_both_ways(end: Callable[..., End]) -> None:
    server, asker = await started(end, 2, CURRENT)
    server.answer = lambda frames: frames
    largest = [b"R", bytes(60), os.urandom(MESSAGE_BYTES_MAX - 61)]
    asker.transport.send(server.router, largest)
    await until(lambda: asker.asked == [largest])


async def test_a_frame_above_the_limit_does_not_arrive_and_ends_only_its_connection(end: Callable[..., End]) -> None:
    server, asker, other = await started(end, 3)
    asker.transport.send(server.router, [b"R", bytes(MESSAGE_BYTES_MAX + 1)])
    other.transport.send(server.router, [b"R", b"small"])
    await until(lambda: bool(server.asked))
    await asyncio.sleep(QUIET_S)
    assert server.asked == [[b"R", b"small"]]


async def test_an_answer_to_one_who_is_gone_is_lost_and_harms_nobody(end: Callable[..., End]) -> None:
    server, gone, other = await started(end, 3)
    gone.transport.send(server.router, [b"R", b"question"])
    await until(lambda: bool(server.replies))
    await gone.transport.close()
    for _ in range(10):
        server.replies[0]([b"R", b"answer"])
    server.answer = lambda frames: frames
    other.transport.send(server.router, [b"R", b"another"])
    await until(lambda: other.asked == [[b"R", b"another"]])


async def test_a_node_that_comes_back_at_its_address_is_reached_again(end: Callable[..., End]) -> None:
    server, asker = await started(end, 2)
    asker.transport.send(server.router, [b"R", b"before"])
    await until(lambda: bool(server.asked))
    await server.transport.close()
    again = end()
    await again.start(server.ports)

    def reached() -> bool:
        asker.transport.send(server.router, [b"R", b"after"])
        return bool(again.asked)

    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.2)


async def test_what_waits_for_nobody_is_bounded_and_told_as_dropped(end: Callable[..., End]) -> None:
    [asker] = await started(end, 1)
    nowhere = Address(HOST, 1)
    for _ in range(20):
        asker.transport.send(nowhere, [b"R", bytes(MESSAGE_BYTES_MAX // 2)])
        await asyncio.sleep(0.01)
    assert asker.counts["dropped"] >= 10


async def test_requests_to_more_than_there_is_room_for_are_dropped_until_others_have_been_answered(
    end: Callable[..., End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gossip.transport.DEALERS_MAX", 3)
    monkeypatch.setattr("gossip.transport.DEALER_KEEP_S", 0.5)
    *servers, late = await started(end, 4)
    [asker] = await started(end, 1)
    for server in servers:
        asker.transport.send(server.router, [b"R", b"question"])
    before = descriptors()
    asker.transport.send(late.router, [b"R", b"too much"])
    assert asker.counts["dropped"] == 1
    await until(lambda: all(server.asked for server in servers))
    await asyncio.sleep(0.5)
    asker.transport.send(late.router, [b"R", b"question"])
    await until(lambda: late.asked == [[b"R", b"question"]])
    assert descriptors() <= before + 6, "one connection was closed for the one that was made"


# Who is let in.


async def test_any_of_the_clusters_keys_is_let_in_and_no_other(end: Callable[..., End]) -> None:
    server = end(CURRENT, PREVIOUS)
    former, foreign, keyless = end(PREVIOUS), end(FOREIGN), end()
    for one in (server, former, foreign, keyless):
        await one.start()
    for one in (former, foreign, keyless):
        one.transport.link("other", server.publisher)
        one.transport.send(server.router, [b"R", b"question"])
    await until(lambda: bool(server.asked) and former.events == ["+other"] and server.counts["refused"] >= 2)
    await asyncio.sleep(QUIET_S)
    assert server.asked == [[b"R", b"question"]]
    assert not {"+other"} & {*foreign.events, *keyless.events}
    assert not foreign.asked + foreign.published + keyless.asked + keyless.published


async def test_a_server_that_listens_with_an_older_key_is_shown_that_key(end: Callable[..., End]) -> None:
    old, new = end(PREVIOUS), end(CURRENT, PREVIOUS)
    for one in (old, new):
        await one.start()
    await new.listen_to(old)
    new.transport.send(old.router, [b"R", b"question"])
    await until(lambda: bool(old.asked))
    assert not old.counts["refused"]


# Beginning and end.


async def test_a_port_in_use_is_an_error_and_leaves_nothing_open(end: Callable[..., End]) -> None:
    [first] = await started(end, 1)
    ports = free_ports(2)
    with pytest.raises(BindError, match=str(first.ports[1])):
        await end().start([ports[0], first.ports[1]])
    await (again := end()).start(ports)
    assert again.ports == ports


async def test_what_is_published_last_still_goes_out_and_closing_ends_soon(end: Callable[..., End]) -> None:
    speaker, listener = await started(end, 2)
    await listener.listen_to(speaker)
    speaker.transport.publish([b"M", b"farewell"])
    await asyncio.wait_for(speaker.transport.close(), CLOSE_S)
    await until(lambda: listener.published == [[b"M", b"farewell"]])


async def test_nothing_is_left_open_after_closing(end: Callable[..., End]) -> None:
    for _ in range(2):
        before = descriptors()
        ends = await started(end, 3, CURRENT)
        for one in ends[1:]:
            await one.listen_to(ends[0])
            one.transport.send(ends[0].router, [b"R", b"question"])
            one.transport.link("nobody", Address(HOST, 1))
            one.transport.send(Address(HOST, 1), [b"R", b"question"])
        for one in ends:
            await asyncio.wait_for(one.transport.close(), CLOSE_S)
        assert descriptors() <= before + 1


async def test_links_that_come_and_go_at_once_leave_nothing_behind(end: Callable[..., End]) -> None:
    speaker, listener = await started(end, 2)
    await listener.listen_to(speaker)
    before = descriptors()
    for _ in range(30):
        listener.transport.link("brief", speaker.publisher)
        listener.transport.unlink("brief")
        listener.transport.link("brief", speaker.publisher)
        await asyncio.sleep(0)
    listener.transport.unlink("brief")
    await until(lambda: descriptors() <= before)
    await listener.hears(speaker)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
