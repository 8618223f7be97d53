"""Looks host names up, one after another, in a thread that nobody has to wait for.

A look-up that no DNS server answers takes up to a minute and cannot be stopped. Among asyncio's own threads, of which
there are few, some of them would hold up whatever else needs one, and the end of the process.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from ipaddress import ip_address
from typing import Final, cast

LOOK_UP_S_MAX: Final = 5.0


class Resolver:
    """What host names mean now. It belongs to one task, which asks for one at a time."""

    def __init__(self) -> None:
        self._running: asyncio.Future[list[str] | OSError] | None = None

    async def look_up(self, host: str) -> list[str]:
        """The IP addresses of a host, which may be an address already.

        Raises `OSError` when there are none, and `TimeoutError`, which is one too, when they are not known within
        `LOOK_UP_S_MAX`; a look-up that hangs makes those after it wait.
        """
        with suppress(ValueError):
            ip_address(host)
            return [host]
        async with asyncio.timeout(LOOK_UP_S_MAX):
            if self._running is not None:
                await asyncio.wait({self._running})
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            thread = threading.Thread(target=_ask, args=(host, loop, self._running), name="resolver", daemon=True)
            thread.start()
            answer = await asyncio.shield(self._running)
        if isinstance(answer, OSError):
            raise answer
        return answer


def _ask(host: str, loop: asyncio.AbstractEventLoop, future: asyncio.Future[list[str] | OSError]) -> None:
    answer: list[str] | OSError
    try:
        # A stream socket, so that each address comes once.
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        answer = [cast("str", entry[4][0]) for entry in found]
    except OSError as error:
        answer = error
    except UnicodeError as error:  # a label that is empty or too long
        answer = OSError(f"{host!r} is no host name: {error}")
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(future.set_result, answer)
