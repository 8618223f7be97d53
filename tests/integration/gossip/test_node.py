"""Nodes on real sockets: joining, changes, leaving."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gossip import BindError, ClusterSecret, Config, EpochFileError, Node, UnansweredError
from gossip.codec import encode
from gossip.messages import More, Sender
from gossip.or_set import Epoch
from tests.integration.gossip.nodes import SECRET, WAIT_S, cluster, configs, names, until

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.mark.parametrize("secret", [None, SECRET], ids=["plain", "curve"])
async def test_three_nodes_join_and_see_each_others_changes_within_a_second(secret: ClusterSecret | None) -> None:
    async with cluster(configs(3, secret)) as (one, two, three):
        assert [member.attributes["peer_port"] for member in two.members()] == ["0", "2"]
        three.add(b"key")
        three.add(b"key")
        assert three.holds(b"key")
        assert three.holders(b"key") == [], "a node is not among its own answers"
        await until(lambda: names(one, b"key") == names(two, b"key") == ["node2"], within_s=1.0)
        two.add(b"key")
        await until(lambda: names(one, b"key") == ["node1", "node2"], within_s=1.0)
        three.remove(b"key")
        await until(lambda: names(one, b"key") == ["node1"] and names(two, b"key") == [], within_s=1.0)


async def test_a_large_change_arrives_whole() -> None:
    async with cluster(configs(2, SECRET)) as (one, two):
        keys = [b"%064d" % number for number in range(5000)]
        for key in keys:
            one.add(key)
        await until(lambda: two.gauges().pairs == len(keys))
        assert two.gauges().keys == len(keys)


async def test_what_changes_while_a_large_node_starts_is_seen_by_all_and_the_loop_goes_on() -> None:
    first, second = configs(2, SECRET)
    large = Node(second)
    keys = [b"%064d" % number for number in range(20_000)]
    for key in keys:
        large.add(key)
    turns = 0

    async def change() -> None:
        nonlocal turns
        while turns < 10:
            turns += 1
            await asyncio.sleep(0)
        large.add(b"late")
        large.remove(keys[0])
        assert large.holds(keys[0]), "it waits"

    async with Node(first) as node:
        changing = asyncio.create_task(change())
        async with large:
            await changing
            assert large.holds(b"late")
            assert not large.holds(keys[0])
            await until(lambda: names(node, b"late") == ["node1"])
            assert names(node, keys[0]) == []
            assert names(node, keys[1]) == ["node1"]


async def test_keys_are_found_by_their_group() -> None:
    def group_of(key: bytes) -> bytes | None:
        group, separator, _ = key.partition(b"@")
        return group if separator else None

    first, second = configs(2)
    async with Node(first, group_of=group_of) as one, Node(second, group_of=group_of) as two:
        one.add(b"name@1")
        two.add(b"name@2")
        two.add(b"nameless")
        await until(lambda: one.keys_in_group(b"name") == two.keys_in_group(b"name") == [b"name@1", b"name@2"])
        one.remove(b"name@1")
        await until(lambda: two.keys_in_group(b"name") == [b"name@2"])


async def test_a_node_that_leaves_is_gone_at_once() -> None:
    settings = configs(3, SECRET)
    async with cluster(settings[:2]) as (one, _two):
        async with Node(settings[2]) as three:
            three.add(b"key")
            await until(lambda: names(one, b"key") == ["node2"])
        await until(lambda: names(one, b"key") == [], within_s=1.0)
        assert [member.name for member in one.members()] == ["node1"]


async def test_a_port_in_use_is_a_clear_error_and_nothing_stays_open() -> None:
    first, second = configs(2)
    clash = Config(name="clash", publish_port=second.publish_port, router_port=first.router_port)
    async with Node(first):
        with pytest.raises(BindError, match=str(first.router_port)):
            await Node(clash).__aenter__()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", second.publish_port))


async def test_an_epoch_file_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    [config] = configs(1)
    config = Config(
        name="a",
        publish_port=config.publish_port,
        router_port=config.router_port,
        epoch_file=tmp_path / "missing" / "epoch",
    )
    with pytest.raises(EpochFileError, match="epoch"):
        await Node(config).__aenter__()


async def test_each_start_takes_a_higher_epoch(tmp_path: Path) -> None:
    [config] = configs(1)
    counters = []
    for _ in range(3):
        again = Config(
            name="a",
            publish_port=config.publish_port,
            router_port=config.router_port,
            epoch_file=tmp_path / "epoch",
        )
        async with Node(again) as node:
            counters.append(node.me.epoch.counter)
    assert counters == [1, 2, 3]


@pytest.mark.parametrize(
    ("what", "happens"),
    [
        ("tick", lambda _node: None),
        ("receive", lambda node: node._received(encode("test", Sender("other", Epoch(1, 1)), More()), None)),
        ("connected", lambda node: node._connected("other")),
        ("disconnected", lambda node: node._disconnected("other")),
    ],
)
async def test_an_internal_failure_is_raised_by_run(
    what: str, happens: Callable[[Node], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    [config] = configs(1)
    async with Node(config) as node:

        def fail(*_arguments: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(node._replica, what, fail)
        happens(node)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(node.run(), WAIT_S)


async def test_a_machine_that_slept_for_days_forgets_what_it_knew_and_joins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster(configs(2)) as (node, other):
        other.add(b"key")
        await until(lambda: names(node, b"key") == ["node1"])
        asked: list[int] = []
        clock = time.clock_gettime

        def slept(clock_id: int) -> float:
            asked.append(clock_id)
            return clock(clock_id) + node.config.forget_s

        monkeypatch.setattr(time, "clock_gettime", slept)
        await until(lambda: names(node, b"key") == [])
        assert set(asked) == {time.CLOCK_BOOTTIME}, "the clock that goes on while the machine sleeps"
        await until(lambda: names(node, b"key") == ["node1"])


async def test_a_member_in_a_process_of_its_own_may_be_killed_and_come_back(tmp_path: Path) -> None:
    ours, theirs = configs(2, SECRET)
    script = f"""
import asyncio
import time
from gossip import ClusterSecret, Config, Node
from pathlib import Path
config = Config(name="node1", cluster="test", publish_port={theirs.publish_port}, router_port={theirs.router_port},
    seeds={ours.seeds!r}, epoch_file=Path({str(tmp_path / "epoch")!r}),
    secret=ClusterSecret(b"a secret of tests, of more than thirty-two bytes"))
async def main():
    node = Node(config)
    for number in range(100):
        node.add(b"key%d" % number)
    async with node:
        await node.run()
asyncio.run(main())
"""
    async with Node(ours) as node:
        run = asyncio.create_task(node.run())
        epochs = []
        for life in range(2):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "error", "-c", script, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
            try:
                await until(lambda: names(node, b"key99") == ["node1"] and node.gauges().members_normal == 1)
                await until(lambda life=life: node.counters.rebases == life)  # type: ignore[misc]
                # Its end is noticed at once by who listens to it; it may have been known by its requests alone.
                await until(lambda: node._replica.membership.linked["node1"].sequence > 0)
                epochs.append(node.holders(b"key99")[0].epoch.counter)
            finally:
                process.send_signal(signal.SIGKILL)
                await process.wait()
            await until(lambda: node.gauges().members_last == 1, within_s=2.0)
            assert names(node, b"key99") == ["node1"], "ranked last at once, and not hidden yet"
        await until(lambda: names(node, b"key99") == [], within_s=9.5)
        assert epochs == [1, 2]
        assert node.counters.pulls <= 1, "only in the first life its content was sent"
        assert not run.done()
        run.cancel()


async def test_an_application_asks_that_of_another_member() -> None:
    async with cluster(configs(3, SECRET)) as (one, two, three):
        two.answer_with(lambda name, payload: f"{name} says {payload.decode()}".encode())
        three.answer_with(lambda _name, payload: bytes([payload[0]]) if payload else payload[1:] + bytes([999]))
        assert await one.ask("node1", b"hello", WAIT_S) == b"node0 says hello"
        assert await two.ask("node1", b"me", WAIT_S) == b"node1 says me", "a node may ask itself"
        # Of what waits for a connection to be made some is dropped.
        assert await one.ask("node2", b"!", WAIT_S) == b"!"
        answers = await asyncio.gather(*(one.ask("node2", bytes([number]), WAIT_S) for number in range(100)))
        assert answers == [bytes([number]) for number in range(100)]
        with pytest.raises(UnansweredError, match="node2 did not answer"):
            await one.ask("node2", b"", 0.2)
        assert three.counters.dropped["question"] == 1, "what the application cannot read is counted"
        with pytest.raises(UnansweredError, match="node9 is no member"):
            await one.ask("node9", b"", 0.2)


async def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    async with cluster(configs(2, SECRET)) as (one, two):

        def answer(_name: str, _payload: bytes) -> bytes:
            time.sleep(0.3)
            return b"late"

        two.answer_with(answer)
        with pytest.raises(UnansweredError):
            await one.ask("node1", b"", 0.05)
        await until(lambda: one.counters.dropped["answer"] == 1)
