"""The options of the sockets in use: as libzmq says them, and as the kernel's connections have them."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq

from gossip.transport import Address, Handler, Transport
from tests.integration.gossip.nodes import SECRET, free_ports, until

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
EVERY = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 3,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.HANDSHAKE_IVL: 3_000,
    zmq.HEARTBEAT_IVL: 0,
    zmq.IPV6: 1,
    zmq.MECHANISM: zmq.CURVE,
}
MIB = 1024 * 1024
OPTIONS = {
    "publisher": {zmq.SNDHWM: 1000, zmq.LINGER: 500, zmq.TCP_MAXRT: 10_000, zmq.MAXMSGSIZE: MIB},
    "router": {zmq.SNDHWM: 1000, zmq.RCVHWM: 64, zmq.LINGER: 0, zmq.TCP_MAXRT: 10_000, zmq.MAXMSGSIZE: 4 * MIB},
    "link": {
        zmq.RCVHWM: 0,
        zmq.LINGER: 0,
        zmq.RECONNECT_IVL: 200,
        zmq.RECONNECT_IVL_MAX: 10_000,
        zmq.CONNECT_TIMEOUT: 3_000,
        zmq.TCP_MAXRT: 10_000,
        zmq.MAXMSGSIZE: MIB,
    },
    "dealer": {
        zmq.SNDHWM: 16,
        zmq.RCVHWM: 64,
        zmq.LINGER: 0,
        zmq.IMMEDIATE: 1,
        zmq.RECONNECT_IVL: 200,
        zmq.RECONNECT_IVL_MAX: 2_000,
        zmq.CONNECT_TIMEOUT: 2_000,
        zmq.TCP_MAXRT: 5_000,
        zmq.MAXMSGSIZE: 4 * MIB,
    },
}
"""What `gossip.transport` promises of each, in milliseconds, seconds (keep-alive), messages and bytes."""


class Ends:
    """A node that listens to another and asked it something."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        keys = SECRET.curve_keys()
        nothing = Handler(
            received=lambda frames, _reply: self.heard.append(frames[0]),
            connected=lambda _name: None,
            disconnected=lambda _name: None,
            refused=lambda: None,
            dropped=lambda: None,
            failed=lambda _error: None,
        )
        self.server, self.client = Transport(nothing, keys), Transport(nothing, keys)
        self.ports = free_ports(4)

    async def connect(self, stack: AsyncExitStack) -> None:
        await self.server.start(HOST, *self.ports[:2])
        stack.push_async_callback(self.server.close)
        await self.client.start(HOST, *self.ports[2:])
        stack.push_async_callback(self.client.close)
        self.client.link("server", Address(HOST, self.ports[0]))
        self.client.send(Address(HOST, self.ports[1]), [b"asked"])

        def connected() -> bool:
            self.server.publish([b"E"])
            return {b"E", b"asked"} <= set(self.heard)

        await until(connected)

    def sockets(self) -> dict[str, zmq.Socket[bytes]]:
        assert self.server._publisher is not None
        assert self.server._router is not None
        [link], [dealer] = self.client._links.values(), self.client._dealers.values()
        channels = {"publisher": self.server._publisher, "router": self.server._router, "link": link, "dealer": dealer}
        return {name: channel.socket for name, channel in channels.items()}


async def test_each_socket_has_its_options() -> None:
    async with AsyncExitStack() as stack:
        ends = Ends()
        await ends.connect(stack)
        for name, socket_ in ends.sockets().items():
            expected = {**EVERY, **OPTIONS[name]}
            assert {option: socket_.getsockopt(option) for option in expected} == expected, name
        for name in ("publisher", "router"):
            assert ends.sockets()[name].getsockopt(zmq.ZAP_DOMAIN) == b"gossip", "without one nobody is asked who may"


@pytest.mark.parametrize(("port", "timeout_ms"), [(0, {10_000}), (1, {10_000, 5_000})], ids=["publisher", "router"])
async def test_the_connections_were_made_with_the_options(port: int, timeout_ms: set[int]) -> None:
    """What is set after bind or connect would reach the socket and not its connections."""
    async with AsyncExitStack() as stack:
        ends = Ends()
        await ends.connect(stack)
        found = list(connections(ends.ports[port]))
        assert len(found) == 2, "both ends are in this process"
        assert {keepalive for keepalive, _ in found} == {(1, 10, 3, 3)}
        assert {timeout for _, timeout in found} == timeout_ms


def connections(port: int) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    """Of this process's TCP connections from or to that port: keep-alive (on, idle s, interval s, count), and how long
    what was sent may stay without an acknowledgement, in ms."""
    tcp = socket.IPPROTO_TCP
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            copy = os.dup(int(entry.name))
        except OSError:  # that of the listing itself
            continue
        if not stat.S_ISSOCK(os.fstat(copy).st_mode):
            os.close(copy)
            continue
        with closing(socket.socket(fileno=copy)) as found:
            if found.family not in {socket.AF_INET, socket.AF_INET6} or found.type != socket.SOCK_STREAM:
                continue
            try:
                ports = {found.getsockname()[1], found.getpeername()[1]}
            except OSError:  # it listens
                continue
            if port in ports:
                on = found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                idle, interval, count = (
                    found.getsockopt(tcp, option)
                    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                )
                yield (on, idle, interval, count), found.getsockopt(tcp, socket.TCP_USER_TIMEOUT)
