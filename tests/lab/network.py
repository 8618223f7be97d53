"""One bridge with a private network, and a network namespace for each node on it.

Several runs may go on at once on one machine: each takes a free number, held by a file lock that the kernel
releases when the run ends in whatever way. All names and addresses hold that number, so whoever takes it next
knows what a crashed run left behind, and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS_MAX = 64
NODES_MAX = 200
COMMAND_TIMEOUT_S = 20.0


class Network:
    """The network of one run: 10.213.<number>.0/24. The machine itself is .1 on it. Made by `claim`."""

    def __init__(self, number: int) -> None:
        self._prefix = f"skvlab{number}"
        self._subnet = f"10.213.{number}"
        self.directory = _temporary(number, "d")
        """An empty directory that goes with the network."""

    @property
    def gateway(self) -> str:
        """The machine's address, where the registries listen."""
        return f"{self._subnet}.1"

    def add_namespace(self, node: int) -> tuple[str, str]:
        """A namespace for a node (counted from 1); returns its name and its address."""
        assert 0 < node <= NODES_MAX
        namespace, link, address = f"{self._prefix}-n{node}", f"{self._prefix}n{node}", f"{self._subnet}.{10 + node}"
        _ip("netns", "add", namespace)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", link, "master", self._prefix, "up")
        _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "route", "add", "default", "via", self.gateway)
        return namespace, address

    def set_up(self) -> None:
        """Make the bridge and the directory."""
        _ip("link", "add", self._prefix, "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/24", "dev", self._prefix)
        _ip("link", "set", self._prefix, "up")
        # What registries send is controlled by Reno: in a limited link's queue, a flow of BBR may starve beside others.
        subnet = f"{self._subnet}.0/24"
        _ip("route", "change", subnet, "dev", self._prefix, "src", self.gateway, "congctl", "reno")
        self.directory.mkdir()

    def tear_down(self) -> None:
        """Remove everything with this network's number, whoever made it; nothing is fine too."""
        for line in _ip("netns", "list").splitlines():
            namespace = line.split()[0]
            if namespace.startswith(f"{self._prefix}-"):
                _end_processes(namespace)
                _ip("netns", "del", namespace)
        if Path("/sys/class/net", self._prefix).exists():
            _ip("link", "del", self._prefix)
        _unmount_below(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def claim() -> Iterator[Network]:
    """A network that no other run uses, clean at the start and removed at the end."""
    for number in range(RUNS_MAX):
        with _temporary(number, "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            network = Network(number)
            network.tear_down()
            try:
                network.set_up()
                yield network
            finally:
                network.tear_down()
            return
    raise RuntimeError(f"{RUNS_MAX} runs of the lab are under way on this machine")


def _temporary(number: int, ending: str) -> Path:
    return Path(tempfile.gettempdir(), f"skvaller-lab-{number}.{ending}")


def _ip(*arguments: str) -> str:
    completed = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if completed.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {completed.stderr.strip()}")
    return completed.stdout


def _end_processes(namespace: str) -> None:
    """End what still runs in a namespace of ours, and wait until it did."""
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while pids := _ip("netns", "pids", namespace).split():
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {pids} do not leave the namespace {namespace}")
        for pid in pids:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


def _unmount_below(directory: Path) -> None:
    mounts = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.is_relative_to(directory):
            subprocess.run(["umount", "--lazy", mount], check=False, timeout=COMMAND_TIMEOUT_S)
