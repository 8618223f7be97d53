"""The codec's laws: whatever is encoded comes back, and any bytes at all raise only the decode error."""

from __future__ import annotations

from contextlib import suppress

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.codec import decode, encode
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
from gossip.payload import content_bytes

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
text = st.text(st.characters(categories=("L", "N", "P", "S")), max_size=20)
names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=20)
epochs = st.builds(Epoch, st.integers(1, 2**63 - 1), u64)
ports = st.integers(1, 65535)
members = st.builds(
    Member,
    name=names,
    epoch=epochs,
    address=names,
    publish_port=ports,
    router_port=ports,
    zone=text,
    attributes=st.dictionaries(text, text, max_size=4),
    server_key=st.just(b"") | st.binary(min_size=32, max_size=32),
    protocol=st.integers(1, 5),
    refutation=u32,
    status=st.sampled_from(Status),
)
claims = members.flatmap(lambda m: st.builds(Claim, st.just(m), names if m.status is Status.SUSPECT else st.just("")))
standings = st.tuples(names, epochs, u32)
versions = st.builds(Version, names, epochs, u32, st.tuples(epochs, u32), st.sampled_from(Status))
keys = st.binary(min_size=1, max_size=80)


@st.composite
def deltas(draw: st.DrawFn) -> Interval | LiveSet | Snapshot:
    owner, epoch = draw(names), draw(epochs)
    after, version = sorted(draw(st.tuples(u32, u32)))
    added = sorted(draw(st.sets(st.integers(after + 1, version), max_size=5))) if after < version else []
    fresh = draw(st.lists(keys, min_size=len(added), max_size=len(added), unique=True))
    adds = tuple(zip(added, fresh, strict=True))
    kind = draw(st.sampled_from("DLS"))
    if kind == "D":
        removals = draw(st.sets(st.integers(1, version), max_size=5)) if version else set()
        return Interval(owner, epoch, after, version, adds, tuple(sorted(removals)))
    if kind == "L":
        live = draw(st.sets(st.integers(1, after), max_size=5)) if after else set()
        return LiveSet(owner, epoch, after, version, adds, tuple(sorted(live)))
    return Snapshot(owner, epoch, version, adds)


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    version = draw(u32)
    sequences = tuple(sorted(draw(st.sets(st.integers(1, version), max_size=5)))) if version else ()
    references = tuple(draw(st.lists(u32, min_size=len(sequences), max_size=len(sequences))))
    return Piece(draw(names), draw(epochs), version, draw(st.booleans()), sequences, references)


@st.composite
def heads(draw: st.DrawFn) -> Head:
    base, version = sorted(draw(st.tuples(u32, u32)))
    known = draw(st.booleans())
    return Head(draw(names), draw(epochs), version, draw(u64), base if known else 0, bytes(16) if known else b"")


@st.composite
def messages(draw: st.DrawFn) -> tuple[Sender, Message]:
    me = draw(members)
    sender = Sender(me.name, me.epoch, draw(u64))
    base, version = sorted(draw(st.tuples(u32, u32)))
    head = Head(me.name, me.epoch, version, draw(u64), base, draw(st.binary(min_size=16, max_size=16)))
    fingerprint = draw(st.binary(min_size=16, max_size=16))
    message = draw(
        st.one_of(
            st.just(Heartbeat(me, head)),
            st.builds(Deltas, st.lists(deltas(), max_size=4).map(tuple)),
            st.builds(Members, st.lists(claims, max_size=4).map(tuple)),
            st.builds(Heads, st.lists(heads(), max_size=4).map(tuple)),
            st.just(Join(me)),
            st.builds(Ping, st.just(me), u64),
            st.builds(PingRequest, st.just(me), u64, members),
            st.builds(Ack, members, u64),
            st.builds(Nack, u64),
            st.just(Compare(me, fingerprint)),
            st.builds(Buckets, st.lists(u64, min_size=256, max_size=256).map(tuple)),
            st.just(Busy()),
            st.builds(
                Versions,
                st.lists(st.integers(0, 255), max_size=4).map(tuple),
                st.lists(versions, max_size=4).map(tuple),
            ),
            st.builds(Pull, st.lists(standings, max_size=4).map(tuple)),
            st.builds(
                Part,
                st.integers(1, 2**64 - 1),
                st.booleans(),
                st.lists(claims, max_size=3).map(tuple),
                st.lists(deltas(), max_size=3).map(tuple),
                st.lists(keys, max_size=4).map(tuple),
                st.lists(pieces(), max_size=3).map(tuple),
            ),
            st.just(More()),
            st.builds(Question, st.integers(0, 2**64 - 1), st.binary(max_size=100)),
            st.builds(Answer, st.integers(0, 2**64 - 1), st.binary(max_size=100)),
        )
    )
    return sender, message


@given(messages())
def test_what_is_encoded_comes_back(sent: tuple[Sender, Message]) -> None:
    assert decode("c", encode("c", *sent)) == sent


@given(deltas())
def test_the_estimate_of_a_deltas_size_is_not_less_than_half(delta: Interval | LiveSet | Snapshot) -> None:
    frames = encode("c", Sender("a", Epoch(1, 1)), Deltas((delta,)))
    assert 2 * content_bytes(delta) >= len(frames[2])


@given(st.lists(st.binary(max_size=64), max_size=6))
def test_any_frames_raise_only_the_decode_error(frames: list[bytes]) -> None:
    with suppress(DecodeError):
        decode("c", frames)


@settings(max_examples=300, deadline=None)
@given(messages(), st.data())
def test_a_damaged_message_raises_only_the_decode_error(sent: tuple[Sender, Message], data: st.DataObject) -> None:
    frames = encode("c", *sent)
    number = data.draw(st.integers(0, len(frames) - 1))
    frame = bytearray(frames[number])
    start = data.draw(st.integers(0, len(frame)))
    end = data.draw(st.integers(start, min(start + 8, len(frame))))
    frame[start:end] = data.draw(st.binary(max_size=8))
    frames[number] = bytes(frame)
    with suppress(DecodeError):
        decode("c", frames)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300)
@given(messages(), st.data())
def test_a_header_with_wrong_values_raises_only_the_decode_error(
    sent: tuple[Sender, Message], data: st.DataObject
) -> None:

    frames = encode("c", *sent)
    header = orjson.loads(frames[1])
    header[data.draw(st.sampled_from(sorted(header)))] = data.draw(json_values)
    frames[1] = orjson.dumps(header)
    with suppress(DecodeError):
        decode("c", frames)
