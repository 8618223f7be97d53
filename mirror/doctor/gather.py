"""Looks at a node: the agent's local API, the runtime's socket, files, and the ports of other nodes.

What cannot be looked at becomes a fact like any other, and every wait has a limit.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import time
import tomllib
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from socket import SOCK_STREAM
from typing import TYPE_CHECKING, Any, Final

from mirror.atomic_files import FILE_BYTES_MAX
from mirror.doctor.containerd_config import ConfigFileError, effective, load
from mirror.doctor.facts import Facts, HostsFile, PodmanMirror, Probe, Reach, Runtime
from mirror.errors import UnavailableError
from mirror.hosts import DEFAULT_DIRECTORY, FILE_NAME
from mirror.local_client import AgentError, NoAgentError, ask_agent
from mirror.registries_conf import REGISTRIES_CONF, drop_in, review
from mirror.stores.containerd.runtime import NoCriError, open_runtime
from mirror.takeover import read_capabilities
from mirror.toml_lines import TOML_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mirror.doctor.containerd_config import Effective

    Agent = Mapping[str, Any]

CONNECT_S_MAX: Final = 2.0
MEMBERS_TRIED_MAX: Final = 16
"""Of more, this many are taken at random."""
DIRECTORIES_MAX: Final = 1000
HEAD_BYTES_MAX: Final = 4096

PROBE_S_MAX: Final = 10.0
PROBE_S_STEP: Final = 0.2
"""How long to wait for the runtime to ask its mirrors, and how often to look whether it did."""
PROBE_REGISTRY: Final = "skvaller-doctor.invalid"
"""No name below `invalid` ever exists (RFC 2606, section 2)."""
DEFAULT_SOCKET: Final = Path("/run/containerd/containerd.sock")


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look. Without a `socket`, it is the one that the agent uses, else containerd's usual one."""

    agent_url: str
    certs_dir: Path
    config: Path
    socket: Path | None = None
    registries_conf: Path = REGISTRIES_CONF


async def gather(places: Places) -> Facts:
    """All facts."""
    agent, error, foreign = await _ask_agent(places.agent_url)
    hosts = _read_hosts(places.certs_dir)
    socket = places.socket or Path((agent or {}).get("containerd_socket") or DEFAULT_SOCKET)
    runtime, probe = await _ask_runtime(socket, None if agent is None else places.agent_url, hosts)
    config, config_error = _read_config(places.config, runtime.version)
    members: list[Agent] = list((agent or {}).get("members", ()))
    members = random.Random().sample(members, min(len(members), MEMBERS_TRIED_MAX))  # noqa: S311 (any will do)
    reach = [_reach(each["name"], each["address"], each[f"{use}_port"], use) for each in members for use in _PORTS]
    seeds = [] if members else [_reach("seed", host, port, "router") for host, port in await _seeds(agent or {})]
    clocks = await asyncio.gather(*(_clock_offset_s(each["address"], each["peer_port"]) for each in members))
    return Facts(
        agent_url=places.agent_url,
        agent=agent,
        agent_error=error,
        foreign=foreign,
        runtime=runtime,
        config=config,
        config_error=config_error,
        certs_dir=places.certs_dir,
        hosts=hosts,
        probe=probe,
        podman=_read_podman(drop_in(places.registries_conf)),
        podman_review=review(places.registries_conf),
        reach=tuple(await asyncio.gather(*reach)),
        seeds=tuple(await asyncio.gather(*seeds)),
        clock_offsets_s={
            each["name"]: offset for each, offset in zip(members, clocks, strict=True) if offset is not None
        },
    )


_PORTS: Final = ("peer", "publish", "router")


async def _ask_agent(url: str) -> tuple[Agent | None, str, bool]:
    """What the agent says, or the error and whether it came from something else that listens there."""
    try:
        return await asyncio.to_thread(ask_agent, url, "node"), "", False
    except NoAgentError as error:
        return None, str(error), False
    except AgentError as error:
        return None, str(error), True


async def _ask_runtime(socket: Path, agent_url: str | None, hosts: Sequence[HostsFile] | None) -> tuple[Runtime, Probe]:
    """Who the runtime is, and whether it asks the agent when it pulls."""
    found = Runtime(socket)
    async with open_runtime(socket) as connection:
        try:
            text = await connection.version()
            found = Runtime(socket, _number(text), f"containerd {text.lstrip('v')}")
            name = f"{PROBE_REGISTRY}/probe/{secrets.token_hex(8)}:probe"
            pull = asyncio.create_task(connection.try_pull(name))
            try:
                probe = await _probe(agent_url, hosts, name, pull)
            finally:
                pull.cancel()
        except NoCriError:
            return found, Probe(None, "containerd has no CRI plugin")
        except UnavailableError as error:
            return replace(found, error=str(error)), Probe(None, "containerd does not answer")
    return replace(found, serves_pods=True), probe


async def _probe(
    agent_url: str | None, hosts: Sequence[HostsFile] | None, name: str, pull: asyncio.Task[bool]
) -> Probe:
    """Whether the agent is asked for an image that the runtime pulls now. Raises `NoCriError`.

    The runtime asks its mirrors first, so there is no need to wait until it has found out that nobody has the image.
    """
    if agent_url is None or (hosts is not None and not any(file.directory == DEFAULT_DIRECTORY for file in hosts)):
        await asyncio.wait([pull], timeout=PROBE_S_STEP)
        if pull.done():
            pull.result()
        reason = f"there is no {DEFAULT_DIRECTORY}, and real registries are not bothered for it"
        return Probe(None, "there is no agent that could be asked" if agent_url is None else reason)
    deadline = time.monotonic() + PROBE_S_MAX
    while True:
        over = pull.done() or time.monotonic() > deadline
        try:
            if (await asyncio.to_thread(ask_agent, agent_url, "last", image=name))["last"] is not None:
                return Probe(asked=True)
        except AgentError as error:
            return Probe(None, str(error))
        if over:
            if pull.done():
                pull.result()
            return Probe(asked=False)
        await asyncio.wait([pull], timeout=PROBE_S_STEP)


def _number(text: str) -> tuple[int, ...]:
    match = re.match(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})", text)
    return tuple(map(int, match.groups())) if match else ()


def _read_config(file: Path, version: tuple[int, ...]) -> tuple[Effective | None, str]:
    if not version:
        return None, "which of its tables count depends on containerd's version, and that is not known"
    try:
        return effective(load(file, version), version), ""
    except ConfigFileError as error:
        return None, str(error)
    except (ValueError, TypeError, AttributeError) as error:
        return None, f"{file} is not what containerd would understand: {error}"


def _read_hosts(certs_dir: Path) -> tuple[HostsFile, ...] | None:
    """The hosts.toml file of each directory; None when there are no directories to look into."""
    try:
        names = sorted(each.name for each in certs_dir.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError:
        return None
    return tuple(_read_hosts_file(name, certs_dir / name / FILE_NAME) for name in names[:DIRECTORIES_MAX])


def _read_hosts_file(directory: str, path: Path) -> HostsFile:
    try:
        with path.open("rb") as file:
            document = tomllib.loads(file.read(FILE_BYTES_MAX).decode())
        hosts = document.get("host", {})
        listed = tuple((url, tuple(read_capabilities(table))) for url, table in hosts.items())
    except OSError as error:
        return HostsFile(directory, path, error=error.strerror or str(error))
    except (*TOML_ERRORS, TypeError, AttributeError) as error:
        return HostsFile(directory, path, error=str(error))
    return HostsFile(directory, path, listed)


def _read_podman(path: Path) -> tuple[PodmanMirror, ...]:
    """The mirrors on this machine in our drop-in for registries.conf; none when there is no such file."""
    try:
        with path.open("rb") as file:
            tables = tomllib.loads(file.read(FILE_BYTES_MAX).decode()).get("registry", [])
        mirrors = [(table, str(mirror["location"])) for table in tables for mirror in table.get("mirror", ())]
        return tuple(
            PodmanMirror(str(table["prefix"]), str(table["location"]), location)
            for table, location in mirrors
            if location.startswith(("127.0.0.1:", "localhost:", "[::1]:"))
        )
    except (OSError, *TOML_ERRORS, TypeError, AttributeError, KeyError):
        return ()


async def _seeds(agent: Agent) -> list[tuple[str, int]]:
    """Where the agent's seeds lead that are a host and a port, itself excluded; names that lead nowhere stay."""
    me = agent.get("me", {})
    places: dict[tuple[str, int], None] = {}
    for seed in agent.get("seeds", ()):
        host, _, port = str(seed).rpartition(":")
        if "/" in seed or not host or not port.isdecimal():
            continue  # a page, or a Lease
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=SOCK_STREAM)
        except OSError:  # includes the time-out
            places[host, int(port)] = None
        else:
            places.update(((str(each[4][0]), int(port)), None) for each in found)
    places.pop((me.get("address", ""), me.get("router_port", 0)), None)
    return list(places)[:MEMBERS_TRIED_MAX]


async def _reach(name: str, address: str, port: int, use: str) -> Reach:
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        return Reach(name, address, port, use, f"no answer within {CONNECT_S_MAX:g} s")
    except OSError as error:
        return Reach(name, address, port, use, error.strerror or str(error))
    writer.close()
    return Reach(name, address, port, use)


async def _clock_offset_s(address: str, port: int) -> float | None:
    """By how much the clock of an HTTP server is ahead, to the second; None when it does not say."""
    with suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(CONNECT_S_MAX):
            reader, writer = await asyncio.open_connection(address, port, limit=HEAD_BYTES_MAX)
            try:
                writer.write(f"HEAD /v2/ HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            finally:
                writer.close()
        if date := re.search(r"^date: (.*?)\r?$", head, re.IGNORECASE | re.MULTILINE):
            return parsedate_to_datetime(date[1]).timestamp() - time.time()
    return None
