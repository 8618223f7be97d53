"""A plain client on a node, beside its runtime, that tells how its answers end; it asks for nothing twice.

    python -m tests.integration.witness PORT REPOSITORY LAYOUT ASKED DIGEST...

The right bytes are in the image layout. With ASKED, a file (else ""), it asks for an object as soon as that is noted
there: the runtime has asked for it already, and is not kept from the fault that it is to meet. Prints an `Ending` for
each digest, as JSON.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

POLL_S = 0.002
ASKED_S = 10.0
"""How long the runtime may take to ask."""
SILENCE_S = 40.0
"""Longer than an agent may be silent."""
EOF = "EOF"


@dataclass(frozen=True)
class Ending:
    """What came of an object: a status, and so many of its bytes; and what ended that: `EOF`, or an error's name."""

    digest: str
    status: int
    received: int
    size: int
    right: bool
    ended: str

    @property
    def whole(self) -> bool:
        """All came that was to come."""
        return self.ended == EOF and self.status == 200 and self.right and self.received == self.size

    @property
    def cut(self) -> bool:
        """It broke off, in such a way that a client goes on where it did."""
        return self.ended == EOF and self.status == 200 and self.right and 0 < self.received < self.size

    @property
    def refused(self) -> bool:
        """Nothing of it came; who asked was told so."""
        return self.ended == EOF and self.status >= 400


def read(port: int, repository: str, layout: Path, asked: str, digest: str) -> Ending:
    """Ask for one object on a connection of its own."""
    wait_until_asked(asked, digest)
    received, ended = bytearray(), EOF
    try:
        with socket.create_connection(("127.0.0.1", port), SILENCE_S) as connection:
            path = f"/v2/{repository.partition('/')[2]}/blobs/{digest}?ns={repository.partition('/')[0]}"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            while chunk := connection.recv(256 * 1024):
                received += chunk
    except OSError as error:
        ended = errno.errorcode.get(error.errno or 0, type(error).__name__)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    data = (layout / "blobs" / digest.replace(":", "/")).read_bytes()
    status = int(head.split()[1]) if head else 0
    return Ending(digest, status, len(body), len(data), data.startswith(body), ended)


def wait_until_asked(asked: str, digest: str) -> None:
    """Wait until the runtime has asked for it. Raises TimeoutError after `ASKED_S`."""
    until = time.monotonic() + ASKED_S
    while asked and digest not in Path(asked).read_text():
        if time.monotonic() > until:
            raise TimeoutError(f"the runtime has not asked for {digest}")
        time.sleep(POLL_S)


def main(port: str, repository: str, layout: str, asked: str, *digests: str) -> None:
    """Read all of them at once."""
    with ThreadPoolExecutor() as threads:
        for ending in threads.map(partial(read, int(port), repository, Path(layout), asked), digests):
            sys.stdout.write(f"{json.dumps(asdict(ending))}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
