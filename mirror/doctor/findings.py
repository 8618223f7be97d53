"""What a check says: how bad, what is the case, why it matters and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad a finding is; the worst one is the exit code of the command, unless it is `UNKNOWN`."""

    OK = 0
    """All is well here."""
    WARNING = 1
    """Pulls go through the mirror, but it could do more than it does."""
    PROBLEM = 2
    """Pulls do not go through the mirror, or the agent is of no use to others."""
    UNKNOWN = -1
    """It could not be looked at from here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence each: `what` is the case, `why` it matters, and the `remedy`. `check` names what was looked at."""

    check: str
    level: Level
    what: str
    why: str = ""
    remedy: str = ""
