"""When a giver is too slow.

How much is little no node can tell by itself: a whole herd may wait for its registry, or share a slow network, where
each gives little to many. So two things are asked. Does the giver hold back what it has? One that has come no further
itself only waits, and whoever left it would find others that wait as well. And do others give more? What they gave of
late to the two, taker and giver, says so; a floor rate does only where they gave nothing yet. The giver judges, since
it knows more of this; and it lets nobody else come for a while, unless another gets enough of it, for else all who
leave slow nodes would meet at other slow nodes, which have room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mirror.floor import FLOOR_BYTES_S, LOOK_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.herd.words import Look

TIMES: Final = 4.0
"""A giver is left when others give so many times as much. In a healthy herd they do not differ by more than two.
Raising it keeps nodes with slow networks above others; lowering it makes herds restless."""
AHEAD_BYTES: Final = 1_000_000
"""So much more than its taker a giver may have without holding anything back: it is in buffers between them."""
FAIR_S: Final = 5.0
"""A giver of which another taker got enough so recently is not slow: the one that complains has a bad path to it, or a
full link of its own. Takers look twice in that time."""
SLOW_S: Final = 10.0
"""How long a node that was found too slow sends newcomers to others."""


class Pace:
    """What peers give this node of late, and whether itself is slow beside that.

    `ahead` tells how many bytes of an object, named as in claims, this node has beyond a position.
    """

    def __init__(self, ahead: Callable[[str, int], float], clock: Callable[[], float]) -> None:
        self.bytes_s = 0.0
        """A second and answer: a mean in which the last ones count most; 0 when nobody gave anything."""
        self._ahead = ahead
        self._clock = clock
        self._slow_until = float("-inf")
        self._fair_at = float("-inf")

    def note(self, rate: float) -> None:
        """A giver gave so many bytes a second for a moment."""
        self.bytes_s = (self.bytes_s + rate) / 2 if self.bytes_s else rate

    def is_slow(self) -> bool:
        """Whether a taker found this node too slow some seconds ago."""
        return self._clock() < self._slow_until

    def too_slow(self, look: Look) -> bool:
        """Whether one that takes from this node is to leave it."""
        holds_back = self._ahead(look.object, look.position) > look.rate * LOOK_S + AHEAD_BYTES
        pace = max(self.bytes_s, look.pace)
        enough = look.rate >= (pace / TIMES if pace else FLOOR_BYTES_S)
        if enough:
            self._fair_at = self._clock()
        slow = holds_back and not enough
        if slow and self._clock() - self._fair_at > FAIR_S:
            self._slow_until = self._clock() + SLOW_S
        return slow
