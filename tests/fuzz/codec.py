"""Fuzzing what a member's bytes can do: the codec, and the replica behind it, under atheris (libFuzzer).

    python -m tests.fuzz.codec [libFuzzer options]

Without options it runs for a minute. An input is either frames as they are, or a valid message in which a value of the
header and the payload are replaced. The codec may raise only `DecodeError`; what it lets in must come out of `encode`
and `decode` unchanged; and a replica that receives it must keep its invariants. A failure prints the input's file;
with that file as the only option the failure is repeated.
"""

from __future__ import annotations

import random
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any, Final

# It is installed in the environment where this runs, and not where types are checked.
atheris: Any = import_module("atheris")

with atheris.instrument_imports(include=["gossip"]):
    import orjson

    from gossip.codec import decode, encode
    from gossip.config import Config
    from gossip.counters import Counters
    from gossip.errors import DecodeError
    from gossip.membership import Claim, Member, Status
    from gossip.messages import (
        Ack,
        Answer,
        Buckets,
        Busy,
        Compare,
        Deltas,
        Heads,
        Heartbeat,
        Join,
        Members,
        Message,
        More,
        Nack,
        Part,
        Piece,
        Ping,
        PingRequest,
        Pull,
        Question,
        Sender,
        Version,
        Versions,
    )
    from gossip.or_set import Epoch, Head, Interval, LiveSet, Snapshot
    from gossip.replica import Replica

DEFAULT_OPTIONS: Final = (
    "-max_total_time=60",
    "-timeout=5",
    "-rss_limit_mb=1024",
    "-max_len=4096",
    "-len_control=0",
    "-verbosity=0",
)
CLUSTER: Final = "test"
FRAMES_MAX: Final = 8
VALUES: Final[list[Any]] = [
    None,
    True,
    -1,
    0,
    1,
    2**32,
    2**63,
    2**64 - 1,
    1.5,
    "",
    "x" * 300,
    "me",
    "ann",
    "\n",
    [],
    {},
    [[]],
]
"""What a header field may be replaced by."""

EPOCH: Final = Epoch(3, 9)
ANN: Final = Member("ann", EPOCH, "192.0.2.1", 29992, 29993, "zone", {"peer_port": "29991"}, bytes(range(32)))
BOB: Final = Member("bob", Epoch(1, 1), "192.0.2.2", 1, 2, refutation=3, status=Status.SUSPECT)
CLAIMS: Final = (Claim(ANN), Claim(BOB, "ann"))
SENDER: Final = Sender("ann", EPOCH, 5)
HEAD: Final = Head("ann", EPOCH, 7, 0x0102, 2, bytes(range(16)))
INTERVAL: Final = Interval("ann", EPOCH, 4, 7, ((5, b"abc"), (7, b"d")), (2, 6))
PIECE: Final = Piece("ann", EPOCH, 9, True, (1, 9), (0, 1))
MESSAGES: Final[tuple[Message, ...]] = (
    Heartbeat(ANN, HEAD),
    Heads((HEAD, Head("bob", Epoch(1, 1), 1, 2, 0, b""))),
    Deltas((INTERVAL,)),
    Deltas((LiveSet("bob", EPOCH, 200, 300, ((300, b"x"),), (1, 200)), Snapshot("ann", EPOCH, 3, ((3, b"key"),)))),
    Members(CLAIMS),
    Join(ANN),
    Ping(ANN, 7),
    PingRequest(ANN, 7, BOB),
    Ack(ANN, 7),
    Nack(7),
    Pull((("bob", EPOCH, 2), ("me", EPOCH, 0))),
    Compare(ANN, bytes(16)),
    Buckets(tuple(range(256))),
    Busy(),
    Versions((1, 2), (Version("me", EPOCH, 2, (EPOCH, 0), Status.ALIVE),)),
    Part(1, last=True, claims=CLAIMS, deltas=(INTERVAL,), keys=(b"abc", b"d"), pieces=(PIECE,)),
    More(),
    Question(7, b"who?"),
    Answer(7, b"you"),
)
"""One of each kind, several of those with several forms."""


def frames_of(provider: Any) -> list[bytes]:
    """The input's meaning: one valid message changed a little, or any frames."""
    if provider.ConsumeBool():
        frames = encode(CLUSTER, SENDER, provider.PickValueInList(list(MESSAGES)))
        header = orjson.loads(frames[1])
        field = provider.PickValueInList(sorted(header))
        header[field] = damaged(provider, header[field])
        payload = [provider.ConsumeBytes(200) for _ in range(provider.ConsumeIntInRange(0, len(frames) - 1))]
        return [frames[0], orjson.dumps(header), *(payload or frames[2:])]
    return [provider.ConsumeBytes(1000) for _ in range(provider.ConsumeIntInRange(0, FRAMES_MAX))]


def damaged(provider: Any, value: Any) -> Any:
    """The value with something in it replaced."""
    if isinstance(value, list | dict) and value and provider.ConsumeBool():
        at = provider.PickValueInList(list(value) if isinstance(value, dict) else list(range(len(value))))
        value[at] = damaged(provider, value[at])
        return value
    if provider.ConsumeBool():
        return provider.PickValueInList(VALUES)
    return provider.ConsumeIntInRange(0, 300) if provider.ConsumeBool() else provider.ConsumeUnicodeNoSurrogates(8)


def fuzz(data: bytes) -> None:
    """One input."""
    frames = frames_of(atheris.FuzzedDataProvider(data))
    try:
        sender, message = decode(CLUSTER, frames)
    except DecodeError:
        return
    assert decode(CLUSTER, encode(CLUSTER, sender, message)) == (sender, message)
    replica = Replica(Config(name="me", cluster=CLUSTER), counter=0, rng=random.Random(1), counters=Counters())
    replica.add(b"key", 0.0)
    replica.start(0.0)
    replica.receive(SENDER, Join(ANN), 0.1)
    replica.receive(sender, message, 0.2)
    replica.tick(3.0)
    replica.check()


def corpus(directory: Path) -> str:
    """Inputs to begin with: the valid headers and payloads."""
    for number, message in enumerate(MESSAGES):
        frames = encode(CLUSTER, SENDER, message)
        (directory / str(number)).write_bytes(b"".join(frames))
    return str(directory)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as seeds:
        options = sys.argv[1:] or [*DEFAULT_OPTIONS, f"-artifact_prefix={tempfile.gettempdir()}/", corpus(Path(seeds))]
        atheris.Setup([sys.argv[0], *options], fuzz)
        atheris.Fuzz()
