"""What led the runtime to its registries before the mirror, taken over: the hosts.toml files of containerd.

`skvaller configure` puts the mirror before the hosts that an operator had set (a cache, certificates, plain HTTP). They
stay in the file, for when the mirror does not answer. When it does, it asks them in its turn, as containerd would have.

A host at the same place as the registry is the registry itself, spoken to as the file says. The others are mirrors, and
get no credentials (`mirror.upstream`). The mirror's own block is passed over, and so is whatever leads back to it. What
cannot be used is told, and left out: the registry is then where its name says.

Source: containerd docs/hosts.md; core/remotes/docker/config/hosts.go.
"""

from __future__ import annotations

import logging
import re
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mirror.hosts_toml import HostsTextError, without_block
from mirror.registries import FOR_ALL, Endpoint, Taken, usual_endpoint
from mirror.toml_lines import TOML_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_NAME: Final = "hosts.toml"
FILE_BYTES_MAX: Final = 1024 * 1024
DIRECTORIES_MAX: Final = 1000

_WITH_PORT = re.compile(r"(.+)_(\d{1,5})_")
_PORTS: Final = {"http": 80, "https": 443}

log = logging.getLogger(__name__)


def host_files(directory: Path) -> list[Path]:
    """The hosts.toml files below containerd's `config_path`; none when there is no such directory. Blocks."""
    try:
        return sorted(file for file in directory.glob(f"*/{FILE_NAME}") if not file.parent.name.startswith("."))
    except OSError as error:
        log.warning("%s cannot be read: %s", directory, error)
        return []


def take_over(directory: Path, own_port: int) -> Mapping[str, Taken]:
    """What the files below `directory` say, by registry. `own_port` is the client face's. Blocks."""
    taken = {}
    for file in host_files(directory)[:DIRECTORIES_MAX]:
        name = _WITH_PORT.sub(r"\1:\2", file.parent.name)
        try:
            with file.open("rb") as opened:
                text = opened.read(FILE_BYTES_MAX).decode()
            taken[name] = read_hosts(name, text, file.parent, own_port)
        except (OSError, *TOML_ERRORS) as error:
            log.warning("%s is not taken over: %s", file, error)
    return taken


def read_hosts(name: str, text: str, directory: Path, own_port: int) -> Taken:
    """What one file says; `name` is its registry's. Raises one of `TOML_ERRORS`."""
    document = tomllib.loads(without_block(text)[0])
    server = document.get("server")
    itself = _endpoint(str(server), document, directory) if server else None
    if itself is not None and _place(itself) == ("docker.io", 443):  # as containerd has it
        itself = usual_endpoint("docker.io")
    place = None if name == FOR_ALL else _place(itself or usual_endpoint(name))
    hosts = document.get("host", {})
    if not isinstance(hosts, dict):
        raise HostsTextError("its `host` is not a table")
    mirrors = []
    for url, table in hosts.items():
        if not isinstance(table, dict) or "pull" not in read_capabilities(table):
            continue
        endpoint = _endpoint(url, table, directory)
        if _place(endpoint) == place or _host(endpoint) == name:
            itself = endpoint
        elif not _leads_back(endpoint, own_port):
            mirrors.append(endpoint)
    if name == FOR_ALL and itself is not None:  # one place cannot be every registry, but it can mirror them
        return Taken((*mirrors, itself))
    return Taken(tuple(mirrors), itself)


def read_capabilities(table: Mapping[str, Any]) -> list[str]:
    """What a host (its table) may be asked for; where nothing is said, everything. Raises `HostsTextError`."""
    words = table.get("capabilities", [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise HostsTextError("capabilities are not a list of words")
    return [word.lower() for word in words] or ["pull", "resolve"]


def _endpoint(url: str, table: Mapping[str, Any], directory: Path) -> Endpoint:
    if "://" not in url:
        url = f"https://{url}"
    headers = [
        (name, str(value))
        for name, values in _table(table.get("header")).items()
        for value in (values if isinstance(values, list) else [values])
    ]
    return Endpoint(
        Endpoint.read_url(url),
        override_path=table.get("override_path") is True,
        ca_files=tuple(file for file in (_file(each, directory) for each in _list(table.get("ca"))) if file),
        client_certificates=_certificates(table.get("client"), directory),
        skip_verify=table.get("skip_verify") is True,
        headers=tuple(headers),
        resolves="resolve" in read_capabilities(table),
    )


def _certificates(value: object, directory: Path) -> tuple[tuple[Path, Path | None], ...]:
    """`client` is a file, a list of files, or a list of pairs of files."""
    pairs = []
    for each in _list(value):
        certificate, *key = [_file(part, directory) for part in _list(each)] or [None]
        if certificate is not None:
            pairs.append((certificate, key[0] if key else None))
    return tuple(pairs)


def _file(value: object, directory: Path) -> Path | None:
    path = directory / str(value)
    if path.is_file():
        return path
    log.warning("%s, which a %s names, is not there for the agent", path, FILE_NAME)
    return None


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _place(endpoint: Endpoint) -> tuple[str, int]:
    parts = urlsplit(endpoint.url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _host(endpoint: Endpoint) -> str:
    """The endpoint's host with its port, as a registry's name has it."""
    return urlsplit(endpoint.url).netloc.lower()


def _leads_back(endpoint: Endpoint, own_port: int) -> bool:
    host, port = _place(endpoint)
    try:
        return port == own_port and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False
