"""Leads podman, skopeo, Buildah and CRI-O to the mirror, with a drop-in of our own for their registries.conf.

These clients do not say which registry they mean, so they are led to a port that stands for it
(`mirror.registry_ports`), or else to a path that begins with its name (`127.0.0.1:29990/docker.io`), in which a
registry's port cannot stand. And they have no mirror for every registry, so
each has to be named. A `[[registry]]` table in a later file replaces the one of the same prefix in earlier ones as a
whole. So our file, which sorts behind the others, repeats what the operator has for the registries that are named, with
the mirror added; nothing else is touched. It says how it was made, so that it can be told when it would come out
otherwise now (`review`).

Their credentials are for the registry and never for a mirror. At a port the mirror may have credentials of its own
(`podman login 127.0.0.1:29996`); what else is private comes from the registry itself.

Source: containers-registries.conf(5); containers/image, pkg/sysregistriesv2 (`updateWithConfigurationFrom`).
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field
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
from mirror.registry_ports import read_registry_ports
from mirror.toml_lines import TOML_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mirror.registry_ports import RegistryPort

    Table = Mapping[str, Any]

REGISTRIES_CONF: Final = Path("/etc/containers/registries.conf")
DROP_IN: Final = "zz-skvaller.conf"
"""Behind the others, in the order of names, for the last one counts."""
MADE: Final = "# Made by `skvaller configure`, made-directories="
WITH: Final = "# Its options: "

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
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


@dataclass(frozen=True, slots=True)
class Review:
    """What `configure` would do now.

    `command` is how it was run, `outdated` whether the drop-in would come out otherwise, and `skipped` why there would
    be no table for a prefix, by prefix. With an `error` none of this is known.
    """

    command: str
    outdated: bool = False
    skipped: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


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


def review(file: Path) -> Review | None:
    """Look at the drop-in that goes with a main file; None when there is none of ours. Changes nothing."""
    ours = drop_in(file)
    command = "skvaller configure --runtime podman" + ("" if file == REGISTRIES_CONF else f" --registries-conf {file}")
    try:
        old = read(ours)
        if old is None or not old.startswith(MADE):
            return None
        options = _options(file, old)
        if options is None:
            return Review(command, outdated=True)
        command = f"{command} {_words(options)}"
        new, skipped = _text(ours, options, old)
    except (FileTextError, OSError) as error:
        return Review(command, error=str(error))
    return Review(command, new != old, skipped)


def text_with_mirror(
    documents: Iterable[Table],
    mirror: str,
    registries: Iterable[str],
    mode: Mode,
    ports: Sequence[RegistryPort] = (),
    *,
    later: Iterable[tuple[str, Table]] = (),
) -> tuple[str, dict[str, str]]:
    """The tables of the drop-in, and why there is none for a prefix, by prefix; `documents` come in their order.

    Those in `later` count more than the drop-in; they come with the names of their files. Raises `FileTextError` for
    what cannot be repeated.
    """
    known = {prefix: table for document in documents for prefix, table in _tables(document)}
    outranked = {prefix: name for name, document in later for prefix, _ in _tables(document)}
    every = [*known, *outranked]
    parts, skipped = [], {}
    for registry in sorted(set(registries)):
        prefixes = sorted({registry, *(prefix for prefix in every if prefix.startswith(f"{registry}/"))})
        wildcard = next((each for each in every if each.startswith("*.") and registry.endswith(each[1:])), None)
        for prefix in prefixes:
            table = known.get(prefix, {})
            if prefix in outranked:
                skipped[prefix] = f"{outranked[prefix]} has it too and comes later; give that a name that comes before"
            elif not table and wildcard is not None:
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
    new, reasons = _text(ours, options, old)
    skipped += [Change(ours, Action.SKIPPED, f"{prefix}: {reason}") for prefix, reason in reasons.items()]
    if new == old:
        return Change(ours, Action.UNCHANGED)
    if old is None:
        create(ours, new)
        return Change(ours, Action.CREATED)
    replace(ours, new)
    return Change(ours, Action.CHANGED)


def _text(ours: Path, options: RegistriesConf, old: str | None) -> tuple[str, dict[str, str]]:
    """The drop-in as it should be, and why there is no table for a prefix, by prefix. Raises `FileTextError`."""
    others = [options.file.absolute(), *(file for file in sorted(ours.parent.glob("*.conf")) if file != ours)]
    documents = [(file, _parse(file, text)) for file in others if (text := read(file)) is not None]
    tables, skipped = text_with_mirror(
        [document for file, document in documents if file < ours],
        options.mirror,
        options.registries,
        options.mode,
        options.ports,
        later=[(file.name, document) for file, document in documents if file > ours],
    )
    made = _made(old) if old is not None else len(missing_directories(ours))
    return f"{MADE}{made}.\n{WITH}{_words(options)}\n{_HEAD}\n{tables}", skipped


def _words(options: RegistriesConf) -> str:
    """The options as one gives them to the command."""
    words = ["--mirror", options.mirror, "--mode", options.mode.value]
    words += [word for name in sorted(set(options.registries)) for word in ("--registry", name)]
    return " ".join([*words, *(["--registry-ports", ",".join(map(str, options.ports))] if options.ports else [])])


def _options(file: Path, text: str) -> RegistriesConf | None:
    """The options that a drop-in was made with; None when it does not say, or says what cannot be."""
    words = next((line.removeprefix(WITH) for line in text.splitlines() if line.startswith(WITH)), "").split()
    pairs = list(zip(words[::2], words[1::2], strict=False))
    values = dict(pairs)
    try:
        return RegistriesConf(
            file,
            values["--mirror"],
            [value for name, value in pairs if name == "--registry"],
            Mode(values["--mode"]),
            read_registry_ports(values.get("--registry-ports", "")),
        )
    except (KeyError, ValueError):
        return None


def _tables(document: Table) -> Iterator[tuple[str, Table]]:
    """The tables of a file, each with its prefix."""
    tables = document.get("registry", [])
    if "registries" in document or not isinstance(tables, list):
        raise FileTextError("a registries.conf is of version 1, which cannot have mirrors")
    for table in tables:
        mirrors = table.get("mirror", []) if isinstance(table, dict) else None
        if not isinstance(mirrors, list) or not all(isinstance(each, dict) for each in mirrors):
            raise FileTextError("a registry or a mirror in a registries.conf is not a table")
        yield str(table.get("prefix") or table.get("location")).rstrip("/"), table


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
    except TOML_ERRORS as error:
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
    """The keys of a table. JSON's strings (but for DEL), numbers and booleans are TOML's too."""
    for key, value in table.items():
        if not isinstance(value, str | bool | int):
            raise FileTextError(f"{key} = {value!r} cannot be repeated")
        yield f"{key if _BARE_KEY.fullmatch(key) else _quoted(key)} = {_quoted(value)}"


def _quoted(value: str | bool | int) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
