"""`skvaller configure` and `skvaller cleanup`: lead containerd to the mirror, and leave no trace.

containerd reads, for each pull, `<certs.d>/<registry>/hosts.toml`, else `<certs.d>/_default/hosts.toml`. So the
mirror goes into `_default` and into every directory that exists, whose pulls would bypass it otherwise. Files stay
the operator's: see `mirror.hosts_toml` for what is put into them.

Invariants: a file is replaced whole or not at all, and keeps its mode and owner; a new directory appears with its
file in it; a second run changes nothing; what `cleanup` leaves is, byte for byte, what was there before. Files
that cannot be handled are told and left alone, and the others are handled.

Where a directory has certificates (`*.crt`, `*.cert`) but no hosts.toml with hosts, containerd uses these for the
registry, and a hosts.toml of ours would end that. Such directories are skipped.

Source: containerd docs/hosts.md; core/remotes/docker/config/hosts.go (`loadHostDir`, `loadCertFiles`).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mirror.hosts_toml import HostsTextError, Made, Mirror, has_hosts, names_host, with_block, without_block
from mirror.oci import InvalidReferenceError, parse_registry
from mirror.registries import Endpoint
from mirror.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

HOSTS_BYTES_MAX: Final = 1024 * 1024
"""A larger hosts.toml is refused: it is something else."""

FILE_NAME: Final = "hosts.toml"
DEFAULT_DIRECTORY: Final = "_default"
TEMPORARY_PREFIX: Final = ".skvaller-new-"


@dataclass(frozen=True, slots=True)
class ConfigureOptions:
    """What to configure.

    `root` is containerd's `config_path` (certs.d). `mirror` is the URL of the agent's client face. `registries`
    names registries that get a directory of their own, each with the URL at which containerd finds it when the
    mirror does not answer; None where that is `https://<name>`, as containerd assumes (and knows of docker.io
    that it is `registry-1.docker.io`). Raises `SettingsError`.
    """

    root: Path
    mirror: str = "http://127.0.0.1:29990"
    registries: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_url("mirror", self.mirror)
        for name, url in self.registries.items():
            try:
                parse_registry(name)
            except InvalidReferenceError as error:
                raise SettingsError(f"registry: {name!r} is not allowed; {error}") from error
            if url is not None:
                _check_url(f"registry {name}", url)


class Action(Enum):
    """What became of a file."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    RESTORED = "restored"
    REMOVED = "removed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Change:
    """What became of the file at `path`, and why where that is not plain."""

    path: Path
    action: Action
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether the file is not as asked, and somebody should look at it. It was left as it was."""
        return self.action is Action.FAILED

    def __str__(self) -> str:
        return f"{self.action.value}: {self.path}" + (f" ({self.detail})" if self.detail else "")


def configure(options: ConfigureOptions) -> list[Change]:
    """Put the mirror first in every hosts.toml under the root; one result for each file."""
    root = options.root.absolute()
    try:
        names = _directories(root)
    except OSError as error:
        return [Change(root, Action.FAILED, _reason(error))]
    mirrors = {name: Mirror(options.mirror) for name in (DEFAULT_DIRECTORY, *names)}
    for registry, server in options.registries.items():
        mirrors[_directory_of(registry, names)] = Mirror(options.mirror, server)
    files = _files(root, list(mirrors))
    changes = _sweep(root, files)
    changes += [_guarded(file, partial(_configure_file, file, mirrors[name])) for file, name in files.items()]
    return changes


def cleanup(root: Path) -> list[Change]:
    """Take the mirror out of every hosts.toml under the root; one result for each file that had it."""
    root = root.absolute()
    try:
        files = _files(root, _directories(root))
    except OSError as error:
        return [Change(root, Action.FAILED, _reason(error))]
    changes = _sweep(root, files)
    # A file goes after those that lie in directories made for it: then these directories are empty.
    for file in sorted(files, key=_directories_made):
        change = _guarded(file, partial(_cleanup_file, file))
        if change.action is not Action.UNCHANGED:
            changes.append(change)
    return changes


def _configure_file(file: Path, mirror: Mirror) -> Change:
    if file.is_symlink():
        return Change(file, Action.FAILED, "it is a symbolic link to nothing")
    old = _read(file)
    base, made = without_block(old or "")
    if made is None:
        made = Made(old is None, len(_missing_directories(file)))
    if not has_hosts(base) and _has_certificates(file.parent):
        if old is not None and old != base:
            _put_back(file, base, made)
        return Change(
            file,
            Action.SKIPPED,
            "the certificates beside it would no longer be used; name them in a hosts.toml with a [host] table, "
            "then configure again",
        )
    if names_host(base, mirror.url):
        return Change(file, Action.UNCHANGED, "it names the mirror already, and not by our hand")
    new = with_block(base, mirror, made)
    if new == old:
        return Change(file, Action.UNCHANGED)
    if old is None:
        _create(file, new)
        return Change(file, Action.CREATED)
    _replace(file, new)
    return Change(file, Action.CHANGED)


def _cleanup_file(file: Path) -> Change:
    text = _read(file)
    base, made = without_block(text or "")
    if made is None:
        return Change(file, Action.UNCHANGED)
    return _put_back(file, base, made)


def _put_back(file: Path, base: str, made: Made) -> Change:
    """Leave in the file what is not ours, or nothing of it at all when nobody else wrote into it."""
    if not made.file or base:
        _replace(file, base)
        return Change(file, Action.RESTORED)
    file.unlink()
    with suppress(OSError):  # somebody put something else there
        for directory in file.parents[: made.directories]:
            directory.rmdir()
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


def _sweep(root: Path, files: Iterable[Path]) -> list[Change]:
    """Remove what runs that were interrupted left behind."""
    changes = []
    for directory in sorted({root, *root.parents, *(file.parent for file in files)}):
        for leftover in sorted(directory.glob(f"{TEMPORARY_PREFIX}*")):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
            changes.append(Change(leftover, Action.REMOVED, "an interrupted run had left it"))
    return changes


def _directories_made(file: Path) -> int:
    try:
        made = without_block(_read(file) or "")[1]
    except (HostsTextError, OSError):
        return 0
    return made.directories if made is not None else 0


def _missing_directories(file: Path) -> list[Path]:
    return [directory for directory in file.parents if not directory.exists()]


def _has_certificates(directory: Path) -> bool:
    return directory.exists() and any(entry.suffix in {".crt", ".cert"} for entry in directory.iterdir())


def _read(file: Path) -> str | None:
    """The text of the file with its own line ends, or None when there is none."""
    try:
        with file.open("rb") as opened:
            data = opened.read(HOSTS_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    if len(data) > HOSTS_BYTES_MAX:
        raise HostsTextError(f"it has more than {HOSTS_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise HostsTextError("it is not UTF-8") from None


def _replace(file: Path, text: str) -> None:
    """Write the file at once: a reader, and a machine that loses power, has the old text or the new one."""
    temporary = _temporary(file)
    try:
        with temporary.open("xb") as written:
            with suppress(FileNotFoundError):
                before = file.stat()
                os.fchown(written.fileno(), before.st_uid, before.st_gid)
                os.fchmod(written.fileno(), stat.S_IMODE(before.st_mode))
            written.write(text.encode())
            written.flush()
            os.fsync(written.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _create(file: Path, text: str) -> None:
    """Write a new file. Directories that it needs appear with it in one step, never empty."""
    missing = _missing_directories(file)
    if not missing:
        _replace(file, text)
        return
    top = missing[-1]
    temporary = _temporary(top)
    try:
        inside = temporary / file.relative_to(top)
        inside.parent.mkdir(parents=True)
        _replace(inside, text)
        temporary.rename(top)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")


def _guarded(file: Path, work: Callable[[], Change]) -> Change:
    """Do the work on one file; what goes wrong is a result like any other."""
    try:
        return work()
    except HostsTextError as error:
        return Change(file, Action.FAILED, str(error))
    except OSError as error:
        return Change(file, Action.FAILED, _reason(error))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _check_url(name: str, url: str) -> None:
    try:
        Endpoint.read_url(url)
        if not re.fullmatch(r"[!#-\[\]-~]+", url):
            raise ValueError("printable ASCII without quotes or backslashes")
    except ValueError as error:
        raise SettingsError(f"{name}: {url!r} is not allowed; it takes {error}") from error
