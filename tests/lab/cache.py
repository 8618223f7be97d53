"""What is fetched or built for the tests once, and kept in the user's cache directory until it is deleted there."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DOWNLOAD_TIMEOUT_S: Final = 300
BUILD_TIMEOUT_S: Final = 3600


class FetchError(Exception):
    """It could not be fetched or built; the message says why. What was there before still is."""


def place(name: str) -> Path:
    """Where the thing of that name (`containerd/trixie`) is kept, if it is there."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "skvaller-tests", name)


def cached(name: str, make: Callable[[Path], Path]) -> Path:
    """The directory of that name; made unless it is there already.

    `make` gets an empty directory to work in and returns what to keep of it, which appears whole or not at all.
    """
    target = place(name)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as work:
            make(Path(work)).rename(target)
    return target


def go_install(programs: Path, *packages: str) -> Path:
    """Build programs (`<package>@<version>`) into a directory, which is returned. Without cgo, at a low priority."""
    environment = {"GOBIN": str(programs), "CGO_ENABLED": "0"}
    run("nice", "-n", "15", "go", "install", *packages, timeout_s=BUILD_TIMEOUT_S, environment=environment)
    return programs


def run(
    *command: str | Path,
    directory: Path | None = None,
    timeout_s: float = DOWNLOAD_TIMEOUT_S,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return what it printed. Raises `FetchError`."""
    words = [str(word) for word in command]
    try:
        completed = subprocess.run(
            words,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
        )
    except FileNotFoundError as error:
        raise FetchError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{' '.join(words)}: no end after {timeout_s:g} s") from error
    except subprocess.CalledProcessError as error:
        raise FetchError(f"{' '.join(words)}: exit status {error.returncode}\n{error.stderr}") from error
    return completed.stdout
