"""Messages as bytes: frames of [topic, header, payload ...]. docs/wire-format.md has an example of each.

The topic is one byte, for subscriptions. The header is JSON: `v` protocol version, `c` cluster, `s` sender, `e` its
epoch as [counter, nonce], `n` its sequence number, `k` the kind, and the kind's own fields (`gossip.fields`). Fields
that are not known are ignored. The payload is binary, so keys and hashes are never written in hexadecimal:

- `Heartbeat`, and `Heads` for each entry of the header's `h`: a frame of the audit hash (u64, big endian) and the base
  hash, if it is known;
- `Compare`: one frame, the fingerprint;
- `Buckets`: one frame, the hashes (u64, big endian);
- `Deltas`: for each entry of the header's `d`, which is [kind, owner, counter, nonce, after, version], a frame as
  `gossip.payload` writes it;
- `Part`: the frames of its deltas, then one of its keys, then for each entry of the header's `p`, which is [owner,
  counter, nonce, version, last], the frame of the piece;
- `Question`, `Answer`: one frame, the application's.

Decoding any bytes whatever raises only `DecodeError`, in time linear in their size, and what it lets in satisfies
everything that `gossip.or_set` and `gossip.membership` assume.

**Versions.** A replica understands its own protocol and the one before, and speaks the highest that all live members
do, so that a cluster changes over while it runs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import orjson

from gossip import fields
from gossip.cell import BASE_HASH_BYTES
from gossip.errors import DecodeError
from gossip.fields import U64_MAX
from gossip.membership import PROTOCOL
from gossip.messages import (
    BUCKET_BYTES,
    BUCKETS,
    CLAIMS_PER_MESSAGE_MAX,
    DELTAS_PER_MESSAGE_MAX,
    FINGERPRINT_BYTES,
    HEADS_PER_MESSAGE_MAX,
    PIECES_PER_PART_MAX,
    QUESTION_BYTES_MAX,
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
    Versions,
)
from gossip.or_set import SEQUENCE_MAX, Head, Interval, LiveSet, Snapshot
from gossip.payload import read_content, read_keys, read_pairs, write_content, write_keys, write_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gossip.membership import Member
    from gossip.messages import Message
    from gossip.or_set import Delta

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
FRAMES_MAX: Final = 3 + DELTAS_PER_MESSAGE_MAX + PIECES_PER_PART_MAX

TOPICS: Final[Mapping[type[Message], bytes]] = {
    Heartbeat: b"H",
    Heads: b"H",
    Deltas: b"E",
    Members: b"M",
    **dict.fromkeys((Join, Ping, PingRequest, Ack, Nack, Compare, Buckets, Busy, Versions, Pull, Part, More), b"R"),
    **dict.fromkeys((Question, Answer), b"R"),
}
PUBLISHED_TOPICS: Final = tuple(sorted({TOPICS[kind] for kind in (Heartbeat, Heads, Deltas, Members)}))
"""What those subscribe to who listen to a member."""

_AUDIT = struct.Struct(">Q")
_HASHES = struct.Struct(f">{BUCKETS}Q")
_KINDS: Final[Mapping[type[Delta], str]] = {Interval: "D", LiveSet: "L", Snapshot: "S"}

Header = dict[str, Any]
Payload = list[bytes]


def encode(cluster: str, sender: Sender, message: Message) -> list[bytes]:
    """The frames of a message."""
    own, payload = _ENCODERS[type(message)](message)
    header = {
        "v": sender.protocol,
        "c": cluster,
        "s": sender.name,
        "e": fields.epoch_out(sender.epoch),
        "n": sender.sequence,
        "k": type(message).__name__,
        **own,
    }
    return [TOPICS[type(message)], orjson.dumps(header), *payload]


def decode(cluster: str, frames: Sequence[bytes]) -> tuple[Sender, Message]:
    """Read a message's frames; raises `DecodeError` for everything that is not a message to this cluster."""
    if sum(map(len, frames)) > MESSAGE_BYTES_MAX or len(frames) > FRAMES_MAX:
        raise DecodeError("more bytes or frames than a message may have", "oversized")
    if len(frames) < 2:
        raise DecodeError("a message has a topic and a header")
    try:
        header = orjson.loads(frames[1])
    except ValueError as error:
        raise DecodeError("the header is not JSON") from error
    if not isinstance(header, dict):
        raise DecodeError("the header is not an object")
    version = header.get("v")
    if type(version) is not int or version not in (PROTOCOL, PROTOCOL - 1) or version < fields.PROTOCOL_FIRST:
        raise DecodeError("a protocol version that is not understood", "version")
    if header.get("c") != cluster:
        raise DecodeError("a message of another cluster", "cluster")
    sequence = fields.integer(header.get("n"), 0, U64_MAX)
    sender = Sender(fields.name(header.get("s")), fields.epoch(header.get("e")), sequence, version)
    decoder = _DECODERS.get(str(header.get("k")))
    if decoder is None:
        raise DecodeError("a kind of message that is not known")
    return sender, decoder(header, list(frames[2:]), sender)


# Each kind's own header fields and payload, out.


def _heartbeat_out(message: Heartbeat) -> tuple[Header, Payload]:
    member, head = message.member, message.head
    assert (head.owner, head.epoch) == (member.name, member.epoch)
    return {"m": fields.member_out(member), "h": [head.version, head.base_count]}, [_head_frame(head)]


def _heads_out(message: Heads) -> tuple[Header, Payload]:
    heads = [[h.owner, *fields.epoch_out(h.epoch), h.version, h.base_count] for h in message.heads]
    return {"h": heads}, [_head_frame(head) for head in message.heads]


def _part_out(message: Part) -> tuple[Header, Payload]:
    pieces = [[p.owner, *fields.epoch_out(p.epoch), p.version, int(p.last)] for p in message.pieces]
    header = {
        "i": message.number,
        "l": int(message.last),
        "ms": fields.claims_out(message.claims),
        "d": [_delta_out(delta) for delta in message.deltas],
        "p": pieces,
    }
    frames = [write_content(delta) for delta in message.deltas]
    frames.append(write_keys(message.keys))
    frames += [write_pairs(piece.sequences, piece.references) for piece in message.pieces]
    return header, frames


def _delta_out(delta: Delta) -> list[Any]:
    after = 0 if isinstance(delta, Snapshot) else delta.after
    return [_KINDS[type(delta)], delta.owner, *fields.epoch_out(delta.epoch), after, delta.version]


def _head_frame(head: Head) -> bytes:
    return _AUDIT.pack(head.audit) + head.base_hash


_ENCODERS: Final[Mapping[type[Message], Callable[[Any], tuple[Header, Payload]]]] = {
    Heartbeat: _heartbeat_out,
    Members: lambda m: ({"ms": fields.claims_out(m.claims)}, []),
    Heads: _heads_out,
    Deltas: lambda m: ({"d": [_delta_out(d) for d in m.deltas]}, [write_content(d) for d in m.deltas]),
    Join: lambda m: ({"m": fields.member_out(m.member)}, []),
    Ping: lambda m: ({"m": fields.member_out(m.member), "i": m.number}, []),
    PingRequest: lambda m: (
        {"m": fields.member_out(m.member), "i": m.number, "to": fields.member_out(m.target)},
        [],
    ),
    Ack: lambda m: ({"m": fields.member_out(m.member), "i": m.number}, []),
    Nack: lambda m: ({"i": m.number}, []),
    Compare: lambda m: ({"m": fields.member_out(m.member)}, [m.fingerprint]),
    Buckets: lambda m: ({}, [_HASHES.pack(*m.hashes)]),
    Busy: lambda _: ({}, []),
    Versions: lambda m: ({"b": list(m.buckets), "have": fields.versions_out(m.versions)}, []),
    Pull: lambda m: ({"have": fields.standings_out(m.have)}, []),
    Part: _part_out,
    More: lambda _: ({}, []),
    Question: lambda m: ({"i": m.number}, [m.payload]),
    Answer: lambda m: ({"i": m.number}, [m.payload]),
}


# And in.


def _heartbeat(header: Header, payload: Payload, sender: Sender) -> Heartbeat:
    member = _own_member(header, payload, sender)
    version, base_count = fields.listed(header.get("h"), 2)
    entry = [member.name, member.epoch.counter, member.epoch.nonce, version, base_count]
    return Heartbeat(member, _head(entry, _one(payload)))


def _heads(header: Header, payload: Payload, _sender: Sender) -> Heads:
    entries = fields.array(header.get("h"), HEADS_PER_MESSAGE_MAX)
    return Heads(tuple(_head(entry, frame) for entry, frame in _paired(entries, payload)))


def _deltas(header: Header, payload: Payload, _sender: Sender) -> Deltas:
    entries = fields.array(header.get("d"), DELTAS_PER_MESSAGE_MAX)
    return Deltas(tuple(_delta(entry, frame) for entry, frame in _paired(entries, payload)))


def _compare(header: Header, payload: Payload, sender: Sender) -> Compare:
    fingerprint = _one(payload)
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise DecodeError(f"a fingerprint is of {FINGERPRINT_BYTES} bytes")
    return Compare(_own_member(header, payload, sender), fingerprint)


def _buckets(_header: Header, payload: Payload, _sender: Sender) -> Buckets:
    frame = _one(payload)
    if len(frame) != BUCKETS * BUCKET_BYTES:
        raise DecodeError(f"buckets are {BUCKETS} hashes")
    return Buckets(_HASHES.unpack(frame))


def _versions(header: Header, _payload: Payload, _sender: Sender) -> Versions:
    buckets = tuple(fields.integer(number, 0, BUCKETS - 1) for number in fields.array(header.get("b"), BUCKETS))
    return Versions(buckets, fields.versions(header.get("have")))


def _part(header: Header, payload: Payload, _sender: Sender) -> Part:
    entries = fields.array(header.get("d"), DELTAS_PER_MESSAGE_MAX)
    pieces = fields.array(header.get("p"), PIECES_PER_PART_MAX)
    if len(payload) != len(entries) + 1 + len(pieces):
        raise DecodeError("a part has a frame for each delta, one for its keys, and one for each piece")
    return Part(
        fields.integer(header.get("i"), 1, U64_MAX),
        bool(fields.integer(header.get("l"), 0, 1)),
        fields.claims(header.get("ms"), CLAIMS_PER_MESSAGE_MAX),
        tuple(_delta(entry, frame) for entry, frame in zip(entries, payload[: len(entries)], strict=True)),
        read_keys(payload[len(entries)]),
        tuple(_piece(entry, frame) for entry, frame in zip(pieces, payload[len(entries) + 1 :], strict=True)),
    )


def _own_member(header: Header, _payload: Payload, sender: Sender) -> Member:
    member = fields.member(header.get("m"))
    if (member.name, member.epoch) != (sender.name, sender.epoch):
        raise DecodeError("the record is not the sender's")
    return member


def _number(header: Header) -> int:
    return fields.integer(header.get("i"), 0, U64_MAX)


_DECODERS: Final[Mapping[str, Callable[[Header, Payload, Sender], Message]]] = {
    "Heartbeat": _heartbeat,
    "Members": lambda h, _p, _s: Members(fields.claims(h.get("ms"), CLAIMS_PER_MESSAGE_MAX)),
    "Heads": _heads,
    "Deltas": _deltas,
    "Join": lambda h, p, s: Join(_own_member(h, p, s)),
    "Ping": lambda h, p, s: Ping(_own_member(h, p, s), _number(h)),
    "PingRequest": lambda h, p, s: PingRequest(_own_member(h, p, s), _number(h), fields.member(h.get("to"))),
    "Ack": lambda h, _p, _s: Ack(fields.member(h.get("m")), _number(h)),
    "Nack": lambda h, _p, _s: Nack(_number(h)),
    "Compare": _compare,
    "Buckets": _buckets,
    "Busy": lambda _h, _p, _s: Busy(),
    "Versions": _versions,
    "Pull": lambda h, _p, _s: Pull(fields.standings(h.get("have"))),
    "Part": _part,
    "More": lambda _h, _p, _s: More(),
    "Question": lambda h, p, _s: Question(_number(h), _application(p)),
    "Answer": lambda h, p, _s: Answer(_number(h), _application(p)),
}


def _one(payload: Payload) -> bytes:
    if len(payload) != 1:
        raise DecodeError("not one frame of payload")
    return payload[0]


def _application(payload: Payload) -> bytes:
    frame = _one(payload)
    if len(frame) > QUESTION_BYTES_MAX:
        raise DecodeError(f"an application says at most {QUESTION_BYTES_MAX} bytes at once", "oversized")
    return frame


def _paired(entries: list[Any], payload: Payload) -> zip[tuple[Any, bytes]]:
    if len(entries) != len(payload):
        raise DecodeError("each entry has one frame of payload")
    return zip(entries, payload, strict=True)


def _head(entry: object, frame: bytes) -> Head:
    name, counter, nonce, version, base_count = fields.listed(entry, 5)
    if len(frame) not in (_AUDIT.size, _AUDIT.size + BASE_HASH_BYTES):
        raise DecodeError("the payload of a head is an audit hash, and a base hash if it is known")
    head = Head(
        fields.name(name),
        fields.epoch([counter, nonce]),
        fields.integer(version, 0, SEQUENCE_MAX),
        _AUDIT.unpack_from(frame)[0],
        fields.integer(base_count, 0, SEQUENCE_MAX),
        frame[_AUDIT.size :],
    )
    if head.base_count > (head.version if head.base_hash else 0):
        raise DecodeError("a base of more keys than there were changes")
    return head


def _delta(entry: object, frame: bytes) -> Delta:
    kind, name, counter, nonce, first, last = fields.listed(entry, 6)
    owner, epoch = fields.name(name), fields.epoch([counter, nonce])
    after, version = fields.integer(first, 0, SEQUENCE_MAX), fields.integer(last, 0, SEQUENCE_MAX)
    adds, numbers = read_content(frame, numbered=kind != "S")
    delta: Delta
    if kind == "S" and after == 0:
        delta = Snapshot(owner, epoch, version, adds)
    elif kind == "D":
        delta = Interval(owner, epoch, after, version, adds, numbers)
    elif kind == "L":
        delta = LiveSet(owner, epoch, after, version, adds, numbers)
        if numbers and numbers[-1] > after:
            raise DecodeError("a live number lies above the interval's start")
    else:
        raise DecodeError("a kind of delta that is not known")
    inside = not adds or after < adds[0][0] <= adds[-1][0] <= version
    if not inside or after > version or (numbers and numbers[-1] > version):
        raise DecodeError("a sequence number lies outside its interval")
    return delta


def _piece(entry: object, frame: bytes) -> Piece:
    name, counter, nonce, version, last = fields.listed(entry, 5)
    sequences, references = read_pairs(frame)
    piece = Piece(
        fields.name(name),
        fields.epoch([counter, nonce]),
        fields.integer(version, 0, SEQUENCE_MAX),
        bool(fields.integer(last, 0, 1)),
        sequences,
        references,
    )
    if sequences and sequences[-1] > piece.version:
        raise DecodeError("a sequence number lies above its version")
    return piece
