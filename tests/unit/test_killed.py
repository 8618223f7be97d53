"""Whenever `configure` or `cleanup` is killed, the next run makes up for it, and clean-up leaves what was there."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror import hosts, registries_conf
from mirror.hosts import ConfigureOptions
from mirror.registries_conf import RegistriesConf
from tests.unit.test_hosts import put, tree

STEPS = ("write", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir")
"""What changes the disk; the process is killed right after one of them, the n-th of all."""

KILLED = 137


def work(root: Path) -> None:
    """All that `skvaller configure` can do: new directories, a file that is changed, one that is put back."""
    hosts.configure(ConfigureOptions(root / "etc/certs.d", registries={"new.example": None}))
    hosts.configure(ConfigureOptions(root / "etc/new/deep/certs.d", registries={"docker.io": None}))
    registries_conf.configure(
        RegistriesConf(root / "etc/containers/registries.conf", "http://127.0.0.1:29990", ["docker.io"])
    )


def undo(root: Path) -> None:
    """All that `skvaller cleanup` does."""
    hosts.cleanup(root / "etc/certs.d")
    hosts.cleanup(root / "etc/new/deep/certs.d")
    registries_conf.cleanup(root / "etc/containers/registries.conf")


def killed_after(number: int, doing: Callable[[Path], None], root: Path) -> bool:
    """Do it in a process that is killed after so many steps; whether it was."""
    child = os.fork()
    if child == 0:
        left = number

        def counting(function: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                nonlocal left
                result = function(*arguments, **options)
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for step in STEPS:
            setattr(os, step, counting(getattr(os, step)))
        try:
            doing(root)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("doing", [work, undo], ids=["configure", "cleanup"])
def test_a_run_that_is_killed_between_two_steps_leaves_nothing_that_the_next_does_not_mend(
    tmp_path: Path, doing: Callable[[Path], None]
) -> None:
    before = tmp_path / "before"
    put(before, "etc/certs.d/reg.example/hosts.toml", 'server = "https://reg.example"')
    put(before, "etc/containers/registries.conf", '[[registry]]\nprefix = "docker.io"\n')
    original = tree(before)
    done = tmp_path / "done"
    shutil.copytree(before, done)
    work(done)
    configured = tree(done)
    kills = 0
    while True:
        root = tmp_path / f"root{kills}"
        shutil.copytree(before if doing is work else done, root)
        was_killed = killed_after(kills, doing, root)
        if doing is work:
            again = tmp_path / f"again{kills}"
            shutil.copytree(root, again)
            work(again)
            assert tree(again) == configured, f"killed after {kills} steps"
        undo(root)
        assert tree(root) == original, f"killed after {kills} steps"
        if not was_killed:
            break
        kills += 1
    assert kills >= 5
