"""What nodes tell each other of tags, and of the kill switch: knowledge that is nobody's content.

Each element is said by whoever knows it first-hand (`mirror.elements`), and withdrawn when it is of no use any more.
The state of the switch is taken up by everybody, so that it does not depend on who threw it.

Clocks of nodes differ. What was verified is compared with this node's clock, within `SKEW_S_MAX`; an invalidation and
a switch are dated after everything that they are to outrank.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mirror.elements import SKEW_S_MAX, SWITCH_GROUP, Known, SwitchElement, TagElement, Word, tag_group
from mirror.oci import InvalidReferenceError, Tag

if TYPE_CHECKING:
    from gossip import Node
    from mirror.oci import Digest, Repository

VERIFIED_S_MAX: Final = 24 * 3600
"""How long a verified tag counts for anything, and how long an invalidation is kept: one that nobody renewed must not
outlive what stores know."""
VERIFIED_MAX: Final = 4096
"""Verified tags and invalidations of this node; the oldest go first."""
TIDY_INTERVAL_S: Final = 10.0


class Hearsay:
    """What this node hears from the others, and tells them; `now` and `at` are in seconds of Unix time."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._said: dict[tuple[Word, bytes], TagElement] = {}  # the oldest comes first
        self._switch: SwitchElement | None = None

    def known(self, repository: Repository, tag: Tag, now: float) -> Known:
        """What this node and the others know of a tag."""
        return self._known(tag_group(repository, tag), now)

    def tags(self, repository: Repository, now: float) -> list[Tag]:
        """The tags of a repository that this node and the others know a meaning of, in no order."""
        prefix = f"{repository}:".encode()
        tags = []
        for group in self._node.groups():
            if group.startswith(prefix) and self._known(group, now).last is not None:
                with suppress(InvalidReferenceError, UnicodeDecodeError):
                    tags.append(Tag.parse(group.removeprefix(prefix).decode()))
        return tags

    def verified(self, repository: Repository, tag: Tag, digest: Digest, at: float, old_s: float) -> None:
        """The registry said then what a tag means: let all nodes know, unless one said so in the `old_s` before.

        Each element costs all nodes a message and some memory, so what another node said is enough.
        """
        group = tag_group(repository, tag)
        own = self._said.get((Word.VERIFIED, group))
        if own is not None and own.at > at:  # an answer from another node comes with its age
            return
        if self.known(repository, tag, at).fresh(at, old_s) != digest:
            self._say(TagElement(Word.VERIFIED, int(at), digest, group))

    def invalidate(self, repository: Repository, tag: Tag, now: float) -> None:
        """Let no node believe any more what was verified of a tag until now, be it by a clock that is ahead."""
        at = max(int(now), self.known(repository, tag, now).verified_at)
        self._say(TagElement(Word.INVALIDATED, at, None, tag_group(repository, tag)))

    @property
    def mirroring(self) -> bool:
        """Whether anything is mirrored, by the kill switch of all nodes."""
        latest = self._latest_switch()
        return latest is None or latest.mirroring

    def switch(self, *, on: bool, now: float) -> None:
        """Throw the kill switch of all nodes."""
        latest = self._latest_switch()
        self._take_up(SwitchElement(max(int(now), latest.at + 1 if latest else 0), on))

    async def keep_tidy(self) -> None:
        """Withdraw what this node said of tags and is of no use any more, for as long as the agent runs."""
        while True:
            await asyncio.sleep(TIDY_INTERVAL_S)
            self.tidy(time.time())

    def tidy(self, now: float) -> None:
        """Withdraw what is a day old, and what another node knows better; take up the state of the switch.

        Were an outdated meaning left, it would be the last known when the one that knows better goes away.
        """
        latest_switch = self._latest_switch()
        if latest_switch is not None and latest_switch != self._switch:
            self._take_up(latest_switch)
        for element in list(self._said.values()):
            latest = self._known(element.group, now)
            outdated = element.word is Word.VERIFIED and latest.verified != element.digest
            if outdated or element.at <= now - VERIFIED_S_MAX:
                self._unsay(element)

    def _known(self, group: bytes, now: float) -> Known:
        latest: dict[Word, tuple[int, Digest | None]] = {}
        for key in self._node.keys_in_group(group):
            element = TagElement.parse(key)
            if element is None:
                continue
            if element.word is not Word.STORED and not now - VERIFIED_S_MAX < element.at <= now + SKEW_S_MAX:
                continue
            latest[element.word] = max(latest.get(element.word, (-1, None)), (element.at, element.digest))
        verified_at, verified = latest.get(Word.VERIFIED, (0, None))
        return Known(
            verified,
            verified_at,
            latest.get(Word.STORED, (0, None))[1],
            latest.get(Word.INVALIDATED, (0, None))[0],
        )

    def _latest_switch(self) -> SwitchElement | None:
        states = (SwitchElement.parse(key) for key in self._node.keys_in_group(SWITCH_GROUP))
        return max((state for state in states if state), default=None)

    def _take_up(self, state: SwitchElement) -> None:
        if self._switch is not None:
            self._node.remove(self._switch.key)
        self._switch = state
        self._node.add(state.key)

    def _say(self, element: TagElement) -> None:
        if before := self._said.get((element.word, element.group)):
            self._unsay(before)
        self._said[element.word, element.group] = element
        self._node.add(element.key)
        if len(self._said) > VERIFIED_MAX:
            self._unsay(next(iter(self._said.values())))

    def _unsay(self, element: TagElement) -> None:
        del self._said[element.word, element.group]
        self._node.remove(element.key)
