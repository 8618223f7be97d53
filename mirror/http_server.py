"""One listening socket and the app behind it, under uvicorn, as a part of a larger process.

uvicorn's own signal handling is left out (the process has several servers and other things to end in order), and the
socket is bound here, so that an address in use is a clear error and the watchdog can close it from its thread.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from mirror.request_limits import LimitedProtocol
from mirror.zero_copy import MISMATCH, ZeroCopy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from mirror.request_limits import ConnectionObserver

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
KEEP_ALIVE_S: Final = 75
"""Longer than a runtime pauses between the objects of one pull."""


class ListenError(Exception):
    """A port cannot be listened on; says which and what to do."""


class HttpServer:
    """Serves `app` on `address`:`port` from `bind` until `stop`; the observer is told of requests over the limits."""

    def __init__(
        self,
        app: ASGIApp,
        address: str,
        port: int,
        grace_s: float,
        *,
        observer: ConnectionObserver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self.port = port
        self.socket: socket.socket | None = None
        self._zero_copy = ZeroCopy(observer)
        protocol: Any = self._zero_copy.protocol  # uvicorn calls what it declares to be a class
        if MISMATCH:
            log.error("bytes are copied, which takes several times the CPU: this uvicorn has no %s", MISMATCH)
            protocol = partial(LimitedProtocol, observer)
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(grace_s)),
        )
        if tls is not None:
            config.load()
            config.ssl = tls
        self._server = _Server(config)

    def bind(self) -> None:
        """Take the port. Raises `ListenError`."""
        family = socket.AF_INET6 if ip_address(self.address).version == 6 else socket.AF_INET
        # With the protocol named: only then asyncio sets TCP_NODELAY, without which each answer waits 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.address, self.port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise ListenError(
                f"cannot listen on {self.address} port {self.port}: {error.strerror}; "
                "is another agent running, or is the address not this machine's?"
            ) from error
        self.socket = listener

    async def serve(self) -> None:
        """Answer until `stop`, then let running answers end within the grace period."""
        assert self.socket is not None, "bind comes before serve"
        try:
            await self._server.serve(sockets=[self.socket])
        finally:
            self._zero_copy.close()

    def stop(self) -> None:
        """Accept no more; `serve` returns when the running answers have ended."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
