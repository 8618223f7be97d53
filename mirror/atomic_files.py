"""Changes to configuration files that are not ours alone: whole or not at all, and told one by one.

A file is replaced at once and keeps its mode and owner; a new directory appears with its file in it. What a run that
was killed leaves behind are temporaries, under a name of our own, which the next run removes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FILE_BYTES_MAX: Final = 1024 * 1024
"""A larger file is refused: it is something else."""
TEMPORARY_PREFIX: Final = ".skvaller-new-"


class FileTextError(ValueError):
    """The text of a file is not what can be handled; says why. Nothing was changed."""


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


def read(file: Path) -> str | None:
    """The text of the file with its own line ends, or None when there is none. Raises `FileTextError`."""
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    if len(data) > FILE_BYTES_MAX:
        raise FileTextError(f"it has more than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FileTextError("it is not UTF-8") from None


def replace(file: Path, text: str) -> None:
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


def create(file: Path, text: str) -> None:
    """Write a new file. Directories that it needs appear with it in one step, never empty."""
    missing = missing_directories(file)
    if not missing:
        replace(file, text)
        return
    top = missing[-1]
    temporary = _temporary(top)
    try:
        inside = temporary / file.relative_to(top)
        inside.parent.mkdir(parents=True)
        replace(inside, text)
        temporary.rename(top)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove(file: Path, directories: int) -> None:
    """Remove a file and, of the innermost `directories` above it, those that hold nothing else; they go in one step."""
    for directory in reversed(file.parents[:directories]):
        if all(entry == file or entry in file.parents for entry in directory.rglob("*")):
            temporary = _temporary(directory)
            directory.rename(temporary)
            shutil.rmtree(temporary, ignore_errors=True)
            return
    file.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")


def guarded(file: Path, work: Callable[[], Change]) -> Change:
    """Do the work on one file; what goes wrong is a result like any other."""
    try:
        return work()
    except FileTextError as error:
        return Change(file, Action.FAILED, str(error))
    except OSError as error:
        return Change(file, Action.FAILED, reason(error))


def reason(error: OSError) -> str:
    """What the system says."""
    return error.strerror or str(error)


def missing_directories(file: Path) -> list[Path]:
    """Those above the file that are not there, the innermost first."""
    return [directory for directory in file.parents if not directory.exists()]


def sweep(root: Path, files: Iterable[Path]) -> list[Change]:
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
