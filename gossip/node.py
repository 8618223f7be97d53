"""A running member: the replica on real sockets, with one timer, the epoch file, and the search for seeds."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from gossip.codec import decode, encode
from gossip.config import parse_seed
from gossip.conversation import Conversation
from gossip.counters import Counters, Gauges
from gossip.epoch_file import load_counter, save_counter
from gossip.errors import DecodeError, DuplicateNameError, UnansweredError
from gossip.membership import Visibility
from gossip.messages import QUESTION_BYTES_MAX, Answer, Question
from gossip.outputs import Conflict, Link, Publish, Reply, SaveEpoch, Send, Unlink
from gossip.replica import Replica
from gossip.resolver import Resolver
from gossip.transport import Address, Handler, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from gossip import transport
    from gossip.config import Config
    from gossip.membership import Member
    from gossip.outputs import Output

    Change = Callable[[bytes, float], list[Output]]

SEED_ADDRESSES_MAX: Final = 16
"""Addresses tried at once, chosen at random when the seeds mean more."""
SEEK_S: Final = 0.2
SEEK_S_MAX: Final = 10.0
"""A node without members asks its seeds again after so long, doubling up to the limit."""
REJOIN_S: Final = 10.0
"""A node that has members still asks a seed from time to time: so the halves of a parted cluster find each other."""
HOLDERS_MAX: Final = 64
"""As many holders of a key are named unless the caller says otherwise; it makes the cost of an answer independent of
how many there are."""


class Node:
    """One member of the cluster.

    Keys that are added before the node is entered make its epoch's base: a node that restarts with the content it had
    need not send it again. What changes while it is being entered waits until it is. All methods belong to the loop's
    thread.

    `more_seeds` is asked at each attempt to join for seeds besides those of the configuration, of the same form.
    """

    def __init__(
        self,
        config: Config,
        *,
        group_of: Callable[[bytes], bytes | None] = lambda _key: None,
        more_seeds: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.config = config
        self.counters = Counters()
        self._rng = random.Random(secrets.randbits(128))  # noqa: S311 - for spreading load, not for secrets
        self._replica = Replica(
            config,
            counter=load_counter(config.epoch_file),
            rng=self._rng,
            counters=self.counters,
            group_of=group_of,
        )
        self._curve_keys = config.secret.curve_keys() if config.secret else []
        self._seed_keys = itertools.cycle([keys.public for keys in self._curve_keys] or [b""])
        self._more_seeds = more_seeds
        self._resolver = Resolver()
        self._transport: Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._seeker: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] | None = None
        self._held_back: list[tuple[Change, bytes]] | None = None
        """Changes of this node's own elements that wait while these are put in order."""
        self._conversation = Conversation(self.counters, self._rng)

    async def __aenter__(self) -> Self:
        """Bind the sockets and begin to join. Raises `BindError` or `EpochFileError`."""
        config = self.config
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        handler = Handler(self._received, self._connected, self._disconnected, self._refused, self._unsent, self._fail)
        started = Transport(handler, self._curve_keys)
        await started.start(config.bind_address, config.publish_port, config.router_port)
        try:
            self._held_back = []
            for _ in self._replica.prepare():
                await asyncio.sleep(0)
            self._transport = started
            self._perform(self._replica.start(self._now()))
            changes, self._held_back = self._held_back, None
            for change, key in changes:
                self._change(change, key)
        except BaseException:
            self._transport = None
            await started.close()
            raise
        self._seeker = loop.create_task(self._seek())
        self._seeker.add_done_callback(self._sought)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave: tell the others, and close."""
        assert self._transport is not None
        assert self._seeker is not None
        self._seeker.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._perform(self._replica.leave(self._now()))
        closing, self._transport = self._transport, None
        await closing.close()
        if self._failure is not None and self._failure.done() and not self._failure.cancelled():
            self._failure.exception()  # Told by `run`; asyncio need not complain when nobody ran it.

    async def run(self) -> None:
        """Run until cancelled; an internal failure is raised here."""
        assert self._failure is not None, "the node is entered first"
        await asyncio.shield(self._failure)

    # This node's own elements.

    def add(self, key: bytes) -> None:
        """This node holds `key`; nothing happens when that is known. 1 to 1024 bytes, at most 65,536 keys.

        What exceeds a limit is not advertised, and counted in `Counters.refused_keys`.
        """
        self._change(self._replica.add, key)

    def remove(self, key: bytes) -> None:
        """This node does not hold `key` any more; nothing happens when it did not."""
        self._change(self._replica.remove, key)

    def holds(self, key: bytes) -> bool:
        """Whether `key` is among this node's own elements."""
        return self._replica.set.holds(key)

    # What is known.

    @property
    def me(self) -> Member:
        """This node's own record."""
        return self._replica.me

    def members(self) -> list[Member]:
        """The visible others, those ranked last at the end."""
        return self._replica.lookup.members()

    def member(self, name: str) -> Member | None:
        """A visible other, by name."""
        other = self._replica.membership.others.get(name)
        return None if other is None or other.visibility is Visibility.HIDDEN else other.member

    def ranked_last(self, name: str) -> bool:
        """Whether a member is silent, suspected, or said to be down: it may be gone, and others are better sources."""
        other = self._replica.membership.others.get(name)
        return other is not None and other.visibility is Visibility.LAST

    def holders(self, key: bytes, limit: int = HOLDERS_MAX) -> list[Member]:
        """At most `limit` of the visible members that hold `key`; without this node.

        Those of this node's zone come first, those ranked last come last. Which of very many are named is left to
        chance, so that not all ask the same ones.
        """
        return self._replica.lookup.holders(key, limit, self._rng.getrandbits(16))

    def keys_in_group(self, group: bytes) -> list[bytes]:
        """The keys of a group that any member holds, hidden ones and this node included; sorted."""
        return self._replica.set.index.keys_in_group(group)

    def groups(self) -> list[bytes]:
        """All groups that any key belongs to, in no order."""
        return self._replica.set.index.groups()

    def roster(self) -> list[tuple[Member, Visibility, int]]:
        """All members by name, this one and those that are gone included: who, how treated, how many keys it has."""
        membership, cells = self._replica.membership, self._replica.set.cells
        known = [(other.member, other.visibility) for other in membership.others.values()]
        known.append((membership.me, Visibility.NORMAL))
        return [
            (member, visibility, len(cells[member.name].sequences) if member.name in cells else 0)
            for member, visibility in sorted(known, key=lambda each: each[0].name)
        ]

    def gauges(self) -> Gauges:
        """How things stand."""
        by = dict.fromkeys(Visibility, 0)
        for other in self._replica.membership.others.values():
            by[other.visibility] += 1
        index = self._replica.set.index
        return Gauges(
            by[Visibility.NORMAL],
            by[Visibility.LAST],
            by[Visibility.HIDDEN],
            len(index),
            index.pairs,
            index.bytes_about,
            *self._replica.behind(self._now()),
        )

    # Between applications.

    async def ask(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        """What the application at a member (or here) answers to `payload`, of at most `QUESTION_BYTES_MAX` bytes.

        Raises `UnansweredError` when there is no such member, or no answer in time; it may have been asked
        nonetheless.
        """
        assert len(payload) <= QUESTION_BYTES_MAX
        if name == self.me.name:
            return self._conversation.answer(name, payload)
        other = self._replica.membership.others.get(name)
        if other is None or self._transport is None:
            raise UnansweredError(f"{name} is no member")
        with self._conversation.asking(name, payload) as (question, answered):
            self._perform([Send(self._replica.sender(), other.member, question)])
            try:
                async with asyncio.timeout(timeout_s):
                    return await answered
            except TimeoutError:
                raise UnansweredError(f"{name} did not answer within {timeout_s:g} s") from None

    def answer_with(self, answer: Callable[[str, bytes], bytes]) -> None:
        """Have questions answered: `answer` is given the name of the member that asks, and what it asks.

        A ValueError leaves a question without an answer, and is counted.
        """
        self._conversation.answer = answer

    # Driving the replica.

    def _change(self, change: Change, key: bytes) -> None:
        if self._held_back is None:
            self._perform(change(key, self._now()))
        else:
            self._held_back.append((change, key))

    def _now(self) -> float:
        # Unlike the loop's clock it goes on while the machine sleeps: who slept for days must not speak of the dead.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def _perform(self, outputs: Sequence[Output], reply: transport.Reply | None = None) -> None:
        """Do what the replica wants, in order; then set the timer."""
        sockets = self._transport
        if sockets is None:
            return
        for output in outputs:
            match output:
                case Publish(sender, message):
                    sockets.publish(self._count_out(encode(self.config.cluster, sender, message)))
                case Send(sender, to, message):
                    frames = encode(self.config.cluster, sender, message)
                    sockets.send(_router(to), self._count_out(frames))
                case Reply(sender, message):
                    if reply is not None:
                        reply(self._count_out(encode(self.config.cluster, sender, message)))
                case Link(to):
                    sockets.link(to.name, Address(to.address, to.publish_port, to.server_key))
                case Unlink(name):
                    sockets.unlink(name)
                case SaveEpoch(counter):
                    save_counter(self.config.epoch_file, counter)
                case Conflict(other):
                    if self._seeker is not None:
                        self._seeker.cancel()
                    self._fail(DuplicateNameError(f"another node of the name {other.name} runs at {other.address}"))
        self._set_timer()

    def _count_out(self, frames: list[bytes]) -> list[bytes]:
        self.counters.messages_out += 1
        self.counters.bytes_out += sum(map(len, frames))
        return frames

    def _set_timer(self) -> None:
        deadline = self._replica.deadline
        if self._timer is not None:
            if self._timer_at == deadline and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer_at = deadline  # uvloop's handle of what is due already cannot tell
        self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - self._now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._drive(self._replica.tick)

    def _received(self, frames: list[bytes], reply: transport.Reply | None) -> None:
        if self._transport is None:
            return
        self.counters.messages_in += 1
        self.counters.bytes_in += sum(map(len, frames))
        try:
            sender, message = decode(self.config.cluster, frames)
        except DecodeError as error:
            self.counters.dropped[error.reason] += 1
            return
        if isinstance(message, Question | Answer):
            self._drive(partial(self._converse, sender.name, message), reply)
        else:
            self._drive(partial(self._replica.receive, sender, message), reply)

    def _converse(self, asker: str, message: Question | Answer, _now: float) -> list[Reply]:
        return [Reply(self._replica.sender(), answer) for answer in self._conversation.receive(asker, message)]

    def _connected(self, name: str) -> None:
        # The subscription is on its way to the publisher while this dials, so nothing falls between.
        self._drive(partial(self._replica.connected, name))

    def _disconnected(self, name: str) -> None:
        self._drive(partial(self._replica.disconnected, name))

    def _drive(self, happen: Callable[[float], Sequence[Output]], reply: transport.Reply | None = None) -> None:
        """Let something happen now, and do what is wanted then; `run` raises what goes wrong."""
        try:
            self._perform(happen(self._now()), reply)
        except Exception as error:  # noqa: BLE001 - of whatever kind
            self._fail(error)

    def _refused(self) -> None:
        self.counters.refused_connections += 1

    def _unsent(self) -> None:
        self.counters.dropped["unsent"] += 1

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    # Seeds.

    async def _seek(self) -> None:
        """Ask the seeds to be let in, for ever."""
        wait_s = SEEK_S
        while True:
            seeds = await self._resolve()
            if self._replica.lookup.members():
                seeds = seeds[:1]
            for seed in seeds:
                if self._transport is not None:
                    frames = encode(self.config.cluster, *self._replica.join())
                    self._transport.send(seed, self._count_out(frames))
            if self._replica.lookup.members():
                wait_s = SEEK_S
                await asyncio.sleep(REJOIN_S * self._rng.uniform(0.8, 1.2))
            else:
                await asyncio.sleep(wait_s * self._rng.uniform(0.8, 1.2))
                wait_s = min(2 * wait_s, SEEK_S_MAX)

    async def _resolve(self) -> list[Address]:
        """What the seeds mean now, a few of them in random order, without this node itself."""
        found: dict[tuple[str, int], None] = {}
        for host, port in map(parse_seed, (*self.config.seeds, *self._more_seeds())):
            with suppress(OSError):  # includes the time-out
                found.update(((address, port), None) for address in await self._resolver.look_up(host))
        found.pop((self.config.advertise_address, self.config.router_port), None)
        places = self._rng.sample(list(found), min(len(found), SEED_ADDRESSES_MAX))
        members = {(to.address, to.router_port): _router(to) for to in self._replica.lookup.members()}
        # Which of the secrets an unknown seed listens with is found by trying one after another.
        key = next(self._seed_keys)
        return [members.get(place) or Address(*place, key) for place in places]

    def _sought(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)


def _router(member: Member) -> Address:
    return Address(member.address, member.router_port, member.server_key)
