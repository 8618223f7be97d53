"""A coordinator under any sequence of claims, renewals, releases and deaths: what it promises whatever happens."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mirror.herd.leases import (
    AGAIN_S,
    DONE_S,
    DOUBTED_S,
    ESCAPES_S,
    GONE_S,
    PATIENCE_S,
    RENEW_S,
    RENEWED_S,
    STARVED_S,
    STRANDED_S,
    Leases,
)
from mirror.herd.words import (
    Claim,
    Closed,
    End,
    Follow,
    Given,
    Lead,
    Noted,
    Probe,
    Release,
    Renewal,
    Scope,
    Small,
    Verdict,
    Wait,
)

OBJECT = "registry.test sha256:0"
NAMES = ("ann", "bob", "cyd", "dan", "eve")
members = st.sampled_from(NAMES)
several = st.lists(members, max_size=3, unique=True).map(tuple)
waited = st.sampled_from([0.0, 1.0, STRANDED_S, PATIENCE_S - 1, PATIENCE_S, PATIENCE_S + 3])


class Coordinator(RuleBasedStateMachine):
    """One object of a coordinator, beside the least that must be known to judge what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.gone: set[str] = set()
        self.leases = Leases(lambda name: name not in self.gone, lambda: False)
        self.leader: str | None = None  # who was given the lease last, and did not give it back
        self.offset = 0  # how far that one was, as it said last
        self.heard_at = 0.0
        self.begun_at = 0.0
        self.begun_with = 0
        self.passed_at = float("inf")
        self.barren = False  # somebody said that it has nothing
        self.doubted_at: float | None = None
        self.done_at: float | None = None
        self.small_at: float | None = None
        self.former: tuple[str, int, float] | None = None  # whose lease was passed on, how far it was, when last heard

    @rule(seconds=st.sampled_from([0.01, 0.1, RENEW_S, 1.0, RENEWED_S + 0.1, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=members)
    def die_or_return(self, name: str) -> None:
        self.gone ^= {name}

    @rule(
        name=members,
        offset=st.integers(0, 3),
        lost=several,
        absent=several,
        known=st.booleans(),
        waited_s=waited,
        second=st.booleans(),
        barren=several,
    )
    def claim(
        self,
        name: str,
        offset: int,
        lost: tuple[str, ...],
        absent: tuple[str, ...],
        known: bool,
        waited_s: float,
        second: bool,
        barren: tuple[str, ...],
    ) -> None:
        lost = tuple(other for other in lost if other != name)
        claim = Claim(Scope.ZONE, OBJECT, offset, lost, absent, known, waited_s, second, barren=barren)
        self.forget_what_is_old()
        if self.leader not in (None, name) and self.small_at is None:
            self.barren |= self.leader in barren
            if self.leader in absent and offset < self.offset:
                self.passed_at = min(self.passed_at, self.now)
            if self.leader in lost and self.doubted_at is None:
                self.doubted_at = self.now
        self.judge(name, claim, self.leases.answer(name, claim, self.now))

    @rule(name=members, offset=st.integers(0, 3))
    def take(self, name: str, offset: int) -> None:
        """It has first bytes in hand, and may take them unless another has some already."""
        self.forget_what_is_old()
        verdict = self.leases.answer(name, Claim(Scope.ZONE, OBJECT, offset, got=True), self.now)
        if isinstance(verdict, Given):
            return
        if self.leader not in (None, name) and not self.has_nothing() and not self.is_over():
            assert verdict == Follow(str(self.leader))
            return
        assert verdict == Lead()
        if name != self.leader or self.done_at is not None:
            self.begin(name, offset)
            self.former = None
        self.heard_at = self.now
        if offset + 1 > self.offset:
            self.offset, self.doubted_at = offset + 1, None

    def forget_what_is_old(self) -> None:
        """A small object that is too old to be given is to be fetched anew."""
        if self.small_at is not None and self.now - self.small_at > DONE_S:
            self.leader = self.small_at = self.done_at = self.doubted_at = None

    def judge(self, name: str, claim: Claim, verdict: Verdict) -> None:
        match verdict:
            case Follow(leader):
                assert leader not in (name, *claim.lost)
                assert leader == self.leader
                assert self.leader not in self.gone or self.now - self.heard_at <= GONE_S
            case Wait(seconds):
                assert 0 <= seconds < PATIENCE_S
            case Lead(escape=True):
                assert claim.waited_s >= STRANDED_S
            case Lead():
                assert self.leader in (None, name) or self.is_over(), f"{name} leads beside {self.leader}"
                if self.leader not in (None, name) and self.done_at is None:
                    self.former = (str(self.leader), max(0, self.offset), self.heard_at)
                    self.former = self.former if self.passed_at > self.now else None
                asks = self.leader == name and self.done_at is None and claim.offset >= self.offset
                self.heard_at = self.now
                if not asks or self.is_barren():
                    self.begin(name, claim.offset)
                elif claim.offset > self.offset:
                    self.offset, self.doubted_at = claim.offset, None
            case Given(small):
                assert self.small_at is not None
                assert small.age_s == self.now - self.small_at <= DONE_S
            case Probe() | Closed():
                assert self.leader is None or self.is_over()
            case Noted():
                raise AssertionError("that is no answer to a claim")

    def begin(self, name: str, offset: int) -> None:
        self.leader, self.begun_at, self.heard_at = name, self.now, self.now
        self.offset = self.begun_with = offset
        self.barren, self.doubted_at, self.done_at = False, None, None
        self.passed_at = float("inf")

    def is_barren(self) -> bool:
        """Whether the leader still has nothing, of which that was said, and has had its time."""
        since = self.begun_at if self.barren and self.has_nothing() else self.passed_at
        return self.done_at is None and self.now - since >= STARVED_S

    def has_nothing(self) -> bool:
        """Whether nothing came since the lease was given."""
        return self.offset <= self.begun_with and self.done_at is None

    def is_over(self) -> bool:
        """Whether the lease given last may be given to another."""
        unheard_s = self.now - self.heard_at
        if (self.leader in self.gone and unheard_s > GONE_S) or (self.done_at is None and unheard_s > RENEWED_S):
            return True
        if self.done_at is not None:
            return self.doubted_at is not None or self.now - self.done_at > DONE_S
        return self.is_barren() or (self.doubted_at is not None and self.now - self.doubted_at > DOUBTED_S)

    def formerly(self, name: str) -> int | None:
        """How far this member was when its lease was passed on, if it is heard of still."""
        if self.former is None or self.former[0] != name or self.now - self.former[2] > RENEWED_S:
            return None
        return self.former[1]

    def comes_back(self, name: str) -> bool:
        """Whether this member leads again: its successor has nothing."""
        if self.leader is None or not self.has_nothing():
            return False
        self.leader, self.heard_at, self.doubted_at, self.former = name, self.now, None, None
        self.offset = self.begun_with = -1
        return True

    @rule(name=members, offset=st.integers(0, 3))
    def renew(self, name: str, offset: int) -> None:
        self.forget_what_is_old()
        assert self.leases.answer(name, Renewal(Scope.ZONE, OBJECT, offset), self.now) == Noted()
        former = self.formerly(name)
        if former is not None and name != self.leader:
            self.former = name, max(former, offset), self.now
            if offset <= former or not self.comes_back(name):
                return
        elif self.leader is None or (name != self.leader and self.is_over()):
            self.begin(name, offset)
        if name == self.leader:
            self.heard_at = self.now
            if offset > self.offset:
                self.offset, self.doubted_at = offset, None

    @rule(name=members, end=st.sampled_from(End), retry_s=st.sampled_from([0.0, 3.0, 60.0]), small=st.booleans())
    def release(self, name: str, end: End, retry_s: float, small: bool) -> None:
        self.forget_what_is_old()
        body = Small("text/plain", b"x") if small and end is End.DONE else None
        assert self.leases.answer(name, Release(Scope.ZONE, OBJECT, end, retry_s, body), self.now) == Noted()
        if self.formerly(name) is not None:
            if end is End.DONE:
                self.comes_back(name)
            self.former = None
        if name == self.leader and end is End.DONE:
            self.done_at, self.doubted_at = self.now, None
            self.small_at = self.now if body else None
        elif name == self.leader:
            self.leader = self.small_at = self.done_at = self.doubted_at = None

    @rule(lost=st.booleans(), renewing=st.booleans())
    def somebody_new_is_served_in_time(self, lost: bool, renewing: bool) -> None:
        """It repeats its claim as it is told, and cannot reach whom it is to follow, if `lost`."""
        began, unreachable = self.now, set[str]()
        while True:
            waited_s = self.now - began
            assert waited_s <= PATIENCE_S + ESCAPES_S + 2 * AGAIN_S, "it waits for ever"
            claim = Claim(Scope.ZONE, OBJECT, lost=tuple(sorted(unreachable)), known=True, waited_s=waited_s)
            self.forget_what_is_old()
            if self.leader in unreachable and self.small_at is None and self.doubted_at is None:
                self.doubted_at = self.now
            verdict = self.leases.answer("new", claim, self.now)
            self.judge("new", claim, verdict)
            match verdict:
                case Wait(seconds):
                    self.now += seconds
                case Follow(leader) if lost:
                    unreachable.add(leader)
                    self.now += 0.1
                case _:
                    break
            if renewing and self.leader not in (None, "new") and self.done_at is None:
                self.renew(str(self.leader), 0)
        if self.leader == "new":
            self.release("new", End.LOST, 0.0, small=False)

    @invariant()
    def what_is_remembered_is_bounded(self) -> None:
        assert len(self.leases) <= 1


TestCoordinator = Coordinator.TestCase
TestCoordinator.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
