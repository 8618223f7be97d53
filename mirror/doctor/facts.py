"""What the doctor looks at, as it was found. What could not be looked at is None, or an error in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.doctor.containerd_config import Effective
    from mirror.registries_conf import Review


@dataclass(frozen=True, slots=True)
class Runtime:
    """Who answers at the runtime's socket: its version (empty: unknown), and whether it has a CRI plugin for pods."""

    socket: Path
    version: tuple[int, ...] = ()
    text: str = ""
    serves_pods: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class HostsFile:
    """A hosts.toml: the URLs of its hosts in their order, each with its capabilities; or why it cannot be read."""

    directory: str
    path: Path
    hosts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class PodmanMirror:
    """A mirror in our drop-in for podman: at `location`, for images with `prefix`, which are at `place` without it."""

    prefix: str
    place: str
    location: str


@dataclass(frozen=True, slots=True)
class Probe:
    """The pull of an image that cannot exist: whether the agent was asked for it; None: it could not be tried."""

    asked: bool | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Reach:
    """A port of another node that was connected to; `error` is "" when that worked."""

    name: str
    address: str
    port: int
    use: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it.

    `agent` is what its local API says of itself (`mirror.local_api.answer_node`); `foreign` is True when something else
    answers there. `hosts` is None when the directory of hosts.toml files is not there. `clock_offsets_s` has, by name,
    by how much other nodes' clocks are ahead of this one's. `podman` is empty where podman is not led here, and
    `podman_review` None where it was not led anywhere by us.
    """

    agent_url: str
    agent: Mapping[str, Any] | None
    agent_error: str
    foreign: bool
    runtime: Runtime
    config: Effective | None
    config_error: str
    certs_dir: Path
    hosts: tuple[HostsFile, ...] | None
    probe: Probe
    podman: tuple[PodmanMirror, ...] = ()
    podman_review: Review | None = None
    reach: tuple[Reach, ...] = ()
    seeds: tuple[Reach, ...] = ()
    clock_offsets_s: Mapping[str, float] = field(default_factory=dict)
