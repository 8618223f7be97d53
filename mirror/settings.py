"""What an operator can set: each setting once, with its meaning, its default and what it allows.

A value comes from, in this order: a flag (`--peer-port 29991`), the environment (`SKVALLER_PEER_PORT=29991`), the
file named by `--config` (TOML, `peer_port = 29991`), the default. A wrong one is refused with its name, the value and
what is allowed; nothing starts with half its settings.
"""

from __future__ import annotations

import re
import socket
import tomllib
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mirror.load import SLOTS
from mirror.options import (
    Choice,
    option,
    read_address,
    read_count,
    read_flag,
    read_loopback,
    read_optional_text,
    read_path,
    read_port,
    read_seconds,
    read_size,
    read_text,
    words,
)
from mirror.peer_tls import TlsFiles
from mirror.registry_ports import RegistryPort, read_registry_ports
from mirror.registry_table import RegistrySettings, TableError, read_tables, read_words
from mirror.toml_lines import TOML_ERRORS, line_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVIRONMENT_PREFIX: Final = "SKVALLER_"
STORES: Final = ("oci-layout", "containerd")
VERIFY: Final = ("runtime", "always")
LEASE_SEED: Final = "lease:"
PAGE_SEEDS: Final = ("http://", "https://")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("human", "json")


class SettingsError(Exception):
    """A setting that cannot be used; says which, its value, where it came from and what is allowed."""


def read_addresses(text: str) -> tuple[str, ...]:
    """A list of `host:port`, separated by commas or white space. Raises ValueError saying what is allowed."""
    for address in words(text):
        host, colon, port = address.rpartition(":")
        if not colon or not host or len(host) > 253 or (":" in host and not host.startswith("[")):
            raise ValueError("host:port of other agents' gossip router ports, such as 10.0.0.7:29993 or [::1]:29993")
        read_port(port)
    return words(text)


def _seeds(text: str) -> tuple[str, ...]:
    for seed in words(text):
        if seed.startswith(LEASE_SEED):
            if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", seed.removeprefix(LEASE_SEED)):
                raise ValueError("lease:NAME with the name of a Lease in this pod's namespace")
        elif not seed.startswith(PAGE_SEEDS):
            read_addresses(seed)
    return words(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of an agent. `load` makes one from flags, environment and file."""

    name: str = option(read_text, "This node's name; unique in the cluster.", factory=socket.gethostname)
    cluster: str = option(read_text, "The cluster's name; agents of another one are refused.", default="skvaller")
    zone: str = option(read_optional_text, "Where this node is; peers in the same zone are asked first.", default="")

    client_address: str = option(
        read_loopback, "Where this machine's runtime asks: a loopback address.", default="127.0.0.1"
    )
    client_port: int = option(read_port, "The port of the client face.", default=29990)
    registry_ports: tuple[RegistryPort, ...] = option(
        read_registry_ports,
        "More ports on client_address that stand for one registry each, for podman and its kin: NAME=PORT, such as "
        "docker.io=29996, several with commas.",
        default=(),
    )
    address: str = option(
        read_address,
        "Where peers and gossip are listened for. Anything but loopback needs a secret_file.",
        default="127.0.0.1",
    )
    advertise_address: str = option(
        read_address, "The address that other nodes reach this one by. Default: the value of address.", default=""
    )
    peer_port: int = option(read_port, "The port of the peer face.", default=29991)
    publish_port: int = option(read_port, "The port on which gossip is published.", default=29992)
    router_port: int = option(read_port, "The port on which gossip is asked for.", default=29993)
    metrics_port: int = option(read_port, "The port of /metrics, on address.", default=29994)
    page_token_file: Path | None = option(
        read_path,
        "File with a token, such as `openssl rand -hex 32` makes. With it the live page is also on page_port of "
        "address, for whoever has the token; without it on this machine alone.",
        default=None,
    )
    page_port: int = option(read_port, "The port of the live page for other machines.", default=29995)

    upload_slots: int = option(
        read_count,
        "How many blobs are given to peers at the same time; others are told to ask elsewhere, unless they have waited "
        "for long. More slots make each upload slower.",
        default=SLOTS,
    )
    upload_rate: int = option(
        read_size,
        "How many bytes a second are given to peers, all of them together; 0 is no limit. A peer leaves a source that "
        "gives it less than others could, so few slots should go with a low rate.",
        default=0,
    )

    seeds: tuple[str, ...] = option(
        _seeds,
        "Through whom to join, several with commas: host:port of agents (router ports), where a host name is looked up "
        "at each attempt and may mean several; the URL of a page that lists such; lease:NAME for the holder of a Lease "
        "in this pod's namespace.",
        default=(),
    )
    secret_file: Path | None = option(
        read_path, "File with the cluster secret: at least 32 random bytes, the same on every node.", default=None
    )
    peer_certificate: Path | None = option(
        read_path,
        "This node's certificate in PEM, with which peers speak TLS to each other. With it go peer_key and "
        "peer_authority. Changed files are used from the next connection on. Bytes then pass through this process, "
        "which takes several times the CPU.",
        default=None,
    )
    peer_key: Path | None = option(read_path, "The key of peer_certificate, in PEM.", default=None)
    peer_authority: Path | None = option(
        read_path,
        "The certificates of the authority that signs those of all members, and of nobody else, in PEM.",
        default=None,
    )
    epoch_file: Path | None = option(
        read_path,
        "Small file in which the number of starts is kept; without it a restart relies on what peers remember.",
        default=None,
    )

    store: str = option(
        Choice(STORES),
        "Where this node's images are: a directory that keeps what passes through, or the node's containerd.",
        default="oci-layout",
    )
    layout_dir: Path = option(
        read_path, "The directory of the oci-layout store.", default=Path("/var/lib/skvaller/layout")
    )
    layout_bytes_max: int = option(
        read_size,
        "Size limit of the oci-layout store; the least recently used goes first. 0 keeps nothing.",
        default=10 * 10**9,
    )
    containerd_socket: Path = option(
        read_path, "The socket of containerd.", default=Path("/run/containerd/containerd.sock")
    )
    containerd_namespaces: tuple[str, ...] = option(
        words, "The namespaces of containerd whose images are known by tag, several with commas.", default=("k8s.io",)
    )
    containerd_content_dir: Path | None = option(
        read_path, "Where containerd's content directory is mounted. Default: containerd is asked.", default=None
    )
    containerd_pin_bytes_max: int = option(
        read_size,
        "How much of what arrives is kept, by a lease, although containerd would throw it away, as it does with "
        "discard_unpacked_layers; the oldest goes first. It costs that much disk, also for images that were removed. "
        "0 keeps nothing, and releases what was kept. After an uninstall, `ctr -n k8s.io leases rm skvaller` releases "
        "everything.",
        default=0,
    )

    mirroring: bool = option(
        read_flag, "Whether anything is mirrored. false makes the agent answer 404 to every pull at once.", default=True
    )
    registries: Mapping[str, RegistrySettings] = option(
        read_words,
        "Registries that are reached otherwise than at https://<name>, and their rules: NAME=URL or NAME=URL,KEY=VALUE "
        '(ca_file, authorize, ...), several with spaces. In the file: tables [registries."NAME"]; '
        "`skvaller schema` says what can stand there.",
        factory=dict,
    )
    registries_dir: Path = option(
        read_path,
        "containerd's config_path. The hosts that its hosts.toml files name beside the mirror (caches, certificates) "
        "are asked by the agent as well, for registries that `registries` says no place of.",
        default=Path("/etc/containerd/certs.d"),
    )

    spool_dir: Path = option(
        read_path,
        "Where objects in flight lie, in files without a name. Not a tmpfs: that is memory.",
        default=Path("/tmp"),  # noqa: S108 - files there are made without a name
    )
    spool_bytes_max: int = option(
        read_size,
        "How much may be in flight in spool_dir; beyond that, objects are relayed without sharing them.",
        default=4 * 10**9,
    )
    verify: str = option(
        Choice(VERIFY),
        "runtime: objects above 8 MB are verified by the runtime, and only the doubtful ones here as well. "
        "always: all are hashed here, and nobody gets the end of one that is wrong; that costs 0.6 CPU-seconds per GB, "
        "and what cannot be hashed now is refused: where spool_bytes_max is reached, or to who begins far beyond what "
        "has come. containerd then goes to the registry, and a pull of podman's fails.",
        default="runtime",
    )

    grace_s: float = option(
        read_seconds, "How long running transfers may take to end after SIGTERM, in seconds.", default=20.0
    )
    log_format: str = option(
        Choice(LOG_FORMATS), "How the log is written: human, or json with one object a line.", default="human"
    )
    log_level: str = option(Choice(LOG_LEVELS), "How much is logged: debug, info, warning or error.", default="info")

    def __post_init__(self) -> None:
        ports = [self.client_port, self.peer_port, self.publish_port, self.router_port, self.metrics_port]
        if self.page_token_file is not None:
            ports.append(self.page_port)
        ports += [each.port for each in self.registry_ports]
        if len(set(ports)) != len(ports):
            raise SettingsError(f"the ports must differ from each other, but are {ports}")
        if self.secret_file is None and not ip_address(self.address).is_loopback:
            raise SettingsError(
                f"address: {self.address!r} is not allowed without a secret_file: "
                "make one with `openssl rand -base64 32 > FILE` and give it to every node"
            )
        tls = [self.peer_certificate, self.peer_key, self.peer_authority]
        if any(tls) and not all(tls):
            raise SettingsError("peer_certificate, peer_key and peer_authority go together: set all three, or none")
        if not self.advertise_address:
            object.__setattr__(self, "advertise_address", self.address)
        if ip_address(self.advertise_address).is_unspecified:
            raise SettingsError(
                f"advertise_address: {self.advertise_address!r} reaches no node; give the address of this one"
            )

    @property
    def peer_tls(self) -> TlsFiles | None:
        """What peers speak TLS with, if they do."""
        if self.peer_certificate is None or self.peer_key is None or self.peer_authority is None:
            return None
        return TlsFiles(self.peer_certificate, self.peer_key, self.peer_authority)

    @property
    def own_seed(self) -> str:
        """What others would set as a seed to join through this agent."""
        host = f"[{self.advertise_address}]" if ":" in self.advertise_address else self.advertise_address
        return f"{host}:{self.router_port}"


def load(flags: Mapping[str, str], environment: Mapping[str, str], file: Path | None) -> Settings:
    """Make the settings; `flags` has the texts of those given, by name. Raises `SettingsError`."""
    texts: dict[str, tuple[str, str]] = {}
    values: dict[str, Any] = {}
    if file is not None:
        values, texts = _read_file(file)
    for setting in fields(Settings):
        variable = ENVIRONMENT_PREFIX + setting.name.upper()
        if variable in environment:
            texts[setting.name] = environment[variable], f"environment variable {variable}"
        if setting.name in flags:
            texts[setting.name] = flags[setting.name], f"flag --{setting.name.replace('_', '-')}"
    for setting in fields(Settings):
        if setting.name in texts:
            text, where = texts[setting.name]
            try:
                values[setting.name] = setting.metadata["parse"](text)
            except ValueError as error:
                raise SettingsError(f"{where}: {text!r} is not allowed; it takes {error}") from error
    return Settings(**values)


def _read_file(file: Path) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
    """The registries (already read) and the texts of all other settings in a TOML file, each with its place."""
    try:
        text = file.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, *TOML_ERRORS) as error:
        raise SettingsError(f"{file}: {error}") from error
    values: dict[str, Any] = {}
    texts = {}
    known = {setting.name for setting in fields(Settings)}
    for name, value in document.items():
        where = _place(file, text, (name,))
        if name not in known:
            raise SettingsError(f"{where} is no setting; there are {', '.join(sorted(known))}")
        if name == "registries":
            try:
                values[name] = read_tables(value)
            except TableError as error:
                raise SettingsError(f"{_place(file, text, (name, *error.keys))} takes {error}") from error
        elif isinstance(value, list):
            texts[name] = ",".join(str(part) for part in value), where
        else:
            texts[name] = str(value), where
    return values, texts


def _place(file: Path, text: str, keys: tuple[str, ...]) -> str:
    """The place of a key in a file, in words."""
    line = line_of(text, keys)
    dotted = ".".join(key if key.isidentifier() else f'"{key}"' for key in keys)
    return f"{file}, line {line}: {dotted}" if line else f"{file}: {dotted}"
