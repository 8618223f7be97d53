"""Questions that the application at one member asks the application at another; gossip only carries them.

A question has one answer, at once, or none: who asks sets a time limit, and asks another member.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gossip.messages import Answer, Question

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from gossip.counters import Counters


class Conversation:
    """The open questions of a node, and its application's `answer` to those of others: who asks what."""

    def __init__(self, counters: Counters, rng: random.Random) -> None:
        self._counters = counters
        self._numbers = itertools.count(rng.getrandbits(62))
        self._open: dict[int, tuple[str, asyncio.Future[bytes]]] = {}
        self.answer: Callable[[str, bytes], bytes] = _no_answer

    @contextmanager
    def asking(self, name: str, payload: bytes) -> Iterator[tuple[Question, asyncio.Future[bytes]]]:
        """The question to send to the member `name`, and its answer, for which is listened inside the context."""
        number = next(self._numbers)
        answered = asyncio.get_running_loop().create_future()
        self._open[number] = name, answered
        try:
            yield Question(number, payload), answered
        finally:
            del self._open[number]

    def receive(self, sender: str, message: Question | Answer) -> list[Answer]:
        """What the member `sender` says; returns what to reply."""
        if isinstance(message, Question):
            try:
                return [Answer(message.number, self.answer(sender, message.payload))]
            except ValueError:
                self._counters.dropped["question"] += 1
                return []
        name, answered = self._open.get(message.number, ("", None))
        if answered is None or name != sender or answered.done():
            self._counters.dropped["answer"] += 1
        else:
            answered.set_result(message.payload)
        return []


def _no_answer(_name: str, _payload: bytes) -> bytes:
    raise ValueError("no application answers here")
