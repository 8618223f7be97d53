"""Through whom an agent joins: what the setting `seeds` means now.

A seed is one of

- `10.0.0.7:29993`, an agent (*static*), or `skvaller.skvaller.svc:29993`, a name whose addresses are agents (*DNS*):
  these gossip looks up itself, at each attempt to join;
- `https://example.com/seeds`, a page with such seeds, separated by commas or white space (*HTTP*);
- `lease:NAME`, a Lease in the pod's namespace, whose holder is the seed (*Lease*; see `election`).

An agent asks pages and Leases while it is alone. Once it has met others, only the first `ASKERS_MAX` of all members in
the order of their names go on asking: what they find they tell the others by gossip, so the load does not grow with the
cluster. Nothing that happens to a seed, a page, the API server or DNS afterwards touches a cluster that has formed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp

from gossip.config import SEEDS_MAX
from mirror.election import RENEW_S, Election
from mirror.http_client import CLIENT_ERRORS, read_body, reason
from mirror.kubernetes import ACCOUNT, ApiError, ConflictError, KubernetesApi
from mirror.lease import LeaseObject
from mirror.settings import LEASE_SEED, PAGE_SEEDS, read_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

ASKERS_MAX: Final = 3
ASK_S: Final = RENEW_S
LEAVE_S_MAX: Final = 2.0
"""An agent that stops waits no longer for the API server."""
PAGE_S_MAX: Final = 5.0
PAGE_BYTES_MAX: Final = 1 << 16


class SeedError(Exception):
    """A page or a Lease does not tell the seeds; what it told before still counts. Says why."""


class Asked(Protocol):
    """Seeds that have to be asked for."""

    seeds: Sequence[str]
    """What it said last, as `host:port`."""

    @property
    def must(self) -> bool:
        """Whether this agent has to ask, whoever else does."""
        ...

    async def ask(self, now: float) -> float:
        """Bring `seeds` up to date; returns how long the answer is good for, in seconds. Raises `SeedError`."""
        ...

    async def leave(self) -> None:
        """The agent stops. Raises `SeedError`."""
        ...


class Bootstrap:
    """All seeds of an agent; `run` keeps those up to date that have to be asked for.

    `me` is this agent's own `host:port`. The texts are those of the setting, which has checked them; `environment` and
    `account` tell how to reach the Kubernetes API. Raises `mirror.settings.SettingsError` when a Lease cannot be
    reached from here.
    """

    def __init__(self, seeds: Sequence[str], me: str, environment: Mapping[str, str], account: Path = ACCOUNT) -> None:
        self.fixed = tuple(seed for seed in seeds if not seed.startswith((*PAGE_SEEDS, LEASE_SEED)))
        """The static ones and the names, which gossip looks up itself."""
        self._asked: dict[str, Asked] = {}
        for seed in seeds:
            if seed.startswith(PAGE_SEEDS):
                self._asked[seed] = Page(seed)
            elif seed.startswith(LEASE_SEED):
                self._asked[seed] = LeaseSeed(KubernetesApi(environment, account), seed.removeprefix(LEASE_SEED), me)
        self._trouble: dict[str, str] = {}

    def seeds(self) -> list[str]:
        """What they all said last, as `host:port`."""
        return [seed for asked in self._asked.values() for seed in asked.seeds]

    async def run(self, name: str, others: Callable[[], Sequence[str]]) -> None:
        """Ask until cancelled, and then give up what this agent holds; returns at once when there is nobody to ask.

        `name` is this agent's name, `others` gives those of the members that it has met.
        """
        try:
            while self._asked:
                stands_first = sum(other < name for other in others()) < ASKERS_MAX
                waits = [await self._ask(*each) for each in self._asked.items() if stands_first or each[1].must]
                await asyncio.sleep(min(waits, default=ASK_S))
        finally:
            with suppress(SeedError, TimeoutError):  # then it runs out
                async with asyncio.timeout(LEAVE_S_MAX):
                    for asked in self._asked.values():
                        await asked.leave()

    async def _ask(self, seed: str, asked: Asked) -> float:
        """Ask one, and tell when what it says changes; returns in how many seconds to ask again."""
        before, trouble = asked.seeds, self._trouble.pop(seed, None)
        try:
            good_s = await asked.ask(asyncio.get_running_loop().time())
        except SeedError as error:
            self._trouble[seed] = str(error)
            if self._trouble[seed] != trouble:
                log.warning("seed %s: %s; tried again every %.0f s", seed, error, ASK_S)
            return ASK_S
        if trouble is not None or asked.seeds != before:
            log.info("seed %s: now %s", seed, ", ".join(asked.seeds) or "nobody")
        return good_s


class Page:
    """A page with seeds."""

    must = False

    def __init__(self, url: str) -> None:
        self.seeds: Sequence[str] = ()
        self._url = url

    async def ask(self, _now: float) -> float:
        """Read the page. At most `SEEDS_MAX` seeds of it count."""
        try:
            timeout = aiohttp.ClientTimeout(total=PAGE_S_MAX)
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
                session.get(self._url) as response,
            ):
                if response.status != 200:
                    raise SeedError(f"the server answers {response.status}")
                text = (await read_body(response, PAGE_BYTES_MAX)).decode()
            self.seeds = read_addresses(text)[:SEEDS_MAX]
        except CLIENT_ERRORS as error:
            raise SeedError(reason(error)) from error
        return ASK_S

    async def leave(self) -> None:
        """A page does not mind."""


class LeaseSeed:
    """A Lease, for which this agent is a candidate."""

    def __init__(self, api: KubernetesApi, name: str, me: str) -> None:
        self.seeds: Sequence[str] = ()
        self._lease = LeaseObject(api, name)
        self._me = me
        self._election = Election(me)

    @property
    def must(self) -> bool:
        """Whether this agent holds it, and so has to renew it."""
        return self._election.mine

    async def ask(self, now: float) -> float:
        """Look at the Lease, and take or renew it when it is this agent's turn."""
        try:
            if self._election.observe(await self._lease.read(), now):
                try:
                    self._election.observe(await self._lease.write(self._me), now)
                except ConflictError:  # another was faster: that one is the seed
                    self._election.observe(await self._lease.read(), now)
        except ApiError as error:
            raise SeedError(str(error)) from error
        self.seeds = _addresses(self._election.holder)
        return self._election.wait_s(now)

    async def leave(self) -> None:
        """Give the Lease up, so that the next one need not wait until it runs out."""
        try:
            if self._election.mine and (await self._lease.read()).holder == self._me:
                await self._lease.write("")
        except ApiError as error:
            raise SeedError(str(error)) from error


def _addresses(holder: str) -> Sequence[str]:
    """The holder, if it is an agent's address: anybody who may write the Lease can write anything."""
    try:
        return read_addresses(holder)
    except ValueError:
        return ()
