"""Who may knock: pure-ASGI middleware in front of the two faces of a registry.

The client face is for this machine alone: a loopback address, and a Host header that names one (a web page that was
led here by DNS rebinding names its own). The peer face is for holders of the cluster secret.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from mirror.errors import Code
from mirror.peer_mac import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from mirror.peer_mac import PeerMac, Target

ADDRESSES_MAX: Final = 64
"""Addresses of clients that were looked at; the clients of one machine have one or two."""
_MAC: Final = HEADER.lower().encode()
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class DoorObserver(Protocol):
    """Is told who was turned away, for metrics."""

    def refused(self, reason: str) -> None:
        """A request was refused; `reason` is one word."""
        ...


class LoopbackDoor:
    """Lets in clients on a loopback address that name a loopback host."""

    def __init__(self, app: ASGIApp, observer: DoorObserver) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] != "http":
            return
        client = scope.get("client")
        if client is None or not _is_loopback(client[0]):
            self._observer.refused("address")
            await _refuse(send, "this port serves clients on the same machine only")
        elif _host_name(scope) not in LOOPBACK_NAMES:
            self._observer.refused("host")
            await _refuse(send, "this port is addressed as 127.0.0.1, [::1] or localhost only")
        else:
            await self._app(scope, receive, send)


class PeerDoor:
    """Lets in requests with the MAC of a member; `me` is who this node is now."""

    def __init__(self, app: ASGIApp, observer: DoorObserver, mac: PeerMac, me: Callable[[], Target]) -> None:
        self._app = app
        self._observer = observer
        self._mac = mac
        self._me = me

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] != "http":
            return
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        value, byte_range = _header(scope, _MAC), _header(scope, b"range")
        if self._mac.verify(value, self._me(), scope["method"], path, byte_range):
            await self._app(scope, receive, send)
        else:
            self._observer.refused("mac" if value else "no_mac")
            await _refuse(send, "this port serves members of the cluster only")


@lru_cache(ADDRESSES_MAX)
def _is_loopback(address: str) -> bool:
    return ip_address(address).is_loopback


def _host_name(scope: Scope) -> str:
    host = _header(scope, b"host").lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _header(scope: Scope, name: bytes) -> str:
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""


async def _refuse(send: Send, message: str) -> None:
    body = orjson.dumps({"errors": [{"code": Code.DENIED.value, "message": message}]})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": Code.DENIED.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
