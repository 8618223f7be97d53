"""What is fetched for the tests is kept whole or not at all, and fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.cache import FetchError, cached, place, run
from tests.lab.fetch_containerd import PROGRAMS, find


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_what_is_there_is_not_made_again() -> None:
    made: list[Path] = []

    def make(work: Path) -> Path:
        made.append(work)
        (work / "bin").mkdir()
        (work / "bin" / "program").touch()
        return work / "bin"

    assert cached("some/thing", make) == cached("some/thing", make) == place("some/thing")
    assert [file.name for file in place("some/thing").iterdir()] == ["program"]
    assert len(made) == 1
    assert not made[0].exists()


def test_what_could_not_be_made_leaves_nothing_behind() -> None:
    def fail(work: Path) -> Path:
        (work / "half").mkdir()
        run("false")
        return work / "half"

    with pytest.raises(FetchError, match="false: exit status 1"):
        cached("some/thing", fail)
    assert list(place("some").iterdir()) == []


@pytest.mark.parametrize("name", ["newest", "/nowhere"])
def test_a_containerd_that_is_not_there_is_named_with_what_to_do(name: str) -> None:
    with pytest.raises(FetchError, match=r"fetch_containerd newest|name one of"):
        find(name)


def test_a_directory_of_programs_is_taken_as_it_is(tmp_path: Path) -> None:
    for program in PROGRAMS:
        (tmp_path / program).touch()
    assert find(str(tmp_path)) == tmp_path
