"""Nodes on real sockets: joining, changes, leaving, and what strangers get."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq
import zmq.asyncio

from gossip import BindError, ClusterSecret, Config, EpochFileError, Node
from gossip.codec import MESSAGE_BYTES_MAX, encode
from gossip.messages import Join, Pull, Sender
from gossip.or_set import Epoch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).parent.parent.parent.parent
WAIT_S = 10.0
SECRET = ClusterSecret(b"a secret of tests, of more than thirty-two bytes")
OTHER_SECRET = ClusterSecret(b"another secret, also of more than thirty-two bytes")


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now. They are below the ephemeral range, so no outgoing connection takes them."""
    found: list[int] = []
    start = 20000 + os.getpid() % 1000 * 9
    for port in range(start, start + 2000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def configs(count: int, secret: ClusterSecret | None = None, cluster: str = "test") -> list[Config]:
    """Settings of nodes that all have the first as their seed."""
    ports = free_ports(2 * count)
    return [
        Config(
            name=f"node{number}",
            cluster=cluster,
            publish_port=ports[2 * number],
            router_port=ports[2 * number + 1],
            seeds=(f"127.0.0.1:{ports[1]}",),
            secret=secret,
            attributes={"peer_port": str(number)},
        )
        for number in range(count)
    ]


async def until(condition: Callable[[], bool], within_s: float = WAIT_S) -> None:
    """Wait for a condition; it is an error when it does not come true in time."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def cluster(settings: list[Config]) -> AsyncIterator[list[Node]]:
    """Running nodes that have all met; an internal failure of one fails the test."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(config)) for config in settings]
        runs = [asyncio.create_task(node.run()) for node in nodes]
        await until(lambda: all(len(node.members()) == len(nodes) - 1 for node in nodes))
        yield nodes
        for run in runs:
            assert not run.done()
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


def names(node: Node, key: bytes) -> list[str]:
    return sorted(member.name for member in node.holders(key))


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


async def test_an_internal_failure_is_raised_by_run(monkeypatch: pytest.MonkeyPatch) -> None:
    [config] = configs(1)
    async with Node(config) as node:

        def fail(_now: float) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(node._replica, "tick", fail)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(node.run(), WAIT_S)


# Strangers, and members that talk nonsense.


@asynccontextmanager
async def stranger(kind: int, port: int, keys: tuple[bytes, bytes, bytes] | None) -> AsyncIterator[zmq.asyncio.Socket]:
    """A socket connected to a node; `keys` are the server's public key and the stranger's own two."""
    context = zmq.asyncio.Context()
    client = context.socket(kind)
    client.linger = 0
    if keys is not None:
        client.curve_serverkey, client.curve_publickey, client.curve_secretkey = keys
    client.connect(f"tcp://127.0.0.1:{port}")
    try:
        yield client
    finally:
        client.close()
        context.term()


def member_keys(secret: ClusterSecret) -> tuple[bytes, bytes, bytes]:
    [(public, private)] = secret.curve_keys()
    return public, public, private


async def test_a_client_without_the_clusters_key_is_refused() -> None:
    own_key = (SECRET.curve_keys()[0].public, *zmq.curve_keypair())
    for keys in (None, own_key, member_keys(OTHER_SECRET)):
        async with cluster(configs(1, SECRET)) as [node]:
            join = encode("test", Sender("stranger", Epoch(1, 1)), Join(node.me))
            async with (
                stranger(zmq.DEALER, node.config.router_port, keys) as asker,
                stranger(zmq.SUB, node.config.publish_port, keys) as listener,
            ):
                listener.subscribe(b"")
                await asker.send_multipart(join)
                await until(lambda node=node: node.counters.refused_connections >= 2)  # type: ignore[misc]
                await asyncio.sleep(1.5)
                assert not await listener.poll(0), "no heartbeat"
                assert not await asker.poll(0), "no answer"
            assert node.counters.messages_in == 0


async def test_a_client_with_the_clusters_key_is_let_in() -> None:
    """The counterpart that shows that the test above tests the keys."""
    async with cluster(configs(1, SECRET)) as [node]:
        sender = Sender("asker", Epoch(1, 1))
        async with (
            stranger(zmq.DEALER, node.config.router_port, member_keys(SECRET)) as asker,
            stranger(zmq.SUB, node.config.publish_port, member_keys(SECRET)) as listener,
        ):
            listener.subscribe(b"H")
            assert await listener.poll(5000)
            await asker.send_multipart(encode("test", sender, Pull(())))
            await until(lambda: node.counters.messages_in == 1)


async def test_nodes_of_another_secret_or_of_none_do_not_meet() -> None:
    ours, theirs = configs(2, SECRET)
    for secret in (OTHER_SECRET, None):
        other = Config(
            name="other",
            cluster="test",
            publish_port=theirs.publish_port,
            router_port=theirs.router_port,
            seeds=ours.seeds,
            secret=secret,
        )
        async with Node(ours) as node, Node(other) as outsider:
            await until(lambda node=node: node.counters.refused_connections > 0)  # type: ignore[misc]
            await asyncio.sleep(1.0)
            assert node.members() == outsider.members() == []
            assert outsider.counters.messages_in == 0


async def test_nonsense_is_counted_and_dropped_and_the_node_lives() -> None:
    async with cluster(configs(2)) as (node, other):
        sender = Sender("asker", Epoch(1, 1))
        good = encode("test", sender, Pull(()))
        cases = {
            "malformed": [
                [b""],
                [b"R", b""],
                [b"R", b"{"],
                [b"R", b"[]"],
                good[:1],
                [b"R", good[1][:-1]],
                [os.urandom(64) for _ in range(4)],
                [b"R", b"[" * 100_000],
            ],
            "cluster": [encode("elsewhere", sender, Pull(()))],
            "version": [[b"R", good[1].replace(b'"v":1', b'"v":99')]],
            "oversized": [[b"R", b"x" * MESSAGE_BYTES_MAX], [b"R"] * 1000],
        }
        async with stranger(zmq.DEALER, node.config.router_port, None) as asker:
            for reason, messages in cases.items():
                for frames in messages:
                    before = node.counters.dropped[reason]
                    await asker.send_multipart(frames)
                    await until(
                        lambda reason=reason, before=before: node.counters.dropped[reason] == before + 1  # type: ignore[misc]
                    )
        with socket.create_connection(("127.0.0.1", node.config.router_port)) as plain:
            plain.sendall(os.urandom(4096))
        async with stranger(zmq.DEALER, node.config.router_port, None) as asker:
            # libzmq itself ends a connection on which a frame is larger than any message may be.
            await asker.send_multipart([b"R", bytes(MESSAGE_BYTES_MAX + 1)])
            await asyncio.sleep(0.2)
        other.add(b"still alive")
        await until(lambda: names(node, b"still alive") == ["node1"], within_s=2.0)


async def test_a_member_in_a_process_of_its_own_may_be_killed_and_come_back(tmp_path: Path) -> None:
    ours, theirs = configs(2, SECRET)
    script = f"""
import asyncio
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
