"""One gossip node in a process of its own, told by its standard input what to do; the other side is `processes`.

    python -m tests.integration.gossip.member '{"name": ..., ...}'

When it could begin it says so by a line, and waits for the line `go`. A line `state` is answered by a line of JSON,
`add WORD` adds a key. At the end of its input, or on SIGTERM, it leaves.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from gossip import ClusterSecret, Config, Node


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


async def obey(node: Node, reader: asyncio.StreamReader) -> None:
    """Do as the lines of the input say, until they end."""
    while line := await reader.readline():
        command, _, word = line.decode().strip().partition(" ")
        if command == "state":
            say(json.dumps(state(node)))
        else:
            assert command == "add", command
            node.add(word.encode())


async def main(settings: dict[str, Any]) -> None:
    """Run the node; an internal failure of it ends the process."""
    keys = settings.pop("keys")
    epoch_file, secret = Path(settings.pop("epoch_file")), ClusterSecret(settings.pop("secret").encode())
    node = Node(Config(**settings, epoch_file=epoch_file, secret=secret))
    for key in keys:
        node.add(key.encode())
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say("ready")
    if await reader.readline() != b"go\n":
        return
    async with node:
        obeying, running = asyncio.create_task(obey(node, reader)), asyncio.create_task(node.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, obeying.cancel)
        await asyncio.wait([obeying, running], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        running.cancel()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
