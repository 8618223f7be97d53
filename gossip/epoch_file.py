"""The file in which a node keeps the counter of its epochs, so that a restart begins a higher one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from gossip.errors import EpochFileError
from gossip.fields import COUNTER_MAX

if TYPE_CHECKING:
    from pathlib import Path

EPOCH_FILE_BYTES_MAX: Final = 32


def load_counter(path: Path | None) -> int:
    """The counter that was stored last, 0 when there is none.

    A file without a number is as good as lost: the others still know the epoch.
    """
    if path is None:
        return 0
    try:
        with path.open("rb") as file:
            text = file.read(EPOCH_FILE_BYTES_MAX)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise EpochFileError(error.errno, f"cannot read the epoch file {path}: {error.strerror}") from error
    counter = int(text) if text.strip().isdigit() else 0
    return counter if counter < COUNTER_MAX else 0


def save_counter(path: Path | None, counter: int) -> None:
    """Store the counter so that it survives a loss of power.

    This blocks the loop for one fsync, at the start and in the rare case of an epoch raised later: nothing may be sent
    before it is done.
    """
    if path is None:
        return
    try:
        new = path.with_name(path.name + ".new")
        with new.open("wb") as file:
            file.write(b"%d\n" % counter)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise EpochFileError(error.errno, f"cannot write the epoch file {path}: {error.strerror}") from error
