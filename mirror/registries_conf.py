"""Leads podman, skopeo, Buildah and CRI-O to the mirror, with a drop-in of our own for their registries.conf.

These clients do not say which registry they mean, so they are led to a port that stands for it
(`mirror.registry_ports`), or else to a path that begins with its name (`127.0.0.1:29990/docker.io`), in which a
registry's port cannot stand. And they have no mirror for every registry, so
each has to be named. A `[[registry]]` table in a later file replaces the one of the same prefix in earlier ones as a
whole. So our file, which sorts behind the others, repeats what the operator has for the registries that are named, with
the mirror added; nothing else is touched.

Their credentials are for the registry and never for a mirror. At a port the mirror may have credentials of its own
(`podman login 127.0.0.1:29996`); what else is private comes from the registry itself.

Source: containers-registries.conf(5); containers/image, pkg/sysregistriesv2 (`updateWithConfigurationFrom`).
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mirror.atomic_files import (
    Action,
    Change,
    FileTextError,
    create,
    guarded,
    missing_directories,
    read,
    remove,
    replace,
    sweep,
)
from mirror.hosts import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mirror.registry_ports import RegistryPort

    Table = Mapping[str, Any]

REGISTRIES_CONF: Final = Path("/etc/containers/registries.conf")
DROP_IN: Final = "zz-skvaller.conf"
"""Behind the others, in the order of names, for the last one counts."""
MADE: Final = "# Made by `skvaller configure`, made-directories="

_HEAD: Final = (
    "# It is replaced as a whole when that runs again, and goes with `skvaller cleanup`.\n"
    "# What stood elsewhere for these prefixes is repeated here, since the last file counts.\n"
)


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """What to configure: the main file, the URL of the agent's client face, and the registries by name.

    `ports` are those on the same address that stand for one registry each.
    """

    file: Path
    mirror: str
    registries: Sequence[str]
    mode: Mode = Mode.PREPEND
    ports: Sequence[RegistryPort] = ()


def configure(options: RegistriesConf) -> list[Change]:
    """Write the drop-in; a result for it, and one for each table that cannot be led to the mirror."""
    ours = drop_in(options.file)
    changes = sweep(ours.parent, [ours])
    skipped: list[Change] = []
    changes.append(guarded(ours, partial(_configure, ours, options, skipped)))
    return changes + skipped


def cleanup(file: Path) -> list[Change]:
    """Remove the drop-in that goes with a main file, and the directories that were made for it."""
    ours = drop_in(file)
    changes = sweep(ours.parent, [ours])
    change = guarded(ours, partial(_cleanup, ours))
    return changes if change.action is Action.UNCHANGED else [*changes, change]


def text_with_mirror(
    documents: Iterable[Table],
    mirror: str,
    registries: Iterable[str],
    mode: Mode,
    ports: Sequence[RegistryPort] = (),
) -> tuple[str, dict[str, str]]:
    """The tables of the drop-in, and why there is none for a prefix, by prefix; `documents` come in their order.

    Raises `FileTextError` for what cannot be repeated.
    """
    known: dict[str, Table] = {}
    for document in documents:
        tables = document.get("registry", [])
        if "registries" in document or not isinstance(tables, list):
            raise FileTextError("a registries.conf is of version 1, which cannot have mirrors")
        for table in tables:
            known[str(table.get("prefix") or table.get("location"))] = table
    parts, skipped = [], {}
    for registry in sorted(set(registries)):
        prefixes = sorted({registry, *(prefix for prefix in known if prefix.startswith(f"{registry}/"))})
        for prefix in prefixes:
            wildcard = next((each for each in known if each.startswith("*.") and registry.endswith(each[1:])), None)
            table = known.get(prefix, {})
            if not table and wildcard is not None:
                skipped[prefix] = f"{wildcard} stands for it; give it a [[registry]] of its own"
            elif table.get("blocked"):
                skipped[prefix] = "it is blocked"
            elif (place := _place(str(table.get("location") or prefix), mirror, ports)) is None:
                skipped[prefix] = "it is at a port, and that cannot stand in a path; give it one with --registry-ports"
            elif table.get("mirror") and mode is Mode.KEEP:
                skipped[prefix] = "it has mirrors of its own, which are kept"
            else:
                ours = {"location": place} | ({"insecure": True} if mirror.startswith("http:") else {})
                parts.append(_table(prefix, table, ours, mode))
    return "\n".join(parts), skipped


def _configure(ours: Path, options: RegistriesConf, skipped: list[Change]) -> Change:
    old = read(ours)
    if old is not None and not old.startswith(MADE):
        raise FileTextError("it is there, and not by our hand")
    others = [options.file, *(file for file in sorted(ours.parent.glob("*.conf")) if file != ours)]
    documents = [_parse(file, text) for file in others if (text := read(file)) is not None]
    tables, reasons = text_with_mirror(documents, options.mirror, options.registries, options.mode, options.ports)
    skipped += [Change(ours, Action.SKIPPED, f"{prefix}: {reason}") for prefix, reason in reasons.items()]
    made = _made(old) if old is not None else len(missing_directories(ours))
    new = f"{MADE}{made}.\n{_HEAD}\n{tables}"
    if new == old:
        return Change(ours, Action.UNCHANGED)
    if old is None:
        create(ours, new)
        return Change(ours, Action.CREATED)
    replace(ours, new)
    return Change(ours, Action.CHANGED)


def _cleanup(ours: Path) -> Change:
    text = read(ours)
    if text is None or not text.startswith(MADE):
        return Change(ours, Action.UNCHANGED)
    remove(ours, _made(text))
    return Change(ours, Action.REMOVED)


def _made(text: str) -> int:
    number = text.removeprefix(MADE).partition(".")[0]
    return int(number) if number.isdecimal() and len(number) < 4 else 0


def drop_in(file: Path) -> Path:
    """Our file beside a main one."""
    return Path(f"{file.absolute()}.d") / DROP_IN


def _parse(file: Path, text: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileTextError(f"{file} is not valid TOML: {error}") from None


def _place(location: str, mirror: str, ports: Iterable[RegistryPort]) -> str | None:
    """Where the mirror has what is at a location; None when there is no place for it."""
    url = urlsplit(mirror)
    registry, slash, path = location.partition("/")
    for each in ports:
        if each.registry == registry.lower():
            return f"{url.netloc.removesuffix(f':{url.port}')}:{each.port}{slash}{path}"
    return None if ":" in location else f"{url.netloc}{url.path.rstrip('/')}/{location}"


def _table(prefix: str, table: Table, ours: Table, mode: Mode) -> str:
    location = str(table.get("location") or prefix)
    others = [each for each in table.get("mirror", []) if each.get("location") != ours["location"]]
    mirrors = [*others, ours] if mode is Mode.APPEND else [ours, *others]
    head = {"prefix": prefix, "location": location} | {key: table[key] for key in table if key != "mirror"}
    blocks = ["[[registry]]", *_lines(head)]
    for each in mirrors:
        blocks += ["[[registry.mirror]]", *_lines(each)]
    return "\n".join([*blocks, ""])


def _lines(table: Table) -> Iterator[str]:
    """The keys of a table. JSON's strings, numbers and booleans are TOML's too."""
    for key, value in table.items():
        if not isinstance(value, str | bool | int):
            raise FileTextError(f"{key} = {value!r} cannot be repeated")
        yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
