"""Settings that can change while the agent runs do, the others are told, and a wrong file changes nothing."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import trustme

from mirror import live as live_module
from mirror.live import RELOADED, LiveSettings
from mirror.metrics import Metrics
from mirror.oci import Repository, Tag
from mirror.registries import Endpoint
from mirror.settings import Settings, load

NGINX = Repository("docker.io", "library/nginx")


class Stage:
    """A configuration file and what is in force of it."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "skvaller.toml"
        self.hosts = directory / "certs.d"
        self.hosts.mkdir()
        self.metrics = Metrics("", "")
        self.write("")
        read = partial(load, {}, {}, self.file)
        self.live = LiveSettings(read(), read, self.file, self.metrics.live())

    def write(self, text: str) -> None:
        """Replace the file as a ConfigMap's is replaced: by another one."""
        new = self.file.with_suffix(".new")
        new.write_text(f'registries_dir = "{self.hosts}"\n{text}')
        new.replace(self.file)

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        task = asyncio.create_task(self.live.watch())
        await asyncio.sleep(0.05)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(live_module, "POLL_S", 0.02)
    return Stage(tmp_path)


@pytest.fixture(autouse=True)
def _same_log_level_afterwards() -> Generator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_file_that_changes_is_in_force_soon(stage: Stage) -> None:
    assert stage.live.policy.mirrors(NGINX, Tag("latest"))
    async with stage.watching():
        stage.write('log_level = "error"\n[registries."docker.io"]\nurl = "http://cache"\nexclude = ["*:latest"]\n')
        await soon(lambda: not stage.live.policy.mirrors(NGINX, Tag("latest")))
    assert stage.live.registries.endpoints("docker.io") == (Endpoint("http://cache"),)
    assert logging.getLogger().level == logging.ERROR
    assert stage.sample("skvaller_reloads_total", result="done") == 1


async def test_a_wrong_file_changes_nothing_and_is_told(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async with stage.watching():
        stage.write('[registries."docker.io"]\nexclude = "*"\n')
        await soon(lambda: stage.sample("skvaller_reloads_total", result="refused") == 1)
        assert "line 3" in caplog.text
        assert stage.live.policy.mirrors(NGINX, Tag("latest"))
        stage.file.unlink()
        await soon(lambda: stage.sample("skvaller_reloads_total", result="refused") == 2)
        stage.write("mirroring = false\n")
        await soon(lambda: not stage.live.mirroring)


async def test_a_setting_that_needs_a_restart_is_told(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async with stage.watching():
        stage.write("peer_port = 1234\n")
        await soon(lambda: stage.sample("skvaller_reloads_total", result="done") == 1)
    assert "peer_port has changed: that needs a restart" in caplog.text


async def test_hosts_files_that_come_and_go_are_in_force_soon(stage: Stage) -> None:
    async with stage.watching():
        file = stage.hosts / "docker.io" / "hosts.toml"
        file.parent.mkdir()
        file.write_text('[host."http://cache"]\n')
        await soon(lambda: len(stage.live.registries.endpoints("docker.io")) == 2)
        file.unlink()
        await soon(lambda: len(stage.live.registries.endpoints("docker.io")) == 1)


async def test_credentials_in_a_hosts_file_are_none_for_a_protected_registry(stage: Stage) -> None:
    file = stage.hosts / "registry.corp" / "hosts.toml"
    file.parent.mkdir()
    headers = '.header]\nauthorization = "Basic secret"\nX-Key = "1"\n'
    file.write_text("".join(f'[host."https://{host}"{headers}' for host in ("registry.corp", "cache")))
    both = (("authorization", "Basic secret"), ("X-Key", "1"))
    async with stage.watching():
        stage.live.reload()
        await soon(lambda: len(stage.live.registries.endpoints("registry.corp")) == 2)
        assert [each.headers for each in stage.live.registries.endpoints("registry.corp")] == [both, both]
        stage.write('[registries."*.corp"]\nauthorize = "upstream"\n')
        await soon(lambda: stage.live.policy.is_protected("registry.corp"))
        mirror, itself = stage.live.registries.endpoints("registry.corp")
    assert (mirror.headers, itself.headers) == (both, (("X-Key", "1"),))


async def test_certificates_that_are_renewed_are_read_again(stage: Stage, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    async with stage.watching():
        stage.write(f'[registries."docker.io"]\nurl = "https://cache"\nca_file = "{ca}"\n')
        await soon(lambda: stage.live.registries.files == [ca])
        await asyncio.sleep(0.1)
        before = stage.sample("skvaller_reloads_total", result="done")
        os.utime(ca, ns=(1, 1))
        await soon(lambda: stage.sample("skvaller_reloads_total", result="done") != before)


async def test_certificates_that_are_still_being_written_are_in_force_once_they_are_whole(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    async with stage.watching():
        stage.write(f'[registries."docker.io"]\nurl = "https://cache"\nca_file = "{ca}"\n')
        await soon(lambda: stage.sample("skvaller_reloads_total", result="refused") == 1)
        await asyncio.sleep(0.1)
        assert stage.sample("skvaller_reloads_total", result="refused") == 1
        assert caplog.text.count("the settings stay as they are") == 1
        trustme.CA().cert_pem.write_to_path(str(ca))
        await soon(lambda: stage.live.registries.files == [ca])


async def test_what_did_not_change_is_not_read_again(stage: Stage) -> None:
    async with stage.watching():
        await asyncio.sleep(0.2)
    assert not stage.sample("skvaller_reloads_total", result="done")


async def test_when_it_is_asked_for_the_settings_are_read_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "POLL_S", 60.0)
    async with stage.watching():
        stage.live.reload()
        await soon(lambda: stage.sample("skvaller_reloads_total", result="done") == 1)


async def test_the_kill_switch_holds_until_the_setting_itself_changes(stage: Stage) -> None:
    stage.live.switch(on=False)
    assert not stage.live.policy.mirrors(NGINX, Tag("latest"))
    async with stage.watching():
        stage.write('log_level = "error"\n')
        await soon(lambda: stage.sample("skvaller_reloads_total", result="done") == 1)
        assert not stage.live.mirroring, "another change leaves it"
        stage.write("mirroring = false\n")
        await soon(lambda: stage.sample("skvaller_reloads_total", result="done") == 2)
        stage.write("mirroring = true\n")
        await soon(lambda: stage.live.mirroring)
    assert stage.live.policy.mirrors(NGINX, Tag("latest"))


def test_what_is_reloaded_are_settings() -> None:
    assert {setting.name for setting in fields(Settings)} >= RELOADED
