"""The wire format: a worked example of each message, and its limits at the limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from gossip import codec
from gossip.cell import KEY_BYTES_MAX
from gossip.codec import FRAMES_MAX, MESSAGE_BYTES_MAX, TOPICS, decode, encode
from gossip.errors import DecodeError
from gossip.membership import Claim, Member, Status
from gossip.messages import (
    PAIRS_PER_PART_MAX,
    VERSIONS_PER_MESSAGE_MAX,
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

if TYPE_CHECKING:
    from gossip.messages import Message

EPOCH = Epoch(3, 9)
ANN = Member("ann", EPOCH, "192.0.2.1", 29992, 29993, "zone-a", {"peer_port": "29991"})
SENDER = Sender("ann", EPOCH, 5)

ENVELOPE = b'{"v":1,"c":"test","s":"ann","e":[3,9],"n":5,'
RECORD = b'{"n":"ann","e":[3,9],"a":"192.0.2.1","p":[29992,29993],"z":"zone-a","x":{"peer_port":"29991"}}'
BOB = Member("bob", EPOCH, "192.0.2.2", 1, 2, server_key=bytes(32), refutation=1, status=Status.SUSPECT)
BOB_RECORD = b'{"n":"bob","e":[3,9],"a":"192.0.2.2","p":[1,2],"k":"' + b"A" * 43 + b'=","i":1,"t":1}'

# These bytes are the protocol, version 1. They are frozen: who changes one of them must raise the protocol's version,
# keep these as the vectors of the version before, and go on understanding them.
EXAMPLES: list[tuple[Message, list[bytes]]] = [
    (
        Heartbeat(ANN, Head("ann", EPOCH, 7, 0x0102, 2, bytes(range(16)))),
        [
            b"H",
            ENVELOPE + b'"k":"Heartbeat","m":' + RECORD + b',"h":[7,2]}',
            b"\0\0\0\0\0\0\1\2" + bytes(range(16)),
        ],
    ),
    (
        Heads((Head("bob", EPOCH, 7, 1, 2, bytes(range(16))), Head("cyd", EPOCH, 8, 2, 0, b""))),
        [
            b"H",
            ENVELOPE + b'"k":"Heads","h":[["bob",3,9,7,2],["cyd",3,9,8,0]]}',
            b"\0\0\0\0\0\0\0\1" + bytes(range(16)),
            b"\0\0\0\0\0\0\0\2",
        ],
    ),
    (
        Deltas(
            (
                Interval("ann", EPOCH, 4, 7, ((5, b"abc"), (7, b"d")), (2, 6)),
                LiveSet("bob", EPOCH, 200, 300, ((300, b"x"),), (1, 200)),
                Snapshot("cyd", EPOCH, 0, ()),
            )
        ),
        [
            b"E",
            ENVELOPE + b'"k":"Deltas","d":[["D","ann",3,9,4,7],["L","bob",3,9,200,300],["S","cyd",3,9,0,0]]}',
            b"\2\5\3abc\2\1d\2\2\4",
            b"\1\xac\2\1x\2\1\xc7\1",
            b"\0",
        ],
    ),
    (
        Members((Claim(ANN), Claim(BOB, "ann"))),
        [b"M", ENVELOPE + b'"k":"Members","ms":[[' + RECORD + b"],[" + BOB_RECORD + b',"ann"]]}'],
    ),
    (Join(ANN), [b"R", ENVELOPE + b'"k":"Join","m":' + RECORD + b"}"]),
    (Ping(ANN, 3), [b"R", ENVELOPE + b'"k":"Ping","m":' + RECORD + b',"i":3}']),
    (
        PingRequest(ANN, 3, BOB),
        [b"R", ENVELOPE + b'"k":"PingRequest","m":' + RECORD + b',"i":3,"to":' + BOB_RECORD + b"}"],
    ),
    (Ack(BOB, 3), [b"R", ENVELOPE + b'"k":"Ack","m":' + BOB_RECORD + b',"i":3}']),
    (Nack(3), [b"R", ENVELOPE + b'"k":"Nack","i":3}']),
    (Compare(ANN, b"f" * 16), [b"R", ENVELOPE + b'"k":"Compare","m":' + RECORD + b"}", b"f" * 16]),
    (
        Buckets(tuple(range(256))),
        [b"R", ENVELOPE + b'"k":"Buckets"}', b"".join(number.to_bytes(8) for number in range(256))],
    ),
    (Busy(), [b"R", ENVELOPE + b'"k":"Busy"}']),
    (
        Versions(
            (1, 255),
            (
                Version("bob", EPOCH, 2, (EPOCH, 0), Status.ALIVE),
                Version("cyd", Epoch(2, 1), 2, (EPOCH, 1), Status.DOWN),
            ),
        ),
        [b"R", ENVELOPE + b'"k":"Versions","b":[1,255],"have":[["bob",3,9,2],["cyd",2,1,2,3,9,1,2]]}'],
    ),
    (Pull((("bob", EPOCH, 2),)), [b"R", ENVELOPE + b'"k":"Pull","have":[["bob",3,9,2]]}']),
    (
        Part(
            2,
            last=True,
            claims=(Claim(ANN),),
            deltas=(Snapshot("cyd", EPOCH, 0, ()),),
            keys=(b"abc", b"d"),
            pieces=(Piece("bob", EPOCH, 300, True, (1, 300), (1, 0)),),
        ),
        [
            b"R",
            ENVELOPE + b'"k":"Part","i":2,"l":1,"ms":[[' + RECORD + b']],"d":[["S","cyd",3,9,0,0]],'
            b'"p":[["bob",3,9,300,1]]}',
            b"\0",
            b"\2\3abc\1d",
            b"\2\1\1\xab\2\0",
        ],
    ),
    (More(), [b"R", ENVELOPE + b'"k":"More"}']),
    (Question(7, b"who?"), [b"R", ENVELOPE + b'"k":"Question","i":7}', b"who?"]),
    (Answer(7, b""), [b"R", ENVELOPE + b'"k":"Answer","i":7}', b""]),
]


def test_there_is_an_example_of_each_message() -> None:
    assert {type(message) for message, _ in EXAMPLES} == TOPICS.keys()


@pytest.mark.parametrize(("message", "frames"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_a_message_has_exactly_these_bytes(message: Message, frames: list[bytes]) -> None:
    assert encode("test", SENDER, message) == frames
    assert decode("test", frames) == (SENDER, message)


def test_a_members_key_is_written_in_base64_when_it_has_one() -> None:
    secured = replace(ANN, server_key=bytes(range(32)))
    record = RECORD[:-1] + b',"k":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}'
    frames = [b"R", ENVELOPE + b'"k":"Join","m":' + record + b"}"]
    assert encode("test", SENDER, Join(secured)) == frames
    assert decode("test", frames) == (SENDER, Join(secured))


@pytest.mark.parametrize("key", [None, 1, "AAEC", "!" * 44, "é" * 44, "A" * 45])
def test_a_members_key_of_another_length_or_alphabet_is_refused(key: object) -> None:
    assert refusal(changed(Join(ANN), m=orjson.loads(RECORD) | {"k": key})) == "malformed"


def changed(message: Message, **fields: Any) -> list[bytes]:
    """A message's frames with other header fields."""
    frames = encode("test", SENDER, message)
    frames[1] = orjson.dumps(orjson.loads(frames[1]) | fields)
    return frames


def refusal(frames: list[bytes]) -> str:
    with pytest.raises(DecodeError) as refused:
        decode("test", frames)
    return refused.value.reason


def test_fields_that_are_not_known_are_ignored() -> None:
    assert decode("test", changed(Join(ANN), future={"any": [1]})) == (SENDER, Join(ANN))
    newer = changed(Join(ANN), m=orjson.loads(RECORD) | {"future": 1})
    assert decode("test", newer) == (SENDER, Join(ANN))


def test_another_cluster_and_another_version_are_told_apart_from_nonsense() -> None:
    assert refusal(changed(Join(ANN), c="other")) == "cluster"
    assert refusal(changed(Join(ANN), v=2)) == "version"
    assert refusal(changed(Join(ANN), v=True)) == "version"
    assert refusal(changed(Join(ANN), k="Unheard")) == "malformed"


def test_nobody_speaks_in_anothers_name() -> None:
    other = Member("bob", EPOCH, "192.0.2.2", 1, 2)
    for message in (Join(other), Compare(other, b"f" * 16)):
        assert refusal(encode("test", SENDER, message)) == "malformed"


@pytest.mark.parametrize(
    "fields",
    [
        *({"s": name} for name in ("", "x" * 254, "a\nb", 1)),
        *({"e": epoch} for epoch in ([0, 1], [1], [1, -1], [2**63, 1], None)),
        *({"n": number} for number in (-1, 1.0, True, None)),
        *({"m": member} for member in (None, 1, "ann")),
    ],
)
def test_a_header_field_of_a_wrong_type_or_range_is_refused(fields: dict[str, object]) -> None:
    assert refusal(changed(Join(ANN), **fields)) == "malformed"


def delta_frame(kind: str, after: int, version: int, frame: bytes) -> list[bytes]:
    return [*changed(Deltas(()), d=[[kind, "ann", 3, 9, after, version]]), frame]


@pytest.mark.parametrize(
    ("kind", "after", "version", "frame"),
    [
        ("X", 0, 1, b"\0\0"),
        ("S", 1, 1, b"\0"),
        ("D", 2, 1, b"\0\0"),
        ("D", 0, 1, b""),
        ("D", 0, 1, b"\0"),
        ("D", 0, 1, b"\0\0\0"),
        ("D", 0, 1, b"\1\1\2a"),
        ("D", 0, 1, b"\1\1\0\0"),
        ("D", 1, 2, b"\1\1\1a\0"),
        ("D", 0, 1, b"\1\2\1a\0"),
        ("D", 0, 2, b"\2\1\1a\0\1b\0"),
        ("D", 0, 2, b"\2\1\1a\1\1a\0"),
        ("D", 0, 1, b"\0\1\2"),
        ("L", 1, 3, b"\0\1\2"),
        ("S", 0, 2**32 - 1, b"\1\xff\xff\xff\xff\x1f\1a"),
        ("S", 0, 1, b"\x80\x80\x80\x80\x80\x80"),
        ("S", 0, 1, b"\xff\xff\xff\xff\x0f"),
    ],
)
def test_a_damaged_delta_is_refused(kind: str, after: int, version: int, frame: bytes) -> None:
    assert refusal(delta_frame(kind, after, version, frame)) == "malformed"


def test_a_key_may_be_as_long_as_its_limit_and_not_longer() -> None:
    longest = Deltas((Snapshot("ann", EPOCH, 1, ((1, bytes(KEY_BYTES_MAX)),)),))
    assert decode("test", encode("test", SENDER, longest)) == (SENDER, longest)
    longer = Deltas((Snapshot("ann", EPOCH, 1, ((1, bytes(KEY_BYTES_MAX + 1)),)),))
    assert refusal(encode("test", SENDER, longer)) == "malformed"


def test_a_message_may_be_as_large_as_its_limits_and_not_larger() -> None:
    frames = encode("test", SENDER, Join(ANN))
    room = MESSAGE_BYTES_MAX - sum(map(len, frames))
    assert decode("test", [*frames, bytes(room)]) == (SENDER, Join(ANN))
    assert refusal([*frames, bytes(room + 1)]) == "oversized"
    assert refusal([*frames, *[b""] * (FRAMES_MAX - 1)]) == "oversized"
    most = Pull((("bob", EPOCH, 2),) * VERSIONS_PER_MESSAGE_MAX)
    assert decode("test", encode("test", SENDER, most)) == (SENDER, most)
    assert refusal(encode("test", SENDER, Pull((*most.have, most.have[0])))) == "malformed"


def test_a_part_of_the_largest_keys_fits_a_message() -> None:
    keys = tuple(number.to_bytes(KEY_BYTES_MAX) for number in range(PAIRS_PER_PART_MAX))
    numbers = tuple(range(1, PAIRS_PER_PART_MAX + 1))
    piece = Piece("ann", EPOCH, 2**32 - 1, False, numbers, tuple(number - 1 for number in numbers))
    part = Part(1, last=False, keys=keys, pieces=(piece,))
    assert decode("test", encode("test", SENDER, part)) == (SENDER, part)
    assert refusal(encode("test", SENDER, Part(1, last=False, keys=(*keys, b"x")))) == "malformed"


def test_this_protocol_and_the_one_before_are_understood_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "PROTOCOL", 2)
    for version in (1, 2):
        sender, _ = decode("test", changed(Join(ANN), v=version))
        assert sender.protocol == version
        assert encode("test", sender, Join(ANN)) == changed(Join(ANN), v=version), "it is answered in its own"
    for version in (0, 3):
        assert refusal(changed(Join(ANN), v=version)) == "version"


@pytest.mark.parametrize("version", [0, -1, 2])
def test_the_first_protocol_has_none_before_it(version: int) -> None:
    assert refusal(changed(Join(ANN), v=version)) == "version"


@pytest.mark.parametrize(
    "frames",
    [
        changed(Buckets(tuple(range(256))))[:2],
        [*changed(Buckets(tuple(range(256)))), b""],
        changed(Versions((), ()), b=[256]),
        changed(Versions((), ()), have=[["bob", 3, 9, 2, 3]]),
        changed(Versions((), ()), have=[[]]),
        changed(Members(()), ms=[[]]),
        changed(Members((Claim(ANN),)), ms=[[orjson.loads(RECORD), "bob"]]),
        changed(Heads((Head("ann", EPOCH, 1, 0, 0, b""),)), h=[["ann", 3, 9, 1, 1]]),
        changed(Part(1, last=True), i=0),
        changed(Part(1, last=True), p=[["bob", 3, 9, 1, 1]]),
        [*changed(Part(1, last=True), p=[["bob", 3, 9, 1, 1]]), b"\1\2\0"],
    ],
    ids=repr,
)
def test_damage_to_what_is_compared_or_sent_in_parts_is_refused(frames: list[bytes]) -> None:
    assert refusal(frames) == "malformed"


def shown(frames: list[bytes]) -> str:
    """Frames as `docs/wire-format.md` shows them: a line each, the topic and the header as text, payload in hex."""
    topic, header, *payload = frames
    return "\n".join([topic.decode(), header.decode(), *(hexadecimal(frame) for frame in payload)])


def hexadecimal(frame: bytes) -> str:
    if len(frame) > 64:
        return f"{frame[:24].hex(' ', 8)} ... {frame[-8:].hex()} ({len(frame)} bytes)"
    return frame.hex(" ") or "(empty)"


@pytest.mark.parametrize(("message", "frames"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_the_page_on_the_wire_format_shows_this_example(message: Message, frames: list[bytes]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "wire-format.md").read_text()
    section = page.partition(f"\n### {type(message).__name__}\n")[2].partition("\n### ")[0]
    assert f"```\n{shown(frames)}\n```" in section
