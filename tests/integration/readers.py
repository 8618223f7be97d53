"""Many clients that ask for the same object at the same moment, as a program for a node: its loopback is its own.

    python -m tests.integration.readers PORT PATH CLIENTS

Prints the SHA-256 of each body, hexadecimal, a line each.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys


async def read(port: int, path: str) -> str:
    """Ask on a connection of its own; the hash of what comes until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    body = hashlib.sha256()
    while chunk := await reader.read(256 * 1024):
        body.update(chunk)
    writer.close()
    return body.hexdigest()


async def main(port: int, path: str, clients: int) -> None:
    """Read all of them at once."""
    for each in await asyncio.gather(*(read(port, path) for _ in range(clients))):
        sys.stdout.write(f"{each}\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
