"""A second is asked when the first is slow, and nothing of the loser stays behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from mirror.hedge import HEDGE_S_MAX, HEDGE_S_MIN, OBSERVED, Patience, Race


def test_patience_is_what_nine_of_ten_answers_took() -> None:
    patience = Patience()
    for number in range(10):
        patience.note(0.1 + number / 100)
    assert patience.wait_s == pytest.approx(0.19)


def test_patience_has_bounds_and_forgets() -> None:
    patience = Patience()
    assert patience.wait_s == HEDGE_S_MAX
    for _ in range(OBSERVED):
        patience.note(60.0)
    assert patience.wait_s == HEDGE_S_MAX
    for _ in range(OBSERVED):
        patience.note(0.0)
    assert patience.wait_s == HEDGE_S_MIN


@dataclass
class Answers:
    """Each answers with its name after so many seconds."""

    after_s: dict[str, float]
    let_go: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def race(self) -> Race[str, str]:
        patience = Patience()
        patience.note(HEDGE_S_MIN)
        return Race(self._ask, self._let_go, patience)

    async def _ask(self, name: str) -> str:
        try:
            await asyncio.sleep(self.after_s[name])
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        return name

    async def _let_go(self, name: str) -> None:
        self.let_go.append(name)


async def test_one_that_answers_in_time_is_not_hedged() -> None:
    async with Answers({"a": 0.0}).race() as race:
        race.start("a")
        answered = await race.next(may_hedge=True)
        assert answered is not None
        assert answered[1].result() == "a"
        assert not race.running


async def test_the_slower_of_two_is_cancelled() -> None:
    answers = Answers({"a": 30.0, "b": 0.0})
    async with answers.race() as race:
        race.start("a")
        assert await race.next(may_hedge=True) is None
        race.start("b")
        answered = await race.next(may_hedge=True)
        assert answered is not None
        assert answered[0] == "b"
    assert answers.cancelled == ["a"]


async def test_an_answer_that_is_not_needed_is_let_go() -> None:
    answers = Answers({"a": 0.0, "b": 0.0})
    async with answers.race() as race:
        race.start("a")
        race.start("b")
        await race.next(may_hedge=True)
        await asyncio.sleep(0.05)
    assert answers.let_go == ["b"]


async def test_whoever_gives_the_race_up_leaves_nobody_running() -> None:
    answers = Answers({"a": 30.0, "b": 30.0})

    async def run() -> None:
        async with answers.race() as race:
            race.start("a")
            race.start("b")
            await race.next(may_hedge=True)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(), 0.1)
    assert sorted(answers.cancelled) == ["a", "b"]
