"""The ZeroMQ shell: frames in, frames out. It knows nothing of what they mean.

A node binds an XPUB, which publishes to all who listen, and a ROUTER, which takes requests. It has one SUB for each
member it listens to, so that each can be opened and closed alone, and a few DEALERs to those it has asked something.
With a secret every socket is encrypted and authenticated by CURVE, and `gossip.zap` decides who may connect.

All sockets are made and configured here and given to aiozmq's `create_zmq_connection`, since options that are set after
bind or connect are too late.

What a member can make this process buffer is bounded for each of its connections, in messages and in bytes a frame,
with two exceptions: libzmq collects a message of any number of frames before it shows the first, and takes any number
of published messages while this process stalls (`_SUBSCRIBE`). A member is trusted not to send without an end.

ZMTP heartbeats stay off: with a slow reader and a finite receive limit libzmq 4.3.5 ends the process by an assertion
(libzmq issues 3937 and 4767), and they prove nothing about a process whose loop hangs.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import zmq

from gossip import zap
from gossip.channel import Channel, endpoint
from gossip.codec import MESSAGE_BYTES_MAX, PUBLISHED_TOPICS
from gossip.errors import BindError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from gossip.secret import CurveKeys

    Frames = list[bytes]
    Reply = Callable[[Frames], None]

SOCKETS_MAX: Final = 32_768
FRAME_BYTES_MAX: Final = MESSAGE_BYTES_MAX
PUBLISHED_FRAME_BYTES_MAX: Final = 1024 * 1024
"""libzmq ends a connection on which a larger frame comes. It does not count the message; the codec checks the sum."""

DEALERS_MAX: Final = 64
DEALER_IDLE_S: Final = 30.0
DEALER_KEEP_S: Final = 5.0
"""A connection for requests is closed when it was idle for so long, or, to make room, `DEALER_KEEP_S` after its last
use. Never earlier: on a busy machine connections would push each other out before one of them is made."""
LEAVE_LINGER_MS: Final = 500

_CONNECTION: Final[Mapping[int, int]] = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 3,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.TCP_MAXRT: 10_000,
    zmq.HANDSHAKE_IVL: 3_000,
    zmq.IPV6: 1,
}
_PUBLISH: Final = {
    **_CONNECTION,
    zmq.MAXMSGSIZE: PUBLISHED_FRAME_BYTES_MAX,
    zmq.SNDHWM: 1000,
    zmq.LINGER: LEAVE_LINGER_MS,
}
# A finite limit would lose messages whenever the loop stalls for a moment; rate times stall bounds the memory, and a
# process that stalls for long is ended by its supervisor. How many wait cannot be known: libzmq does not tell.
_SUBSCRIBE: Final = {
    **_CONNECTION,
    zmq.MAXMSGSIZE: PUBLISHED_FRAME_BYTES_MAX,
    zmq.RCVHWM: 0,
    zmq.LINGER: 0,
    zmq.RECONNECT_IVL: 200,
    zmq.RECONNECT_IVL_MAX: 10_000,
    zmq.CONNECT_TIMEOUT: 3_000,
}
# ROUTER_MANDATORY stays off: an answer to somebody who is gone would be an error, and aiozmq closes on errors. What one
# member sends faster than it is read waits on its own side beyond RCVHWM messages.
_ROUTER: Final = {**_CONNECTION, zmq.MAXMSGSIZE: FRAME_BYTES_MAX, zmq.SNDHWM: 1000, zmq.RCVHWM: 64, zmq.LINGER: 0}
# libzmq redials, and never gives up: else each would need a watcher that tells when it is dead. It costs little, since
# one that is not used is closed soon.
_DEALER: Final = {
    **_CONNECTION,
    zmq.MAXMSGSIZE: FRAME_BYTES_MAX,
    zmq.TCP_MAXRT: 5_000,
    zmq.SNDHWM: 16,
    zmq.RCVHWM: 64,
    zmq.LINGER: 0,
    zmq.IMMEDIATE: 1,
    zmq.RECONNECT_IVL: 200,
    zmq.RECONNECT_IVL_MAX: 2_000,
    zmq.CONNECT_TIMEOUT: 2_000,
}
# Without a limit, since libzmq's thread waits when there is no room for an event, and everything waits with it.
_MONITOR: Final[Mapping[int, int]] = {zmq.RCVHWM: 0, zmq.LINGER: 0}
# The last is how most end that speak another security mechanism; a member that closes in the middle ends so as well.
_REFUSED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
)


@dataclass(frozen=True, slots=True)
class Handler:
    """Who is told what happens; called on the loop's thread, and none of them may raise."""

    received: Callable[[Frames, Reply | None], None]
    """A message came; the second argument answers it the way it came, None for what was published."""
    connected: Callable[[str], None]
    """From now on this node hears what the member of that name publishes."""
    disconnected: Callable[[str], None]
    """The connection to the member of that name, to which this node listens, broke."""
    refused: Callable[[], None]
    """Somebody tried to connect without a key of the cluster's, or went away before it was seen."""
    dropped: Callable[[], None]
    """A message could not be sent: its way is full."""
    failed: Callable[[BaseException], None]
    """The transport itself cannot go on."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket of another node is: an IP address or a host name, a port, and the public key that it listens with
    (32 bytes; empty: that of this node's current secret)."""

    host: str
    port: int
    server_key: bytes = b""


class Transport:
    """The sockets of one node. `curve_keys` are the cluster's, the current pair first; none means no security.

    This node listens with the current pair, and lets in clients with any of them. To another node it shows the pair
    that this one listens with, if it is known here: that node may know no other.
    """

    def __init__(self, handler: Handler, curve_keys: Sequence[CurveKeys] = ()) -> None:
        self._handler = handler
        self._curve_keys = curve_keys
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
        self._channels: set[Channel] = set()
        self._publisher: Channel | None = None
        self._router: Channel | None = None
        self._links: dict[str, Channel] = {}
        self._dealers: OrderedDict[Address, Channel] = OrderedDict()
        self._monitor_numbers = itertools.count()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self, address: str, publish_port: int, router_port: int) -> None:
        """Bind both sockets. Raises `BindError`, and leaves nothing open then."""
        try:
            if self._curve_keys:
                socket = self._context.socket(zmq.REP)
                socket.bind(zap.ENDPOINT)
                authenticator = self._channel(socket)
                authenticator.receive = partial(self._authenticate, authenticator)
                await authenticator.open()
            self._publisher = self._server(zmq.XPUB, _PUBLISH, address, publish_port)
            self._router = self._server(zmq.ROUTER, _ROUTER, address, router_port)
            self._router.receive = self._asked
            for server in (self._publisher, self._router):
                await server.open()
                await self._monitor(server, dict.fromkeys(_REFUSED, self._handler.refused))
        except BaseException:
            await self.close()
            raise

    def publish(self, frames: Frames) -> None:
        """Send to all who listen; who reads too slowly loses messages."""
        assert self._publisher is not None
        self._publisher.send(frames)

    def send(self, to: Address, frames: Frames) -> None:
        """Send to the ROUTER at an address; answers come to `Handler.received`."""
        dealer = self._dealer(to)
        if dealer is None or not dealer.send(frames):
            self._handler.dropped()

    def link(self, name: str, address: Address) -> None:
        """Listen to what a member publishes; a connection for that name is replaced."""
        self.unlink(name)
        socket = self._client(zmq.SUB, _SUBSCRIBE, address.server_key)
        for topic in PUBLISHED_TOPICS:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        channel = self._links[name] = self._channel(socket)
        channel.receive = partial(self._received, None)

        async def connect() -> None:
            await channel.open()
            # A connection counts when its handshake is done; before that anybody may have accepted it.
            up, down = partial(self._handler.connected, name), partial(self._handler.disconnected, name)
            await self._monitor(channel, {zmq.EVENT_HANDSHAKE_SUCCEEDED: up, zmq.EVENT_DISCONNECTED: down})
            channel.connect(address.host, address.port)

        self._spawn(connect())

    def unlink(self, name: str) -> None:
        """Stop listening to a member."""
        channel = self._links.pop(name, None)
        if channel is not None:
            channel.close()

    async def close(self) -> None:
        """Close everything; what was published last still has a moment to go out."""
        self._closed = True
        # Sockets are never left half in aiozmq's hands; it takes one turn of the loop.
        await asyncio.gather(*self._opening, return_exceptions=True)
        channels = list(self._channels)
        # A monitor is closed by the channel that it watches, and not before that has stopped sending events.
        monitors = {channel.monitor for channel in channels}
        for channel in channels:
            if channel not in monitors:
                channel.close()
        await asyncio.gather(*(channel.closed.wait() for channel in channels))
        # It waits for the publisher's linger, which bounds it.
        await asyncio.to_thread(self._context.term)

    # Sockets.

    def _server(self, kind: int, options: Mapping[int, int], address: str, port: int) -> Channel:
        socket = self._socket(kind, options)
        if self._curve_keys:
            socket.curve_server = True
            socket.curve_secretkey = self._curve_keys[0].private
            # Without a domain libzmq would not ask the handler at all.
            socket.setsockopt(zmq.ZAP_DOMAIN, zap.DOMAIN)
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        channel = self._channel(socket)
        try:
            socket.bind(endpoint(address, port))
        except zmq.ZMQError as error:
            raise BindError(error.errno, f"cannot listen on {address} port {port}: {error.strerror}") from error
        return channel

    def _client(self, kind: int, options: Mapping[int, int], server_key: bytes) -> zmq.Socket[bytes]:
        socket = self._socket(kind, options)
        if self._curve_keys:
            own = next((keys for keys in self._curve_keys if keys.public == server_key), self._curve_keys[0])
            socket.curve_serverkey = server_key or own.public
            socket.curve_publickey, socket.curve_secretkey = own
        return socket

    def _socket(self, kind: int, options: Mapping[int, int]) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        for option, value in options.items():
            socket.setsockopt(option, value)
        return socket

    def _channel(self, socket: zmq.Socket[bytes]) -> Channel:
        channel = Channel(socket, self._channels)
        self._channels.add(channel)
        return channel

    def _dealer(self, address: Address) -> Channel | None:
        """The connection for requests to an address; None when there is no room for another."""
        now = asyncio.get_running_loop().time()
        for other, old in list(self._dealers.items()):
            stuck = other == address and old.stuck(now)
            if stuck or old.used_at < now - DEALER_IDLE_S:
                self._dealers.pop(other).close()
        dealer = self._dealers.get(address)
        if dealer is None:
            if len(self._dealers) >= DEALERS_MAX:
                oldest = next(iter(self._dealers))
                if self._dealers[oldest].used_at > now - DEALER_KEEP_S:
                    return None
                self._dealers.pop(oldest).close()
            dealer = self._dealers[address] = self._channel(self._client(zmq.DEALER, _DEALER, address.server_key))
            dealer.receive = partial(self._received, dealer.answer)
            dealer.connect(address.host, address.port)
            self._spawn(dealer.open())
        dealer.used_at = now
        self._dealers.move_to_end(address)
        return dealer

    async def _monitor(self, watched: Channel, notify: Mapping[int, Callable[[], None]]) -> None:
        """Watch a socket's events. The watcher connects before libzmq binds, or aiozmq misses the first.

        Nothing may come between the two: libzmq would keep a watcher whose other end never comes. And the endpoint
        must be a new one: to a watcher that is closed libzmq's thread would wait for ever to send an event.
        """
        if watched.closing:
            return
        endpoint = f"inproc://monitor.{next(self._monitor_numbers)}"
        socket = self._socket(zmq.PAIR, _MONITOR)
        socket.connect(endpoint)
        channel = self._channel(socket)
        channel.receive = partial(_event, notify)
        watched.watch(endpoint, sum(notify), channel)
        await channel.open()

    def _spawn(self, opening: Coroutine[Any, Any, None]) -> None:
        assert not self._closed
        task = asyncio.get_running_loop().create_task(opening)
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._handler.failed(error)

    # What comes.

    def _asked(self, frames: Frames) -> None:
        route, *message = frames
        self._received(partial(self._answer, route), message)

    def _received(self, reply: Reply | None, frames: Frames) -> None:
        self._handler.received(frames, reply)

    def _answer(self, route: bytes, frames: Frames) -> None:
        assert self._router is not None
        self._router.send([route, *frames])

    def _authenticate(self, authenticator: Channel, frames: Frames) -> None:
        authenticator.send(zap.answer(frames, [keys.public for keys in self._curve_keys]))


def _event(notify: Mapping[int, Callable[[], None]], frames: Frames) -> None:
    """Read libzmq's event: its number in 16 bits and a value in 32, in the machine's order."""
    number, _value = struct.unpack("=HI", frames[0])
    if number in notify:
        notify[number]()
