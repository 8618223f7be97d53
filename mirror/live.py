"""The settings in force: what can be changed while the agent runs is, and nothing that is under way is dropped.

The configuration file, containerd's hosts.toml files and the certificates that either names are looked at every
`POLL_S`, and read again when they changed; SIGHUP reads them at once. (A look costs some system calls. It also sees
what notifications would not: a ConfigMap's files change by a link in another directory.) What cannot be read is told,
changes nothing, and is tried again at each look.

`RELOADED` names the settings that change. The others need a restart, and the log says so. The kill switch is one of
them; it can also be thrown by hand (`mirror.control`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final, Protocol

from mirror.policy import Policy
from mirror.registries import Registries
from mirror.settings import Settings, SettingsError
from mirror.takeover import host_files, take_over

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mirror.registries import Taken

POLL_S: Final = 2.0
"""Less sees a change sooner, at some system calls a second more."""

RELOADED: Final = frozenset({"mirroring", "registries", "registries_dir", "log_level"})

log = logging.getLogger(__name__)


class LiveObserver(Protocol):
    """Is told what became of the settings, for metrics."""

    def reloaded(self, *, good: bool) -> None:
        """The settings were read again."""
        ...


class LiveSettings:
    """`settings` at first, and then what `load` gives (it raises `SettingsError`). `file` is where they come from.

    Making one reads the hosts.toml files, and blocks while it does.
    """

    def __init__(
        self, settings: Settings, load: Callable[[], Settings], file: Path | None, observer: LiveObserver
    ) -> None:
        self._settings = settings
        self._load = load
        self._file = file
        self._observer = observer
        self._wanted = asyncio.Event()
        self._refusal = ""
        """Why what the files say is not in force."""
        self._mirroring = settings.mirroring
        self._policy = Policy()
        self.registries = Registries({})
        self._apply(settings, _taken(settings))

    @property
    def policy(self) -> Policy:
        """The rules in force."""
        return self._policy

    @property
    def mirroring(self) -> bool:
        """Whether anything is mirrored, as far as this agent's own kill switch goes."""
        return self._mirroring

    def switch(self, *, on: bool) -> None:
        """Throw the kill switch, until it is thrown again or the setting changes."""
        if on != self._mirroring:
            log.warning("mirroring is %s", "on" if on else "off: every pull is answered with 404")
        self._mirroring = on
        self._policy = replace(self._policy, mirroring=on)

    def reload(self) -> None:
        """Read the settings again, soon."""
        self._wanted.set()

    async def watch(self) -> None:
        """Keep to what the files say, for as long as the agent runs."""
        seen = await asyncio.to_thread(self._signature)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), POLL_S)
            now = await asyncio.to_thread(self._signature)
            if self._wanted.is_set() or now != seen:
                self._wanted.clear()
                # What changes while this is read is read again at the next look, and so are files that are new to us.
                seen = now
                await self._read_again()
            elif self._refusal:
                # It can be for a file that only the refused settings name: that one is not among those looked at.
                await self._read_again(told=self._refusal)

    async def _read_again(self, told: str = "") -> None:
        """Put in force what the files say; a refusal that was `told` already is not told again."""
        try:
            settings = await asyncio.to_thread(self._load)
        except SettingsError as error:
            self._refusal = str(error)
            if self._refusal != told:
                self._observer.reloaded(good=False)
                log.error("the settings stay as they are: %s", error)
            return
        self._refusal = ""
        taken = await asyncio.to_thread(_taken, settings)
        for setting in fields(Settings):
            changed = getattr(settings, setting.name) != getattr(self._settings, setting.name)
            if changed and setting.name not in RELOADED:
                log.warning("%s has changed: that needs a restart", setting.name)
        if settings.mirroring != self._settings.mirroring:
            self._mirroring = settings.mirroring
        self._apply(settings, taken)
        self._observer.reloaded(good=True)
        log.info("the settings were read again")

    def _apply(self, settings: Settings, taken: Mapping[str, Taken]) -> None:
        self._settings = settings
        self._policy = Policy({name: each.policy for name, each in settings.registries.items()})
        places = {name: each.endpoints for name, each in settings.registries.items() if each.endpoints}
        self.registries.replace(places, taken, self._policy.is_protected)
        logging.getLogger().setLevel(settings.log_level.upper())
        self.switch(on=self._mirroring)

    def _signature(self) -> frozenset[tuple[Path, int, int]]:
        """What tells whether a file changed. Blocks."""
        files = [self._file] if self._file else []
        files += [*host_files(self._settings.registries_dir), *self.registries.files]
        states = set()
        for file in files:
            with suppress(OSError):
                status = file.stat()
                states.add((file, status.st_mtime_ns, status.st_ino))
        return frozenset(states)


def _taken(settings: Settings) -> Mapping[str, Taken]:
    return take_over(settings.registries_dir, settings.client_port)
