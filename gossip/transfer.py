"""All that one replica misses, in parts: records, deltas, and snapshots that share a dictionary of keys.

Cluster members hold much the same keys, so a key is sent once in an answer, and then meant by its number in it: a
million pairs over 20,000 keys take about 4 MB rather than 36. A part is so small that making it or applying it takes a
few milliseconds, and the receiver asks for each (`More`), so neither side is ever busy for longer, however much there
is. A snapshot larger than a part is collected in a cell that nobody sees, and takes effect when it is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gossip.messages import Part, Piece
from gossip.or_set import KEYS_PER_OWNER_MAX, LiveSet, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gossip.cell import Cell
    from gossip.membership import Claim
    from gossip.messages import Standing
    from gossip.or_set import Delta, Epoch, ORSet

PART_WORK_MAX: Final = 128
"""So much is sent, and applied, at a time: about 0.3 ms of work on either side. What waits for a turn of the loop
waits for one or two of these."""
CLAIM_WORK: Final = 8
DELTA_WORK: Final = 4
PIECE_WORK: Final = 4
"""How much work these are, one pair of a snapshot being 1."""
LIVE_PER_WORK: Final = 8
PIECE_PAIRS_MAX: Final = PART_WORK_MAX - PIECE_WORK
KEYS_PER_TRANSFER_MAX: Final = 1 << 24


@dataclass(slots=True)
class _Parcel:
    """A part in the making."""

    work: int = 0
    claims: list[Claim] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    def part(self, number: int, *, last: bool) -> Part:
        return Part(number, last, tuple(self.claims), tuple(self.deltas), tuple(self.keys), tuple(self.pieces))


@dataclass(frozen=True, slots=True)
class _Run:
    """Some of the elements of an owner's set, which is that of this epoch and version."""

    head: tuple[str, Epoch, int]
    last: bool
    sequences: tuple[int, ...]
    keys: list[bytes]


class Outgoing:
    """An answer being given: records, and what one misses who stands there with these owners.

    A part tells the state of the moment at which it is made. Who drops an answer ends it: what it was still to tell of
    is held for it no longer.
    """

    def __init__(self, held: ORSet, claims: Sequence[Claim], have: Sequence[Standing]) -> None:
        self._parts = _parts(held, claims, have)

    def next(self) -> Part | None:
        """The next part; None after the last."""
        return next(self._parts, None)


# These know nothing of the answer itself, or it would not end before the garbage is collected.


def _parts(held: ORSet, claims: Sequence[Claim], have: Sequence[Standing]) -> Iterator[Part]:
    number, parcel = 1, _Parcel()
    numbers: dict[bytes, int] = {}
    for work, put in _contents(held, claims, have):
        if parcel.work and parcel.work + work > PART_WORK_MAX:
            yield parcel.part(number, last=False)
            number, parcel = number + 1, _Parcel()
        parcel.work += work
        if isinstance(put, _Run):
            parcel.pieces.append(_piece(put, numbers, parcel.keys))
        elif isinstance(put, tuple):
            parcel.claims.extend(put)
        else:
            parcel.deltas.append(put)
    yield parcel.part(number, last=True)


def _contents(
    held: ORSet, claims: Sequence[Claim], have: Sequence[Standing]
) -> Iterator[tuple[int, tuple[Claim, ...] | Delta | _Run]]:
    """What is to be sent, in pieces of bounded work, each made when the one before is sent."""
    for claim in claims:
        yield CLAIM_WORK, (claim,)
    for owner, epoch, after in have:
        cell = held.cells.get(owner)
        if cell is None or (epoch, after) >= (cell.epoch, cell.version):
            continue
        if epoch == cell.epoch and after:
            delta = held.diff(owner, epoch, after)
            assert delta is not None
            work = _work(delta)
            if not isinstance(delta, Snapshot) and work <= PART_WORK_MAX:
                yield work, delta
                continue
        # What changes from now on is not in it, however long it takes to send.
        head, sequences, identities = (owner, cell.epoch, cell.version), cell.sequences[:], cell.identities[:]
        with held.index.pinned():
            for start in range(0, max(1, len(sequences)), PIECE_PAIRS_MAX):
                end = start + PIECE_PAIRS_MAX
                keys = held.index.keys(identities[start:end])
                run = _Run(head, end >= len(sequences), tuple(sequences[start:end]), keys)
                yield PIECE_WORK + len(keys), run


def _piece(run: _Run, numbers: dict[bytes, int], fresh: list[bytes]) -> Piece:
    references = []
    for key in run.keys:
        number = numbers.get(key)
        if number is None:
            number = numbers[key] = len(numbers)
            fresh.append(key)
        references.append(number)
    return Piece(*run.head, run.last, run.sequences, tuple(references))


class Incoming:
    """An answer being received. `expires` is when it is given up unless the next part comes; `whole` says that it was
    asked for all that differs."""

    def __init__(self, source: str, held: ORSet, expires: float, *, whole: bool = True) -> None:
        self.source = source
        self.expires = expires
        self.whole = whole
        self._held = held
        self._number = 0
        self._keys: list[bytes] = []
        self._owner = ""
        self._cell: Cell | None = None

    def take(self, part: Part) -> list[tuple[str, Cell]] | None:
        """The cells that this part completes, to be installed or abandoned; None when it does not continue the answer,
        or contradicts itself: nothing more of it can be used."""
        self._number += 1
        self._keys += part.keys
        if part.number != self._number or len(self._keys) > KEYS_PER_TRANSFER_MAX:
            return None
        complete: list[tuple[str, Cell]] = []
        for piece in part.pieces:
            cell = self._cell_for(piece)
            if cell is None or not self._fill(cell, piece):
                self._drop(complete)
                return None
            if piece.last:
                complete.append((piece.owner, cell))
                self._cell = None
        return complete

    def abandon(self) -> None:
        """The rest will not come."""
        self._drop(())

    def _cell_for(self, piece: Piece) -> Cell | None:
        """The cell that a piece belongs to: a new one, or the one that is not complete yet."""
        if self._cell is None:
            self._owner = piece.owner
            self._cell = self._held.stage(piece.epoch, piece.version)
        same = (self._owner, self._cell.epoch, self._cell.version) == (piece.owner, piece.epoch, piece.version)
        return self._cell if same else None

    def _fill(self, cell: Cell, piece: Piece) -> bool:
        if cell.sequences and piece.sequences and piece.sequences[0] <= cell.sequences[-1]:
            return False
        if len(cell.sequences) + len(piece.sequences) > KEYS_PER_OWNER_MAX:
            return False
        if piece.references and max(piece.references) >= len(self._keys):
            return False
        return cell.extend(piece.sequences, [self._keys[reference] for reference in piece.references])

    def _drop(self, complete: Iterable[tuple[str, Cell]]) -> None:
        for _, cell in complete:
            self._held.abandon(cell)
        if self._cell is not None:
            self._held.abandon(self._cell)
            self._cell = None


def _work(delta: Delta) -> int:
    if isinstance(delta, Snapshot):
        return DELTA_WORK + len(delta.adds)
    numbers = delta.live if isinstance(delta, LiveSet) else delta.removals
    return DELTA_WORK + len(delta.adds) + len(numbers) // LIVE_PER_WORK
