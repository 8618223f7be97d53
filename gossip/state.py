"""What the parts of one replica share: its settings, what it knows, and its dice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from gossip.comparison import StateHash
    from gossip.config import Config
    from gossip.counters import Counters
    from gossip.lookup import Lookup
    from gossip.membership import Membership
    from gossip.or_set import ORSet


@dataclass(frozen=True, slots=True)
class State:
    """One replica's state, which `hash` hashes and `lookup` answers from."""

    config: Config
    membership: Membership
    set: ORSet
    lookup: Lookup
    hash: StateHash
    counters: Counters
    rng: random.Random
