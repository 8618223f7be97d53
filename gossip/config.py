"""The settings of a node, checked when they are made."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gossip.errors import ConfigError
from gossip.fields import ATTRIBUTE_CHARACTERS_MAX, ATTRIBUTES_MAX, NAME_CHARACTERS_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gossip.secret import ClusterSecret

SEEDS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Config:
    """One node's settings. A wrong one raises `ConfigError`, which tells its name, its value and what is allowed.

    What ends in `_s` is in seconds, and should be the same at all nodes: the slowest and the hastiest of them set what
    the cluster does.
    """

    name: str
    """Of this node; unique in the cluster, and the same after a restart (the Kubernetes node name)."""

    cluster: str = "skvaller"
    """Messages of other clusters are dropped. It keeps apart what met by mistake; against force there is the secret."""

    bind_address: str = "127.0.0.1"
    """The IP address on which this node listens. Without a secret it must be a loopback address."""

    advertise_address: str = "127.0.0.1"
    """The IP address or host name under which others reach this node."""

    publish_port: int = 29992
    router_port: int = 29993
    """TCP ports of the two sockets: what is published, and requests. They are advertised as they are bound."""

    zone: str = ""
    """Where this node is: holders of the same zone are named first. Opaque to gossip otherwise."""

    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """More to tell others about this node; opaque to gossip, at most 16 of 256 characters. They go with each heartbeat,
    to every neighbour."""

    seeds: tuple[str, ...] = ()
    """At most 64 nodes to join, as `host:router_port`. A host name is looked up again at each attempt, and may mean
    several nodes; this node itself may be among them. Three that are not likely to fail
    together are enough. What else seeds may come from is the caller's (`Node`'s `more_seeds`)."""

    secret: ClusterSecret | None = None
    """What all nodes of the cluster share (`gossip.secret`). None: no encryption and no authentication, on loopback
    only. It costs about 0.5 ms of computing at either end of a new connection."""

    epoch_file: Path | None = None
    """Where the epoch's counter is kept. Without it, or when it is lost, a restarted node learns its former epoch from
    the others, which costs a moment and sending its content again."""

    heartbeat_s: float = 1.0
    """Between two heartbeats. Lower finds silent members sooner only together with `silence_s`; the traffic grows in
    proportion (about 300 bytes to each neighbour)."""

    silence_s: float = 3.5
    """A neighbour silent for so long is ranked last, and probed. At least two heartbeats, or one lost message is
    enough. Lower finds dead members sooner and suspects stalled ones more often."""

    probe_timeout_s: float = 0.5
    """How long the answer to a ping is waited for; then others are asked to ping, and given as long. More than a round
    trip, and than the usual stall of a node's event loop. Higher suspects the slow less often, and finds dead members
    later by twice as much."""

    suspicion_min_s: float = 5.0
    suspicion_max_s: float = 16.0
    """How long a suspected member may take to deny it: from the one, when many suspect it, to the other, when one does.
    `silence_s` + 2 `probe_timeout_s` + `suspicion_min_s` is how long a member may stall without being called DOWN, and
    how soon it is when it lost power; raise the minimum where nodes stall for long."""

    coalesce_s: float = 0.1
    """Changes within this time of the last publication wait and go together. Higher saves messages in a burst and costs
    that much freshness; a change after a quiet time goes out at once."""

    sync_s: float = 2.0
    """Between two comparisons with a random member, which repair what was lost on the way. Higher saves about 200 bytes
    each time and repairs later."""

    forget_s: float = 172_800.0
    """The record of a member that is gone is kept for so long (its content for ten minutes). At least ten times
    `suspicion_max_s`, and more than twice as long as any partition or pause may last: a node cut off for half of it
    forgets the others. Higher keeps more dead weight, about 500 bytes a member."""

    def __post_init__(self) -> None:
        self._check_text("name", self.name)
        self._check_text("cluster", self.cluster)
        self._check_text("advertise_address", self.advertise_address)
        for name, port in (("publish_port", self.publish_port), ("router_port", self.router_port)):
            if not 1 <= port <= 65535:
                raise ConfigError(name, port, "a port from 1 to 65535")
        if self.publish_port == self.router_port:
            raise ConfigError("router_port", self.router_port, "another port than publish_port")
        if len(self.zone) > NAME_CHARACTERS_MAX or not self.zone.isprintable():
            raise ConfigError("zone", repr(self.zone), f"at most {NAME_CHARACTERS_MAX} printable characters")
        self._check_bind_address()
        self._check_attributes()
        if len(self.seeds) > SEEDS_MAX:
            raise ConfigError("seeds", f"{len(self.seeds)} seeds", f"at most {SEEDS_MAX}")
        for seed in self.seeds:
            parse_seed(seed)
        self._check_times()

    def _check_text(self, name: str, value: str) -> None:
        if not 1 <= len(value) <= NAME_CHARACTERS_MAX or not value.isprintable():
            raise ConfigError(name, repr(value), f"1 to {NAME_CHARACTERS_MAX} printable characters")

    def _check_bind_address(self) -> None:
        try:
            address = ipaddress.ip_address(self.bind_address)
        except ValueError as error:
            raise ConfigError("bind_address", repr(self.bind_address), "an IP address") from error
        if self.secret is None and not address.is_loopback:
            allowed = "a loopback address when there is no cluster secret"
            raise ConfigError("bind_address", repr(self.bind_address), allowed)

    def _check_attributes(self) -> None:
        most = ATTRIBUTE_CHARACTERS_MAX
        if len(self.attributes) > ATTRIBUTES_MAX:
            raise ConfigError("attributes", f"{len(self.attributes)} entries", f"at most {ATTRIBUTES_MAX}")
        for key, value in self.attributes.items():
            if not all(len(text) <= most and text.isprintable() for text in (key, value)):
                raise ConfigError("attributes", f"{key!r}: {value!r}", f"printable, at most {most} characters each")

    def _check_times(self) -> None:
        for name in ("heartbeat_s", "probe_timeout_s", "suspicion_min_s", "coalesce_s", "sync_s"):
            value = getattr(self, name)
            if not 0.01 <= value <= 60:
                raise ConfigError(name, value, "from 0.01 to 60 seconds")
        if not 2 * self.heartbeat_s <= self.silence_s <= 600:
            raise ConfigError("silence_s", self.silence_s, "twice heartbeat_s to 600 seconds")
        if not self.suspicion_min_s <= self.suspicion_max_s <= 600:
            raise ConfigError("suspicion_max_s", self.suspicion_max_s, "suspicion_min_s to 600 seconds")
        if not 10 * self.suspicion_max_s <= self.forget_s <= 1e7:
            raise ConfigError("forget_s", self.forget_s, "ten times suspicion_max_s to 10,000,000 seconds")


def parse_seed(seed: str) -> tuple[str, int]:
    """Read `host:port` or `[ipv6]:port`."""
    host, separator, port = seed.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    sound = separator and host and len(host) <= NAME_CHARACTERS_MAX and port.isascii() and port.isdecimal()
    if not sound or not 1 <= int(port) <= 65535:
        raise ConfigError("seeds", repr(seed), "host:router_port")
    return host, int(port)
