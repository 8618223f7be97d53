"""A containerd's configuration, as that containerd reads it, as far as pulls are concerned.

What is where differs between generations, and each of these differences has cost somebody an afternoon:

- The table of the CRI plugin is `cri` in files of version 1, `io.containerd.grpc.v1.cri` in version 2, and
  `io.containerd.cri.v1.images` since version 3. containerd 2 moves what it finds in the older table of an older file
  over what is in the newer one, and some of it only when the older table names runtimes. The wrong table in a file is
  ignored without a word.
- `imports` come after the file that names them. containerd 1 lets a table of theirs replace the whole table of the
  plugin; containerd 2 merges the two.
- `config_path` is a list separated by colons. Since 2.1 the transfer service pulls, and takes the list for one
  directory; but it does not pull when something is set that it does not know.
- Since 2.2 there is a default for `config_path`, and it is such a list.

Source: containerd, cmd/containerd/server/config (1.x: services/server/config), internal/cri/config
(`CheckLocalImagePullConfigs`), plugins/cri/images.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mirror.toml_lines import TOML_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Table = Mapping[str, Any]
    Version = tuple[int, ...]

FILES_MAX: Final = 100
FILE_BYTES_MAX: Final = 4 * 1024 * 1024

DEFAULT_CONFIG_PATH: Final = "/etc/containerd/certs.d:/etc/docker/certs.d"
"""Since 2.2, where nothing else is set."""

OLDEST: Final = "cri"
OLDER: Final = "io.containerd.grpc.v1.cri"
IMAGES: Final = "io.containerd.cri.v1.images"


class ConfigFileError(Exception):
    """A file of the configuration cannot be read; says which and why."""


@dataclass(frozen=True, slots=True)
class Effective:
    """What counts for pulls.

    `config_path` has the directories of hosts.toml files, none when they are not used; `is_default` says that nobody
    set it. `misplaced` names tables that set it where this containerd does not look. `transfer_service` is who pulls
    (else the CRI plugin itself). `files` were read.
    """

    config_path: tuple[Path, ...]
    is_default: bool
    misplaced: tuple[str, ...]
    transfer_service: bool
    discards_layers: bool
    has_mirrors: bool
    disabled: bool
    files: tuple[Path, ...]


def load(file: Path, version: Version) -> list[tuple[Path, Table]]:
    """The file and all that it imports, in the order in which containerd reads them. Raises `ConfigFileError`."""
    globs_at_root = version < (1, 6, 29) or (1, 7) <= version < (1, 7, 16)
    documents: list[tuple[Path, Table]] = []
    pending = [file]
    seen = set()
    while pending:
        path = pending.pop(0)
        if path in seen:
            continue
        seen.add(path)
        if len(seen) > FILES_MAX:
            raise ConfigFileError(f"{file} imports more than {FILES_MAX} files")
        document = _read(path)
        documents.append((path, document))
        for pattern in document.get("imports") or ():
            # Older ones look for patterns where they were started, which is the root when an init system did it.
            base = Path("/") if globs_at_root and "*" in pattern else path.parent
            place = str(base / str(pattern))
            pending += [Path(found) for found in sorted(glob(place))] if "*" in place else [Path(place)]  # noqa: PTH207
    return documents


def effective(documents: Sequence[tuple[Path, Table]], version: Version) -> Effective:
    """What a containerd of this version makes of the files."""
    modern = version >= (2, 0)
    plugins: dict[str, Any] = {}
    disabled: list[str] = []
    for _, document in documents:
        disabled += document.get("disabled_plugins") or ()
        own = _migrated(document, version) if modern else dict(document.get("plugins") or {})
        plugins = _merged(plugins, own) if modern else plugins | own
    file_version = int(documents[0][1].get("version") or 1) if documents else 1
    table = IMAGES if modern else OLDER if file_version >= 2 else OLDEST
    cri = plugins.get(table) or {}
    containerd_table = cri if modern else cri.get("containerd") or {}
    registry = cri.get("registry") or {}
    written = str(registry.get("config_path") or "")
    has_mirrors = bool(registry.get("mirrors"))
    is_default = not written and version >= (2, 2) and not has_mirrors
    paths = DEFAULT_CONFIG_PATH if is_default else written
    return Effective(
        config_path=tuple(Path(path) for path in paths.split(":") if path),
        is_default=is_default,
        misplaced=tuple(_misplaced(documents, table, version)),
        transfer_service=version >= (2, 1) and not _pulls_itself(cri),
        discards_layers=bool(containerd_table.get("discard_unpacked_layers")),
        has_mirrors=has_mirrors,
        disabled=any(name in {"cri", f"io.containerd.{table}", OLDER, IMAGES} for name in disabled),
        files=tuple(path for path, _ in documents),
    )


def _read(path: Path) -> Table:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigFileError(f"{path}: more than {FILE_BYTES_MAX} bytes")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigFileError(f"{path}: {error.strerror or error}") from error
    except TOML_ERRORS as error:
        raise ConfigFileError(f"{path}: {error}") from error


def _older_table(document: Table, version: Version) -> str | None:
    """The older table that a containerd 2 understands in this file."""
    file_version = int(document.get("version") or 1)
    if file_version < 2:
        return OLDEST if version >= (2, 3) else None
    return OLDER if file_version < (4 if version >= (2, 3) else 3) else None


def _migrated(document: Table, version: Version) -> dict[str, Any]:
    """The plugins of a file as containerd 2 sees them: what older versions wrote elsewhere is moved."""
    plugins = dict(document.get("plugins") or {})
    older = plugins.get(_older_table(document, version) or "")
    if older is None:
        return plugins
    moved = {key: older[key] for key in _MOVED if key in older}
    containerd = older.get("containerd") or {}
    if "runtimes" in containerd:
        moved |= {key: containerd[key] for key in _MOVED_WITH_RUNTIMES if key in containerd}
    plugins[IMAGES] = (plugins.get(IMAGES) or {}) | moved
    return plugins


_MOVED: Final = ("registry", "max_concurrent_downloads", "image_pull_with_sync_fs")
_MOVED_WITH_RUNTIMES: Final = ("discard_unpacked_layers", "disable_snapshot_annotations")


def _merged(first: Table, second: Table) -> dict[str, Any]:
    """Both; where both say something, the second."""
    result = dict(first)
    for key, value in second.items():
        before = result.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            result[key] = _merged(before, value)
        else:
            result[key] = value
    return result


def _pulls_itself(images: Table) -> bool:
    """Whether something is set that the transfer service does not know, so that the CRI plugin pulls itself."""
    registry = images.get("registry") or {}
    return (
        bool(images.get("use_local_image_pull"))
        or bool(images.get("discard_unpacked_layers"))
        or images.get("disable_snapshot_annotations", True) is False
        or any(bool(registry.get(key)) for key in ("mirrors", "configs", "auths"))
        or int(images.get("max_concurrent_downloads", 3)) != 3
        or bool(images.get("image_pull_with_sync_fs"))
    )


def _misplaced(documents: Sequence[tuple[Path, Table]], table: str, version: Version) -> list[str]:
    """Tables that set `config_path` where this containerd does not look for it."""
    found = []
    for path, document in documents:
        understood = {table, _older_table(document, version) if version >= (2, 0) else table}
        for name in (OLDEST, OLDER, IMAGES):
            plugin = (document.get("plugins") or {}).get(name) or {}
            if name not in understood and (plugin.get("registry") or {}).get("config_path"):
                found.append(f'[plugins."{name}".registry] in {path}')
    return found
