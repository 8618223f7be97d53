"""Content as bytes: frames of binary numbers and keys. Numbers are LEB128 varints.

A delta: the additions, as their count, then for each the distance of its sequence number from the one before, the
key's length, and the key. Then, but for a snapshot, the removals or the live numbers: their count, then the distances.
A distance is at least 1, so sequence numbers ascend by construction.

The keys of a part: their count, then the length of each and the key. A piece of a snapshot: the count of its pairs,
then for each the distance of its sequence number from the one before, and the number of its key.
"""

from __future__ import annotations

from itertools import accumulate, chain
from operator import sub
from typing import TYPE_CHECKING, Final

from gossip.cell import KEY_BYTES_MAX
from gossip.errors import DecodeError
from gossip.messages import PAIRS_PER_PART_MAX
from gossip.or_set import KEYS_PER_OWNER_MAX, SEQUENCE_MAX, Interval, LiveSet, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gossip.or_set import Addition, Delta

VARINT_BYTES_MAX: Final = 5


def write_content(delta: Delta) -> bytes:
    """The frame of a delta."""
    out = bytearray()
    _put(out, len(delta.adds))
    before = 0
    for sequence, key in delta.adds:
        _put(out, sequence - before)
        _put(out, len(key))
        out += key
        before = sequence
    if isinstance(delta, Interval):
        _put_numbers(out, delta.removals)
    elif isinstance(delta, LiveSet):
        _put_numbers(out, delta.live)
    return bytes(out)


def read_content(frame: bytes, *, numbered: bool) -> tuple[tuple[Addition, ...], tuple[int, ...]]:
    """The additions of a frame, and the removals or live numbers if it is `numbered`; raises `DecodeError`."""
    reader = _Reader(frame)
    adds = reader.additions()
    numbers = reader.numbers() if numbered else ()
    reader.end()
    return adds, numbers


def write_keys(keys: Sequence[bytes]) -> bytes:
    """The frame of a part's keys."""
    out = bytearray()
    _put(out, len(keys))
    for key in keys:
        _put(out, len(key))
        out += key
    return bytes(out)


def read_keys(frame: bytes) -> tuple[bytes, ...]:
    """The keys of a part; raises `DecodeError`."""
    reader = _Reader(frame)
    keys = reader.keys(PAIRS_PER_PART_MAX)
    reader.end()
    return keys


def write_pairs(sequences: Sequence[int], references: Sequence[int]) -> bytes:
    """The frame of a piece."""
    out = bytearray()
    _put(out, len(sequences))
    for step, reference in zip(_steps(sequences), references, strict=True):
        _put(out, step)
        _put(out, reference)
    return bytes(out)


def read_pairs(frame: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sequence numbers and references of a piece; raises `DecodeError`."""
    reader = _Reader(frame)
    sequences, references = reader.pairs(PAIRS_PER_PART_MAX)
    reader.end()
    return sequences, references


def content_bytes(delta: Delta) -> int:
    """About how many bytes a delta takes on the wire; never less than half of what it takes."""
    numbers = () if isinstance(delta, Snapshot) else delta.removals if isinstance(delta, Interval) else delta.live
    return 64 + sum(len(key) + 4 for _, key in delta.adds) + 2 * len(numbers)


def _put_numbers(out: bytearray, numbers: Sequence[int]) -> None:
    _put(out, len(numbers))
    for step in _steps(numbers):
        _put(out, step)


def _steps(numbers: Sequence[int]) -> Iterator[int]:
    """The distance of each number from the one before, the first from 0."""
    return map(sub, numbers, chain((0,), numbers))


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


class _Reader:
    """Reads one payload frame, every step within its bounds."""

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._position = 0

    def additions(self) -> tuple[Addition, ...]:
        adds: list[Addition] = []
        sequence = 0
        for _ in range(self._number(KEYS_PER_OWNER_MAX)):
            sequence = self._next(sequence)
            adds.append((sequence, self._key()))
        if len({key for _, key in adds}) != len(adds):
            raise DecodeError("a key is there twice")
        return tuple(adds)

    def keys(self, most: int) -> tuple[bytes, ...]:
        return tuple(self._key() for _ in range(self._number(most)))

    def pairs(self, most: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        numbers = self._several(2 * self._number(most))
        return _ascending(numbers[::2]), tuple(numbers[1::2])

    def numbers(self) -> tuple[int, ...]:
        return _ascending(self._several(self._number(len(self._frame))))

    def end(self) -> None:
        if self._position != len(self._frame):
            raise DecodeError("bytes after the end of a frame")

    def _key(self) -> bytes:
        length = self._number(KEY_BYTES_MAX)
        key = self._frame[self._position : self._position + length]
        if not length or len(key) != length:
            raise DecodeError("a key is cut short")
        self._position += length
        return key

    def _next(self, before: int) -> int:
        step = self._number(SEQUENCE_MAX)
        if not step or before + step > SEQUENCE_MAX:
            raise DecodeError("sequence numbers ascend up to their limit")
        return before + step

    def _number(self, most: int) -> int:
        position = self._position
        if position < len(self._frame) and self._frame[position] <= 0x7F:  # one byte, the usual case
            value = self._frame[position]
            self._position = position + 1
        else:
            [value] = self._several(1)
        if value > most:
            raise DecodeError(f"a number above its limit of {most}")
        return value

    def _several(self, count: int) -> list[int]:
        """So many numbers up to `SEQUENCE_MAX`. Most of the work of reading is here: one loop, and no calls in it."""
        frame, position = self._frame, self._position
        numbers = []
        try:
            for _ in range(count):
                value = frame[position]
                position += 1
                if value > 0x7F:
                    value, position = _long(frame, position, value)
                numbers.append(value)
        except IndexError:
            raise DecodeError("a number is cut short") from None
        if numbers and max(numbers) > SEQUENCE_MAX:
            raise DecodeError(f"a number above its limit of {SEQUENCE_MAX}")
        self._position = position
        return numbers


def _long(frame: bytes, position: int, first: int) -> tuple[int, int]:
    """A number of more than one byte, of which the first was read; and the position after it."""
    value, shift = first & 0x7F, 7
    while shift < 7 * VARINT_BYTES_MAX:
        byte = frame[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise DecodeError("a number of too many bytes")


def _ascending(steps: Sequence[int]) -> tuple[int, ...]:
    """The numbers that lie so far from one another, the first from 0."""
    numbers = tuple(accumulate(steps))
    if numbers and (min(steps) < 1 or numbers[-1] > SEQUENCE_MAX):
        raise DecodeError("sequence numbers ascend up to their limit")
    return numbers
