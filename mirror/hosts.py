"""`skvaller configure` and `skvaller cleanup`: lead containerd to the mirror, and leave no trace.

containerd reads, for each pull, `<certs.d>/<registry>/hosts.toml`, else `<certs.d>/_default/hosts.toml`. So the
mirror goes into `_default` and into every directory that exists, whose pulls would bypass it otherwise. Files stay
the operator's: see `mirror.hosts_toml` for what is put into them.

Invariants: a file is replaced whole or not at all, and keeps its mode and owner; a new directory appears with its
file in it; a second run changes nothing; what `cleanup` leaves is, byte for byte, what was there before. Files
that cannot be handled are told and left alone, and the others are handled.

Where a directory has certificates (`*.crt`, `*.cert`) but no hosts.toml with a `host` table, containerd uses these for
the registry, and a hosts.toml of ours would end that. Such directories are skipped. Since 1.7.32 and 2.0 containerd
does so only where hosts.toml is not there, is empty or cannot be parsed. Which one will read the file is not known
here, so with these a directory that has other keys and such certificates is skipped for nothing.

Source: containerd docs/hosts.md; core/remotes/docker/config/hosts.go (`loadHostDir`, `getSortedHosts`,
`loadCertFiles`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mirror.atomic_files import (
    Action,
    Change,
    FileTextError,
    create,
    guarded,
    missing_directories,
    read,
    reason,
    remove,
    replace,
    sweep,
)
from mirror.hosts_toml import Made, Mirror, hosts_of, with_block, without_block
from mirror.oci import InvalidReferenceError, parse_registry
from mirror.registries import Endpoint
from mirror.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

FILE_NAME: Final = "hosts.toml"
DEFAULT_DIRECTORY: Final = "_default"


class Mode(Enum):
    """Where the mirror goes in a file that has hosts already."""

    PREPEND = "prepend"
    """In front of them: they are asked when the mirror does not give an object."""
    APPEND = "append"
    """Behind them, and before the registry itself."""
    KEEP = "keep"
    """Nowhere: such a registry is not mirrored."""


@dataclass(frozen=True, slots=True)
class ConfigureOptions:
    """What to configure.

    `root` is containerd's `config_path` (certs.d). `mirror` is the URL of the agent's client face. `registries`
    names registries that get a directory of their own, each with the URL at which containerd finds it when the
    mirror does not answer; None where that is `https://<name>`, as containerd assumes (and knows of docker.io
    that it is `registry-1.docker.io`). With `only_named` these are the only ones: `_default`, and what else is there,
    is left alone, or put back as it was. Raises `SettingsError`.
    """

    root: Path
    mirror: str = "http://127.0.0.1:29990"
    registries: Mapping[str, str | None] = field(default_factory=dict)
    mode: Mode = Mode.PREPEND
    only_named: bool = False

    def __post_init__(self) -> None:
        if self.only_named and not self.registries:
            raise SettingsError("only the named registries are to be mirrored, but none is named")
        _check_url("mirror", self.mirror)
        for name, url in self.registries.items():
            try:
                parse_registry(name)
            except InvalidReferenceError as error:
                raise SettingsError(f"registry: {name!r} is not allowed; {error}") from error
            if url is not None:
                _check_url(f"registry {name}", url)


def configure(options: ConfigureOptions) -> list[Change]:
    """Put the mirror into every hosts.toml under the root; one result for each file."""
    root = options.root.absolute()
    try:
        names = _directories(root)
    except OSError as error:
        return [Change(root, Action.FAILED, reason(error))]
    mirrors = {} if options.only_named else {name: Mirror(options.mirror) for name in (DEFAULT_DIRECTORY, *names)}
    for registry, server in options.registries.items():
        mirrors[_directory_of(registry, names)] = Mirror(options.mirror, server)
    files = _files(root, [*mirrors, *names])
    changes = sweep(root, files)
    for file, name in files.items():
        if name in mirrors:
            changes.append(guarded(file, partial(_configure_file, file, mirrors[name], options.mode)))
        elif (change := guarded(file, partial(_cleanup_file, file))).action is not Action.UNCHANGED:
            changes.append(change)
    return changes


def cleanup(root: Path) -> list[Change]:
    """Take the mirror out of every hosts.toml under the root; one result for each file that had it."""
    root = root.absolute()
    try:
        files = _files(root, _directories(root))
    except OSError as error:
        return [Change(root, Action.FAILED, reason(error))]
    changes = sweep(root, files)
    # A file goes after those that lie in directories made for it: then these directories are empty.
    for file in sorted(files, key=_directories_made):
        change = guarded(file, partial(_cleanup_file, file))
        if change.action is not Action.UNCHANGED:
            changes.append(change)
    return changes


def _configure_file(file: Path, mirror: Mirror, mode: Mode) -> Change:
    if file.is_symlink():
        return Change(file, Action.FAILED, "it is a symbolic link to nothing")
    old = read(file)
    base, made = without_block(old or "")
    if made is None:
        made = Made(old is None, len(missing_directories(file)))
    if skipped := _why_skip(file, base, mode):
        if old is not None and old != base:
            _put_back(file, base, made)
        return Change(file, Action.SKIPPED, skipped)
    if mirror.url in (hosts_of(base) or ()):
        return Change(file, Action.UNCHANGED, "it names the mirror already, and not by our hand")
    new = with_block(base, mirror, made, first=mode is not Mode.APPEND)
    if new == old:
        return Change(file, Action.UNCHANGED)
    if old is None:
        create(file, new)
        return Change(file, Action.CREATED)
    replace(file, new)
    return Change(file, Action.CHANGED)


def _why_skip(file: Path, text: str, mode: Mode) -> str:
    hosts = hosts_of(text)
    if hosts:
        return "it has hosts of its own, which are kept" if mode is Mode.KEEP else ""
    if hosts is not None or not _has_certificates(file.parent):
        return ""
    return (
        "the certificates beside it would no longer be used; name them in a hosts.toml with a [host] table, "
        "then configure again"
    )


def _cleanup_file(file: Path) -> Change:
    text = read(file)
    base, made = without_block(text or "")
    if made is None:
        return Change(file, Action.UNCHANGED)
    return _put_back(file, base, made)


def _put_back(file: Path, base: str, made: Made) -> Change:
    """Leave in the file what is not ours, or nothing of it at all when nobody else wrote into it."""
    if not made.file or base:
        replace(file, base)
        return Change(file, Action.RESTORED)
    remove(file, made.directories)
    return Change(file, Action.REMOVED)


def _directories(root: Path) -> list[str]:
    """The names of the directories in the root, sorted. Hidden ones are no registries."""
    if not root.exists():
        return []
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _directory_of(registry: str, names: Collection[str]) -> str:
    """The directory that containerd reads for a registry: the one that exists, in its order of looking."""
    registry = parse_registry(registry)
    host, colon, port = registry.rpartition(":")
    without_colon = f"{host}_{port}_" if colon else registry
    return without_colon if without_colon in names else registry


def _files(root: Path, names: Iterable[str]) -> dict[Path, str]:
    """The real hosts.toml of every directory, each once; symbolic links are followed and stay.

    A link to nothing is not followed: what should lie there is not ours to say.
    """
    files: dict[Path, str] = {}
    for name in names:
        file = root / name / FILE_NAME
        real = Path(os.path.realpath(file))
        files.setdefault(file if file.is_symlink() and not real.exists() else real, name)
    return files


def _directories_made(file: Path) -> int:
    try:
        made = without_block(read(file) or "")[1]
    except (FileTextError, OSError):
        return 0
    return made.directories if made is not None else 0


def _has_certificates(directory: Path) -> bool:
    return directory.exists() and any(entry.suffix in {".crt", ".cert"} for entry in directory.iterdir())


def _check_url(name: str, url: str) -> None:
    try:
        Endpoint.read_url(url)
        if not re.fullmatch(r"[!#-\[\]-~]+", url):
            raise ValueError("printable ASCII without quotes or backslashes")
    except ValueError as error:
        raise SettingsError(f"{name}: {url!r} is not allowed; it takes {error}") from error
