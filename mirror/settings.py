"""What an operator can set: each setting once, with its meaning, its default and what it allows.

A value comes from, in this order: a flag (`--peer-port 29991`), the environment (`SKVALLER_PEER_PORT=29991`), the
file named by `--config` (TOML, `peer_port = 29991`), the default. A wrong one is refused with its name, the value and
what is allowed; nothing starts with half its settings.
"""

from __future__ import annotations

import re
import socket
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mirror.registries import Endpoint, read_registry_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENVIRONMENT_PREFIX: Final = "SKVALLER_"
STORES: Final = ("oci-layout", "containerd")
VERIFY: Final = ("runtime", "always")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class SettingsError(Exception):
    """A setting that cannot be used; says which, its value, where it came from and what is allowed."""


def option(parse: Callable[[str], Any], help_text: str, *, default: Any = MISSING, factory: Any = MISSING) -> Any:
    """A field of `Settings` that reads its text with `parse` (which raises ValueError saying what is allowed)."""
    metadata = {"parse": parse, "help": help_text}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def words(text: str) -> tuple[str, ...]:
    """A list: separated by commas or white space."""
    return tuple(part for part in re.split(r"[,\s]+", text) if part)


def _text(text: str) -> str:
    if not text or len(text) > 253 or not text.isprintable():
        raise ValueError("1 to 253 printable characters")
    return text


def _optional_text(text: str) -> str:
    return _text(text) if text else ""


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 65536:
        raise ValueError("a port, 1 to 65535")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("an IPv4 or IPv6 address, such as 10.0.0.7 or ::1") from None


def _loopback(text: str) -> str:
    address = _address(text)
    if not ip_address(address).is_loopback:
        raise ValueError("a loopback address (127.0.0.1 or ::1): pulls come from this machine alone")
    return address


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise ValueError("seconds, 0 to 3600")
    return value


_UNITS: Final = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15})\s*(|[KMGT]i?)B?", text)
    if match is None:
        raise ValueError("a number of bytes, such as 500000000, 10G or 10Gi")
    return int(match[1]) * _UNITS[match[2]]


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 100_000:
        raise ValueError("a number, 1 to 99999")
    return int(text)


def _path(text: str) -> Path:
    path = Path(text)
    if not text or not path.is_absolute():
        raise ValueError("an absolute path")
    return path


def _choice(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return parse


def _seeds(text: str) -> tuple[str, ...]:
    for seed in words(text):
        host, colon, port = seed.rpartition(":")
        if not colon or not host or (":" in host and not host.startswith("[")):
            raise ValueError("host:port of other agents' gossip router ports, such as 10.0.0.7:29993 or [::1]:29993")
        _port(port)
    return words(text)


def _registries(text: str) -> Mapping[str, Endpoint]:
    endpoints = {}
    for word in text.split():
        name, equals, rest = word.partition("=")
        url, _, ca_file = rest.partition(",ca_file=")
        if not equals:
            raise ValueError("NAME=URL or NAME=URL,ca_file=PATH, such as docker.io=https://cache.example.com")
        endpoints[read_registry_name(name)] = Endpoint.parse(url, ca_file)
    return endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of an agent. `load` makes one from flags, environment and file."""

    name: str = option(_text, "This node's name; unique in the cluster.", factory=socket.gethostname)
    cluster: str = option(_text, "The cluster's name; agents of another one are refused.", default="skvaller")
    zone: str = option(_optional_text, "Where this node is; peers in the same zone are asked first.", default="")

    client_address: str = option(
        _loopback, "Where this machine's runtime asks: a loopback address.", default="127.0.0.1"
    )
    client_port: int = option(_port, "The port of the client face.", default=29990)
    address: str = option(
        _address,
        "Where peers and gossip are listened for. Anything but loopback needs a secret_file.",
        default="127.0.0.1",
    )
    advertise_address: str = option(
        _address, "The address that other nodes reach this one by. Default: the value of address.", default=""
    )
    peer_port: int = option(_port, "The port of the peer face.", default=29991)
    publish_port: int = option(_port, "The port on which gossip is published.", default=29992)
    router_port: int = option(_port, "The port on which gossip is asked for.", default=29993)
    metrics_port: int = option(_port, "The port of /metrics, /livez and /readyz, on address.", default=29994)

    upload_slots: int = option(
        _count,
        "How many blobs are given to peers at the same time; others are told to ask elsewhere. More slots make each "
        "upload slower.",
        default=64,
    )

    seeds: tuple[str, ...] = option(
        _seeds, "host:port (router ports) of agents to join through, several with commas.", default=()
    )
    secret_file: Path | None = option(
        _path, "File with the cluster secret: at least 32 random bytes, the same on every node.", default=None
    )
    epoch_file: Path | None = option(
        _path,
        "Small file in which the number of starts is kept; without it a restart relies on what peers remember.",
        default=None,
    )

    store: str = option(
        _choice(STORES),
        "Where this node's images are: a directory that keeps what passes through, or the node's containerd.",
        default="oci-layout",
    )
    layout_dir: Path = option(_path, "The directory of the oci-layout store.", default=Path("/var/lib/skvaller/layout"))
    layout_bytes_max: int = option(
        _size, "Size limit of the oci-layout store; the least recently used goes first.", default=10 * 10**9
    )
    containerd_socket: Path = option(
        _path, "The socket of containerd.", default=Path("/run/containerd/containerd.sock")
    )
    containerd_namespaces: tuple[str, ...] = option(
        words, "The namespaces of containerd whose images are known by tag, several with commas.", default=("k8s.io",)
    )
    containerd_content_dir: Path | None = option(
        _path, "Where containerd's content directory is mounted. Default: containerd is asked.", default=None
    )
    containerd_pin_bytes_max: int = option(
        _size,
        "How much of what arrives is kept, by a lease, although containerd would throw it away, as it does with "
        "discard_unpacked_layers; the oldest goes first. It costs that much disk, also for images that were removed. "
        "0 keeps nothing, and releases what was kept. After an uninstall, `ctr -n k8s.io leases rm skvaller` releases "
        "everything.",
        default=0,
    )

    registries: Mapping[str, Endpoint] = option(
        _registries,
        "Registries that are reached otherwise than at https://<name>: NAME=URL or NAME=URL,ca_file=PATH, "
        'several with spaces. In the file: tables [registries."NAME"] with url and ca_file.',
        factory=dict,
    )

    spool_dir: Path = option(
        _path,
        "Where objects in flight lie, in files without a name. Not a tmpfs: that is memory.",
        default=Path("/tmp"),  # noqa: S108 - files there are made without a name
    )
    spool_bytes_max: int = option(
        _size,
        "How much may be in flight in spool_dir; beyond that, objects are relayed without sharing them.",
        default=4 * 10**9,
    )
    verify: str = option(
        _choice(VERIFY),
        "runtime: objects above 8 MB are verified by the runtime, and only the doubtful ones here as well. "
        "always: all are hashed here, and nobody gets the end of one that is wrong; that costs 0.6 CPU-seconds per GB.",
        default="runtime",
    )

    grace_s: float = option(
        _seconds, "How long running transfers may take to end after SIGTERM, in seconds.", default=20.0
    )
    log_level: str = option(_choice(LOG_LEVELS), "How much is logged: debug, info, warning or error.", default="info")

    def __post_init__(self) -> None:
        ports = [self.client_port, self.peer_port, self.publish_port, self.router_port, self.metrics_port]
        if len(set(ports)) != len(ports):
            raise SettingsError(f"the five ports must differ from each other, but are {ports}")
        if self.secret_file is None and not ip_address(self.address).is_loopback:
            raise SettingsError(
                f"address: {self.address!r} is not allowed without a secret_file: "
                "make one with `openssl rand -base64 32 > FILE` and give it to every node"
            )
        if not self.advertise_address:
            object.__setattr__(self, "advertise_address", self.address)
        if ip_address(self.advertise_address).is_unspecified:
            raise SettingsError(
                f"advertise_address: {self.advertise_address!r} reaches no node; give the address of this one"
            )


def load(flags: Mapping[str, str], environment: Mapping[str, str], file: Path | None) -> Settings:
    """Make the settings; `flags` has the texts of those given, by name. Raises `SettingsError`."""
    texts: dict[str, tuple[str, str]] = {}
    values: dict[str, Any] = {}
    if file is not None:
        values, from_file = _read_file(file)
        texts.update(from_file)
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
    """The registries (already read) and the texts of all other settings in a TOML file."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error
    values: dict[str, Any] = {}
    texts = {}
    known = {setting.name for setting in fields(Settings)}
    for name, value in document.items():
        where = f"{file}: {name}"
        if name not in known:
            raise SettingsError(f"{where} is no setting; there are {', '.join(sorted(known))}")
        if name == "registries":
            values[name] = _read_registries(where, value)
        elif isinstance(value, list):
            texts[name] = ",".join(str(part) for part in value), where
        else:
            texts[name] = str(value), where
    return values, texts


def _read_registries(where: str, tables: object) -> Mapping[str, Endpoint]:
    endpoints: dict[str, Endpoint] = {}
    if not isinstance(tables, dict):
        raise SettingsError(f'{where} is a table of tables: [registries."docker.io"] url = "https://..."')
    for name, table in tables.items():
        if not isinstance(table, dict) or not table.keys() <= {"url", "ca_file"} or "url" not in table:
            raise SettingsError(f"{where}.{name} takes url and ca_file")
        try:
            endpoints[read_registry_name(name)] = Endpoint.parse(str(table["url"]), str(table.get("ca_file", "")))
        except ValueError as error:
            raise SettingsError(f"{where}.{name}: {table} is not allowed; it takes {error}") from error
    return endpoints
