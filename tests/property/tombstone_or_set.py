"""The OR-set of the textbook: unique tags, and a tombstone for each removed one. Correct, and it only grows.

Source: Shapiro et al., "A comprehensive study of convergent and commutative replicated data types", section 3.3.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Tag = tuple[object, ...]


@dataclass
class TombstoneORSet:
    """One replica of the set."""

    elements: set[tuple[bytes, Tag]] = field(default_factory=set)
    tombstones: set[Tag] = field(default_factory=set)

    def add(self, key: bytes, tag: Tag) -> None:
        self.elements.add((key, tag))

    def remove(self, key: bytes) -> None:
        self.tombstones |= {tag for held, tag in self.elements if held == key}

    def clear(self) -> None:
        self.tombstones |= {tag for _, tag in self.elements}

    def copy(self) -> TombstoneORSet:
        return TombstoneORSet(set(self.elements), set(self.tombstones))

    def merge(self, other: TombstoneORSet) -> None:
        self.elements |= other.elements
        self.tombstones |= other.tombstones

    def value(self) -> list[bytes]:
        return sorted(key for key, tag in self.elements if tag not in self.tombstones)
