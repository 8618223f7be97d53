"""Claims for what a client is about to ask for: those for the objects of one manifest go out together.

A claim's answer is there, or on its way, when the client comes, so the lease adds nothing to the objects that it asks
for first. A lease for which no client comes within `EXPECTED_S` is given back: others follow whoever has it, and would
wait for a leader that has not begun.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Final

from mirror.herd.words import End, Lead, Release, Wait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.herd.claims import Claims
    from mirror.herd.words import Claim, Scope, Verdict

EXPECTED_S: Final = 1.0
"""A runtime asks for its first objects right after the manifest; the others of a large image may take minutes."""
EXPECTED_MAX: Final = 32
"""Claims of one manifest. Runtimes ask for a few objects at a time, so those behind would be late anyway."""


class Expected:
    """What this node claimed before a client asked for it."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._verdicts: dict[tuple[Scope, str], asyncio.Future[Verdict]] = {}

    def expect(self, claims: Iterable[Claim]) -> None:
        """Claim these at once, and keep the verdicts for a moment."""
        for claim in islice(claims, EXPECTED_MAX):
            key = claim.scope, claim.object
            if key not in self._verdicts:
                self._verdicts[key] = asyncio.get_running_loop().create_future()
                self._claims.spawn(self._keep(claim, self._verdicts[key]))

    async def claim(self, claim: Claim) -> Verdict:
        """As `Claims.claim`; what was expected is not asked again."""
        key = claim.scope, claim.object
        if expected := self._verdicts.get(key):
            verdict = await asyncio.shield(expected)
            if self._verdicts.pop(key, None) is not None and not isinstance(verdict, Wait):
                return verdict
        return await self._claims.claim(claim)

    async def _keep(self, claim: Claim, told: asyncio.Future[Verdict]) -> None:
        verdict: Verdict = Wait(0)
        try:
            verdict = await self._claims.claim(claim)
        finally:
            told.set_result(verdict)
        await asyncio.sleep(EXPECTED_S)
        key = claim.scope, claim.object
        if self._verdicts.get(key) is told:
            del self._verdicts[key]
            if isinstance(verdict, Lead):
                self._claims.release(Release(claim.scope, claim.object, End.LOST))
