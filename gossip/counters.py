"""What a node counts. All numbers only grow; gauges are asked of the node when they are wanted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Counts since the node was made.

    `dropped` is by reason: malformed, oversized, cluster, version (not a message for this node); own_name (another
    node has this node's name), stale_epoch, unknown_owner (late or early), part (of an answer that is not expected);
    unsent (the way to a member was full); question (the application could not read it), answer (to no question that is
    open).
    """

    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    """Deltas that were known already: every neighbour passes on everything."""
    gaps: int = 0
    """Published messages and deltas that show that something before them was lost."""
    pulls: int = 0
    syncs: int = 0
    """Comparisons that found a difference."""
    rebases: int = 0
    audit_mismatches: int = 0
    """Cells that contradicted their owner, were dropped, and pulled again. More than zero means a defect."""
    conflicts: int = 0
    """Times that another node of this node's name was found, or was most likely there."""
    suspicions: int = 0
    """Members that this node suspected by itself."""
    downs: int = 0
    """Members that went DOWN, as far as this node knows."""
    refutations: int = 0
    """Times that this node was suspected, or called DOWN, and denied it."""
    refused_keys: int = 0
    """Keys of this node's own that exceed a limit, and are not advertised."""
    refused_connections: int = 0
    """Connections without a key of the cluster's, and those that ended before that was seen."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """How things stand: members by visibility (this node excluded), distinct keys, (key, member) pairs, and about how
    many bytes of memory these take.

    `owners_behind` counts the members of whose set a later version is known to exist than is held here, and
    `lag_seconds` says for how long the oldest of these has been missing.
    """

    members_normal: int
    members_last: int
    members_hidden: int
    keys: int
    pairs: int
    index_bytes: int
    owners_behind: int
    lag_seconds: float
