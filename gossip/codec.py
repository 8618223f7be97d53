"""Messages as bytes: frames of [topic, header, payload ...].

The topic is one byte, for subscriptions. The header is JSON: `v` protocol version, `c` cluster, `s` sender, `e` its
epoch as [counter, nonce], `n` its sequence number, `k` the kind, and the kind's own fields. Fields that are not known
are ignored. The payload is binary, so keys and hashes are never written in hexadecimal:

- `Heartbeat`: one frame, audit hash (u64, big endian) and base hash;
- `Compare`: one frame, the fingerprint;
- `Deltas`: for each entry of the header's `d`, which is [kind, owner, counter, nonce, after, version], a frame as
  `gossip.payload` writes it.

Decoding any bytes whatever raises only `DecodeError`, in time linear in their size, and what it lets in satisfies
everything that `gossip.or_set` and `gossip.membership` assume.
"""

from __future__ import annotations

import base64
import math
import struct
from typing import TYPE_CHECKING, Any, Final

import orjson

from gossip.errors import DecodeError
from gossip.membership import REFUTATION_MAX, SERVER_KEY_BYTES, Member, Sighting, Status
from gossip.messages import (
    DELTAS_PER_MESSAGE_MAX,
    FINGERPRINT_BYTES,
    SIGHTINGS_PER_MESSAGE_MAX,
    VERSIONS_PER_MESSAGE_MAX,
    Compare,
    Deltas,
    Heartbeat,
    Join,
    Members,
    Pull,
    Sender,
    Version,
    Versions,
)
from gossip.or_set import (
    BASE_HASH_BYTES,
    SEQUENCE_MAX,
    Epoch,
    Head,
    Interval,
    LiveSet,
    Snapshot,
)
from gossip.payload import read_content, write_content

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gossip.messages import Message
    from gossip.or_set import Delta

PROTOCOL: Final = 1
"""What this replica speaks. It also understands the one before, when there is one."""
PROTOCOLS_UNDERSTOOD: Final = (1,)

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
NAME_CHARACTERS_MAX: Final = 253
ATTRIBUTES_MAX: Final = 16
ATTRIBUTE_CHARACTERS_MAX: Final = 256
SERVER_KEY_CHARACTERS: Final = 44
"""A key's 32 bytes in base64."""
COUNTER_MAX: Final = 2**63 - 1
"""Of epochs. Half the range is left, so that a member can always take a higher one than it has seen."""
U64_MAX: Final = 2**64 - 1
AGE_S_MAX: Final = 1e9

TOPICS: Final[Mapping[type[Message], bytes]] = {
    Heartbeat: b"H",
    Deltas: b"E",
    Members: b"M",
    Join: b"R",
    Pull: b"R",
    Compare: b"R",
    Versions: b"R",
}

_HEARTBEAT = struct.Struct(f">Q{BASE_HASH_BYTES}s")
_KINDS: Final[Mapping[type[Delta], str]] = {Interval: "D", LiveSet: "L", Snapshot: "S"}


def encode(cluster: str, sender: Sender, message: Message) -> list[bytes]:
    """The frames of a message."""
    header: dict[str, Any] = {
        "v": PROTOCOL,
        "c": cluster,
        "s": sender.name,
        "e": _epoch_out(sender.epoch),
        "n": sender.sequence,
        "k": type(message).__name__,
    }
    payload: list[bytes] = []
    match message:
        case Heartbeat(member, head):
            assert (head.owner, head.epoch) == (member.name, member.epoch)
            header |= {"m": _member_out(member), "h": [head.version, head.base_count]}
            payload = [_HEARTBEAT.pack(head.audit, head.base_hash)]
        case Deltas(deltas):
            header["d"] = [_delta_out(delta) for delta in deltas]
            payload = [write_content(delta) for delta in deltas]
        case Members(sightings):
            header["ms"] = _sightings_out(sightings)
        case Join(member):
            header["m"] = _member_out(member)
        case Pull(have):
            header["have"] = _versions_out(have)
        case Compare(member, fingerprint):
            header["m"] = _member_out(member)
            payload = [fingerprint]
        case Versions(versions):
            header["have"] = _versions_out(versions)
    return [TOPICS[type(message)], orjson.dumps(header), *payload]


def decode(cluster: str, frames: Sequence[bytes]) -> tuple[Sender, Message]:
    """Read a message's frames; raises `DecodeError` for everything that is not a message to this cluster."""
    if sum(map(len, frames)) > MESSAGE_BYTES_MAX or len(frames) > DELTAS_PER_MESSAGE_MAX + 2:
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
    if type(version) is not int or version not in PROTOCOLS_UNDERSTOOD:
        raise DecodeError("a protocol version that is not understood", "version")
    if header.get("c") != cluster:
        raise DecodeError("a message of another cluster", "cluster")
    sender = Sender(_name(header.get("s")), _epoch(header.get("e")), _integer(header.get("n"), 0, U64_MAX))
    return sender, _message(header, frames[2:], sender)


def _message(header: dict[str, Any], payload: Sequence[bytes], sender: Sender) -> Message:  # noqa: PLR0911 - a table
    match header.get("k"):
        case "Heartbeat":
            member = _member(header.get("m"))
            version, base_count = (_integer(n, 0, SEQUENCE_MAX) for n in _list(header.get("h"), 2))
            if (member.name, member.epoch) != (sender.name, sender.epoch):
                raise DecodeError("a heartbeat speaks of its sender")
            if len(payload) != 1 or len(payload[0]) != _HEARTBEAT.size or base_count > version:
                raise DecodeError("a heartbeat's payload is an audit hash and a base hash")
            audit, base_hash = _HEARTBEAT.unpack(payload[0])
            return Heartbeat(member, Head(member.name, member.epoch, version, audit, base_count, base_hash))
        case "Deltas":
            entries = _array(header.get("d"), DELTAS_PER_MESSAGE_MAX)
            if len(entries) != len(payload):
                raise DecodeError("each delta has one payload frame")
            return Deltas(tuple(_delta(entry, frame) for entry, frame in zip(entries, payload, strict=True)))
        case "Members":
            return Members(_sightings(header.get("ms")))
        case "Join":
            return Join(_member_of(sender, header))
        case "Pull":
            return Pull(_versions(header.get("have")))
        case "Compare":
            if len(payload) != 1 or len(payload[0]) != FINGERPRINT_BYTES:
                raise DecodeError("the payload of Compare is a fingerprint")
            return Compare(_member_of(sender, header), payload[0])
        case "Versions":
            return Versions(_versions(header.get("have")))
        case _:
            raise DecodeError("a kind of message that is not known")


# Header fields, out and in.


def _epoch_out(epoch: Epoch) -> list[int]:
    return [epoch.counter, epoch.nonce]


def _member_out(member: Member) -> dict[str, Any]:
    out = {
        "n": member.name,
        "e": _epoch_out(member.epoch),
        "a": member.address,
        "p": [member.publish_port, member.router_port],
        "z": member.zone,
        "x": dict(member.attributes),
        "i": member.refutation,
        "t": int(member.status),
    }
    if member.server_key:
        out["k"] = base64.b64encode(member.server_key).decode()
    return out


def _sightings_out(sightings: Iterable[Sighting]) -> list[Any]:
    return [[_member_out(sighting.member), round(sighting.age_s, 3)] for sighting in sightings]


def _versions_out(versions: Iterable[Version]) -> list[Any]:
    return [[version.owner, *_epoch_out(version.epoch), version.version] for version in versions]


def _delta_out(delta: Delta) -> list[Any]:
    after = 0 if isinstance(delta, Snapshot) else delta.after
    return [_KINDS[type(delta)], delta.owner, *_epoch_out(delta.epoch), after, delta.version]


def _list(value: object, length: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise DecodeError(f"not an array of {length}")
    return value


def _array(value: object, length_max: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > length_max:
        raise DecodeError(f"not an array of at most {length_max}")
    return value


def _integer(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise DecodeError(f"not a whole number from {least} to {most}")
    return value


def _text(value: object, characters_max: int) -> str:
    if not isinstance(value, str) or len(value) > characters_max or not value.isprintable():
        raise DecodeError(f"not printable text of at most {characters_max} characters")
    return value


def _name(value: object) -> str:
    name = _text(value, NAME_CHARACTERS_MAX)
    if not name:
        raise DecodeError("an empty name")
    return name


def _epoch(value: object) -> Epoch:
    counter, nonce = _list(value, 2)
    return Epoch(_integer(counter, 1, COUNTER_MAX), _integer(nonce, 0, U64_MAX))


def _member(value: object) -> Member:
    if not isinstance(value, dict):
        raise DecodeError("a member is an object")
    publish_port, router_port = (_integer(port, 1, 65535) for port in _list(value.get("p"), 2))
    attributes = value.get("x")
    if not isinstance(attributes, dict) or len(attributes) > ATTRIBUTES_MAX:
        raise DecodeError(f"attributes are an object of at most {ATTRIBUTES_MAX} entries")
    return Member(
        _name(value.get("n")),
        _epoch(value.get("e")),
        _name(value.get("a")),
        publish_port,
        router_port,
        _text(value.get("z"), NAME_CHARACTERS_MAX),
        {_text(k, ATTRIBUTE_CHARACTERS_MAX): _text(v, ATTRIBUTE_CHARACTERS_MAX) for k, v in attributes.items()},
        _server_key(value.get("k", "")),
        _integer(value.get("i"), 0, REFUTATION_MAX),
        Status(_integer(value.get("t"), Status.ALIVE, Status.LEFT)),
    )


def _server_key(value: object) -> bytes:
    text = _text(value, SERVER_KEY_CHARACTERS)
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise DecodeError("a key that is not base64") from error
    if len(key) not in (0, SERVER_KEY_BYTES):
        raise DecodeError(f"a key is of {SERVER_KEY_BYTES} bytes")
    return key


def _member_of(sender: Sender, header: dict[str, Any]) -> Member:
    member = _member(header.get("m"))
    if (member.name, member.epoch) != (sender.name, sender.epoch):
        raise DecodeError("the record is not the sender's")
    return member


def _sightings(value: object) -> tuple[Sighting, ...]:
    sightings = []
    for entry in _array(value, SIGHTINGS_PER_MESSAGE_MAX):
        member, age_s = _list(entry, 2)
        if type(age_s) not in (int, float) or not math.isfinite(age_s) or not 0 <= age_s <= AGE_S_MAX:
            raise DecodeError("an age is a number of seconds")
        sightings.append(Sighting(_member(member), float(age_s)))
    return tuple(sightings)


def _versions(value: object) -> tuple[Version, ...]:
    return tuple(_version(entry) for entry in _array(value, VERSIONS_PER_MESSAGE_MAX))


def _version(value: object) -> Version:
    owner, counter, nonce, version = _list(value, 4)
    epoch = Epoch(_integer(counter, 0, COUNTER_MAX), _integer(nonce, 0, U64_MAX))
    return Version(_name(owner), epoch, _integer(version, 0, SEQUENCE_MAX))


def _delta(entry: object, frame: bytes) -> Delta:
    kind, name, counter, nonce, first, last = _list(entry, 6)
    owner, epoch = _name(name), _epoch([counter, nonce])
    after, version = _integer(first, 0, SEQUENCE_MAX), _integer(last, 0, SEQUENCE_MAX)
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
