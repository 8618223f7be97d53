"""`skvaller demo`: the whole of Skvaller on one machine, with nothing but Python.

A registry with an image that was just built, and three agents of a cluster of their own, all on loopback. A client
pulls as a container runtime does: on node-a (from the registry), on node-b (from node-a), and, when the registry is
stopped, on node-c (from both). The agents are the product's, processes started as `skvaller serve` starts them.

`story` is the order of events and the promises that are checked; `scene` starts and ends the processes; `client` is
the runtime; `view` is what is seen.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Final

import uvloop

from mirror.demo.story import tell

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(*, once: bool) -> int:
    """Run the demo; the exit code is 0 if every digest was right and every source as promised.

    Without `once` it stays up after a success until Ctrl-C. However it ends, its processes and files are gone.
    """
    return uvloop.run(_until_stopped(once=once))


async def _until_stopped(*, once: bool) -> int:
    """Let the first signal cancel the demo, and ignore further ones: ending takes some seconds at most."""
    loop = asyncio.get_running_loop()
    story = asyncio.create_task(tell(once=once))
    received: list[int] = []

    def stop(number: int) -> None:
        if not received:
            received.append(number)
            story.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await story
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
