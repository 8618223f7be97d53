"""What those get who are no members, and members that talk nonsense: counted drops, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

import zmq

from gossip import Config, Node
from gossip.codec import MESSAGE_BYTES_MAX, encode
from gossip.messages import Join, Pull, Sender
from gossip.or_set import Epoch
from tests.integration.gossip.nodes import OTHER_SECRET, SECRET, cluster, configs, member_keys, names, stranger, until


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
                # libzmq may have given up already on a connection that was refused.
                with suppress(zmq.Again):
                    await asker.send_multipart(join, zmq.NOBLOCK)
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


async def test_what_a_member_said_before_changes_nothing_when_it_is_said_again() -> None:
    async with cluster(configs(2, SECRET)) as (node, other):
        recorded: list[list[bytes]] = []
        async with stranger(zmq.SUB, other.config.publish_port, member_keys(SECRET)) as listener:
            listener.subscribe(b"")
            assert await listener.poll(5000), "a heartbeat"
            other.add(b"gone")
            other.add(b"stays")
            await until(lambda: names(node, b"stays") == ["node1"])
            other.remove(b"gone")
            await until(lambda: names(node, b"gone") == [])
            while await listener.poll(100):
                recorded.append(await listener.recv_multipart())
        assert any(frames[0] == b"E" for frames in recorded)
        before = node.members(), node.gauges()
        async with stranger(zmq.DEALER, node.config.router_port, member_keys(SECRET)) as asker:
            heard = node.counters.messages_in
            for frames in recorded * 20:
                await asker.send_multipart(frames)
            await until(lambda: node.counters.messages_in >= heard + 20 * len(recorded))
        assert names(node, b"gone") == []
        assert names(node, b"stays") == ["node1"]
        assert (node.members(), node.gauges()) == before
        assert not node.counters.audit_mismatches


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
