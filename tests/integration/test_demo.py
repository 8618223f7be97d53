"""`skvaller demo` as a user runs it: real agents, real sockets, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S: Final = 90.0


@contextmanager
def demo(directory: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that keeps its files below `directory`; afterwards neither files nor processes of it may be left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mirror", "demo", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(directory)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
    assert list(directory.iterdir()) == []
    assert processes_that_name(directory) == []


def processes_that_name(directory: Path) -> list[str]:
    """The command lines of running processes with this directory in them: the agents have."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(directory) in command:
            found.append(command)
    return found


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the demo prints, up to the line with `text`."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            return printed
    raise AssertionError(f"the demo ended without {text!r}:\n{printed}")


def test_once_ends_well_when_every_digest_and_source_is_as_promised(tmp_path: Path) -> None:
    with demo(tmp_path, "--once") as process:
        printed, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, printed
    assert printed.count("yes  ") == 5
    assert re.search(r"node-a .* layer 1 .* upstream", printed)
    assert re.search(r"node-b .* layer 1 .* peer node-a", printed)
    assert re.search(r"node-c .* layer \d .* peer node-b", printed)


def test_without_once_it_stays_up_until_ctrl_c(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        printed = read_until(process, "skopeo copy")
        url = re.search(r"curl .* '(http://[^']+)'", printed)
        assert url is not None
        with urllib.request.urlopen(url[1], timeout=PATIENCE_S) as answer:
            assert answer.headers["Skvaller-Source"] == "store"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("moment", ["Building", "Starting", "node-a pulls"])
def test_a_signal_at_any_moment_ends_it_cleanly(tmp_path: Path, moment: str) -> None:
    with demo(tmp_path) as process:
        read_until(process, moment)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
