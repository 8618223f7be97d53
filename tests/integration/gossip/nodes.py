"""Nodes on loopback for tests: their settings, a cluster of them, waiting for what they come to know, and strangers."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import zmq
import zmq.asyncio

from gossip import ClusterSecret, Config, Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

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
