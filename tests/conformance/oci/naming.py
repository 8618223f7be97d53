"""Runs a command whose requests to a registry say which registry they mean, as containerd's do to a mirror.

    python -m tests.conformance.oci.naming NAME COMMAND...

The command's `OCI_REGISTRY` leads to a proxy on loopback that adds `ns=NAME` to the target of each request, and passes
on all other bytes in both directions as they come. The requests must have no bodies.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import closing
from functools import partial
from typing import Final

REGISTRY: Final = "OCI_REGISTRY"
LOOPBACK: Final = "127.0.0.1"
READ_BYTES: Final = 65536


async def main(name: str, command: list[str]) -> int:
    """Run it; returns its exit code."""
    server = await asyncio.start_server(partial(_pass_on, name), LOOPBACK, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        environment = os.environ | {REGISTRY: f"{LOOPBACK}:{port}"}
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        return await process.wait()


async def _pass_on(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host, _, port = os.environ[REGISTRY].partition(":")
    answers, requests = await asyncio.open_connection(host, int(port))
    with closing(writer), closing(requests):
        answering = asyncio.create_task(_pass_back(answers, writer))
        try:
            while True:
                requests.write(named(await reader.readuntil(b"\r\n\r\n"), name))
        except (asyncio.IncompleteReadError, ConnectionError):
            answering.cancel()


async def _pass_back(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer):
        while data := await answers.read(READ_BYTES):
            writer.write(data)
            await writer.drain()


def named(head: bytes, name: str) -> bytes:
    """The head of a request, with the registry's name in its query."""
    line, _, rest = head.partition(b"\r\n")
    method, target, version = line.split(b" ")
    assert method in {b"GET", b"HEAD"}, f"{method!r} may have a body"
    separator = b"&" if b"?" in target else b"?"
    return b"%s %s%sns=%s %s\r\n%s" % (method, target, separator, name.encode(), version, rest)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2:])))
