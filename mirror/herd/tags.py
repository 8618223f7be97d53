"""What a tag means, asked of the registry once for all nodes of a zone that want to know at the same moment.

One node leads, as with content, and the others wait for what it is told for as long as it renews its lease; a few at a
time give up after `PATIENCE_S`. A refusal is for that one client: then each asks for itself, at once.

The answer is told with its age. How old it may be the tag's policy says (`leases.DONE_S` at most); whoever asks later
asks the registry anew. What was said before a tag was invalidated is not told to who knows of that.

Those who come with credentials share among themselves, whatever these are, and those without likewise. They are not
compared: a token is of one node alone, so each would ask for itself, and what stands for a password must not reach
other members. So who comes with wrong ones may be told what the registry told another, as the policy of an open
registry has it; of a protected one nothing is shared (`mirror.tags`).
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson

from mirror.errors import OverQuotaError, RefusedError, UnavailableError
from mirror.herd.leases import PATIENCE_S
from mirror.herd.quest import HOLD_S
from mirror.herd.source import pause_s
from mirror.herd.words import Claim, Closed, End, Follow, Given, Lead, Scope, Small, Wait
from mirror.oci import Descriptor, Digest, InvalidDigestError
from mirror.tags import Meaning

if TYPE_CHECKING:
    import random

    from mirror.herd.claims import Claims
    from mirror.source import Request, Source


class SharedTags:
    """The registries, where they are asked for tags together; see `mirror.tags.Together`."""

    def __init__(self, upstream: Source, claims: Claims, rng: random.Random) -> None:
        self._upstream = upstream
        self._claims = claims
        self._rng = rng

    async def meaning(self, request: Request, age_max_s: float, invalidated_at: int) -> Meaning:
        """What the registry says, or said to another node. Raises `SourceError`."""
        loop = asyncio.get_running_loop()
        name = _name(request, invalidated_at)
        begun_at = loop.time()
        while (waited_s := loop.time() - begun_at) < HOLD_S:
            # It is left out that a client is known: after a refusal those that are would lead one after the other.
            match await self._claims.claim(Claim(Scope.ZONE, name, waited_s=waited_s, age_max_s=age_max_s)):
                case Given(small) if small.age_s <= age_max_s:
                    if meaning := _read(small):
                        return meaning
                    break
                case Lead(escape=False):
                    try:
                        return Meaning(await self._lead(request, name))
                    except UnavailableError as error:
                        if not error.retry_s or loop.time() - begun_at + error.retry_s >= PATIENCE_S:
                            raise
                        rest_s = error.retry_s
                case Follow():
                    rest_s = pause_s(waited_s, self._rng)
                case Wait(seconds):
                    rest_s = min(seconds, HOLD_S) * self._rng.uniform(0.9, 1.1)
                case Closed(rest_s):
                    if waited_s + rest_s >= PATIENCE_S:
                        raise UnavailableError(f"{request.repository.registry} is to be left alone for {rest_s:.0f} s")
                case _:
                    break
            await asyncio.sleep(rest_s)
        return Meaning(await self._upstream.resolve(request))

    async def _lead(self, request: Request, name: str) -> Descriptor:
        lease = self._claims.hold(Scope.ZONE, name, 0)
        try:
            descriptor = await self._upstream.resolve(request)
        except RefusedError:
            lease.end(End.REFUSED)
            raise
        except UnavailableError as error:
            lease.end(End.CLOSED, retry_s=error.retry_s, registry=isinstance(error, OverQuotaError))
            raise
        except BaseException:
            lease.end(End.LOST)
            raise
        lease.end(End.DONE, Small(descriptor.media_type, _write(descriptor)))
        return descriptor


def _name(request: Request, invalidated_at: int) -> str:
    """Stands for the question: who accepts other media types may be told of another manifest."""
    accept = blake2b(request.accept.encode(), digest_size=8).hexdigest()
    who = "anybody" if request.authorization is None else "somebody"
    return f"{request.repository}:{request.reference} {accept} {who} {invalidated_at}"


def _write(descriptor: Descriptor) -> bytes:
    return orjson.dumps([str(descriptor.digest), descriptor.size])


def _read(small: Small) -> Meaning | None:
    """None when a member sent nonsense."""
    try:
        digest, size = orjson.loads(small.data)
        if not (size is None or type(size) is int):
            return None
        return Meaning(Descriptor(small.media_type, Digest.parse(digest), size), small.age_s)
    except (ValueError, TypeError, AttributeError, InvalidDigestError):
        return None
