"""One gossip node in a process of its own, told by a socket what to do; the other side is `processes`.

It begins at once. A line `state` is answered by a line of JSON, `add WORD` adds a key. When the other side closes the
socket, or on SIGTERM, it leaves.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossip import ClusterSecret, Config, Node

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def state(node: Node) -> dict[str, Any]:
    """Whom it sees, how many pairs of those it holds, and a hash that two nodes share that know the same."""
    known = sorted([node.me.name, *(member.name for member in node.members())])
    held = node._replica.set
    stands = [(name, repr(held.at(name)), held.audit(name)) for name in known]
    return {
        "members": known,
        "pairs": sum(len(held.cells[name].sequences) for name in known if name in held.cells),
        "hash": hashlib.sha256(repr(stands).encode()).hexdigest(),
        "audit_mismatches": node.counters.audit_mismatches,
        "refused": node.counters.refused_connections,
        "bytes_in": node.counters.bytes_in,
        "bytes_out": node.counters.bytes_out,
    }


async def obey(node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Do as the lines say, until they end."""
    while line := await reader.readline():
        command, _, word = line.decode().strip().partition(" ")
        if command == "state":
            writer.write(json.dumps(state(node)).encode() + b"\n")
        else:
            assert command == "add", command
            node.add(word.encode())


async def main(settings: dict[str, Any], told: socket.socket) -> None:
    """Run the node; an internal failure of it ends the process."""
    keys = settings.pop("keys")
    epoch_file, secret = Path(settings.pop("epoch_file")), ClusterSecret(settings.pop("secret").encode())
    node = Node(Config(**settings, epoch_file=epoch_file, secret=secret))
    for key in keys:
        node.add(key.encode())
    reader, writer = await asyncio.open_connection(sock=told)
    async with node:
        obeying = asyncio.create_task(obey(node, reader, writer))
        running = asyncio.create_task(node.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, obeying.cancel)
        await asyncio.wait([obeying, running], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        running.cancel()
    writer.close()


def run(settings: dict[str, Any], connection: Connection) -> None:
    """Be the node, in a process that was forked for it."""
    asyncio.run(main(settings, socket.socket(fileno=connection.fileno())))
