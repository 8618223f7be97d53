"""What a server may offer beyond ASGI's plain body messages: moving bytes that the app never reads.

An app looks for these names in `scope["extensions"]` and, where one is there, sends a message of that type in place
of `http.response.body`. The answer must have a Content-Length, and a last `http.response.body` ends it.

- `ZERO_COPY_SEND` is ASGI's own ("Zero Copy Send" in its extensions): `file` (a descriptor, or an object that has
  one), `offset` and `count` (by default from the file's position to its end), `more_body`; and, beyond ASGI's,
  `is_kept` (see `mirror.pieces.FilePiece`).
- `SPLICE` is this project's: `socket` (non-blocking), `count` (how many of its bytes), `silence_s` (how long it may
  give nothing although the client would take it).

In either case `send` returns when all bytes are with the kernel, and raises one of the errors below otherwise. After
`EndedEarlyError` the answer is whole up to there and can go on from another source. The entry of `SPLICE` has two
functions: `moved`, how many bytes of the message under way are with the kernel, and `keeps_up`, whether the client has
taken all that it was given, the last of it just now.
"""

from __future__ import annotations

from typing import Final

ZERO_COPY_SEND: Final = "http.response.zerocopysend"
SPLICE: Final = "skvaller.response.splice"


class ClientGoneError(ConnectionError):
    """The client left, or took nothing for too long; the connection is closed. `sent` bytes of the message went out."""

    def __init__(self, message: str, sent: int) -> None:
        super().__init__(message)
        self.sent = sent


class EndedEarlyError(OSError):
    """The file or socket gave only `sent` bytes, and those went out; says why."""

    def __init__(self, message: str, sent: int) -> None:
        super().__init__(message)
        self.sent = sent
