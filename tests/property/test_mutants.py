"""Are the laws of the replicated set sharp? Small mistakes, one at a time, must each break a law.

Every mutant is a copy of a module with one edit. The examples of `tests.unit.gossip.test_or_set` and the laws of
`tests.property.test_or_set` run against it in a process of their own. An edit that no longer fits its source fails as
such, so a mutant cannot quietly become a copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 90
NO_SHRINKING = """
from hypothesis import Phase, settings
settings.register_profile("quick", phases=[Phase.generate], database=None, deadline=None)
settings.load_profile("quick")
"""
"""A law that is broken is enough to know; the smallest example of it would take long to find."""


class Mutant(NamedTuple):
    """What is wrong with it, and the edit."""

    fault: str
    before: str
    after: str


MUTANTS = (
    Mutant(
        "removals are not applied",
        "cell.delete(cell.find(delta.removals))",
        "cell.delete(cell.find(()))",
    ),
    Mutant(
        "elements that were there already are added again",
        "fresh = adds[bisect_right(adds, cell.version, key=itemgetter(0)) :]",
        "fresh = adds",
    ),
    Mutant(
        "a gap of one is not seen",
        "if delta.epoch != epoch or delta.after > version:",
        "if delta.epoch != epoch or delta.after > version + 1:",
    ),
    Mutant(
        "a removal is not numbered",
        "        cell.version += 1\n        self._own_bytes -= len(key)",
        "        self._own_bytes -= len(key)",
    ),
    Mutant(
        "what was born and died within an interval is not among its removals",
        "[dot for sequence, dot in self._log if dot and sequence > after]",
        "[dot for sequence, dot in self._log if 0 < dot <= after and sequence > after]",
    ),
    Mutant(
        "a snapshot is merged into what was there",
        "        cell = Cell(self.index, snapshot.epoch)\n",
        "        cell = Cell(self.index, snapshot.epoch)\n"
        "        for number, key in self.elements(snapshot.owner):\n"
        "            cell.extend((number,), (key,))\n",
    ),
    Mutant(
        "the epoch is ignored when the difference is made",
        "if epoch != cell.epoch or after == 0:",
        "if after == 0:",
    ),
    Mutant(
        "the epoch is ignored when a delta is applied",
        "if delta.epoch != epoch or delta.after > version:",
        "if delta.after > version:",
    ),
    Mutant(
        "the live numbers kill nobody",
        "cell = cell.only(living)",
        "cell = cell.only(range(len(cell.sequences)))",
    ),
    Mutant(
        "what is held of an operation after the interval's start is taken for dead",
        "living += cell.find(sequence for sequence, _ in delta.adds)",
        "living += ()",
    ),
    Mutant(
        "a cell that was replaced is not emptied",
        "        if before is not cell:\n            self._retire(before)",
        "        del before",
    ),
    Mutant(
        "the log reaches further back than it does",
        "if owner == self.me and self._log and after >= self._log[0][0] - 1:",
        "if owner == self.me and self._log:",
    ),
    Mutant(
        "an older epoch replaces a newer one",
        "if (delta.epoch, delta.version) <= (epoch, version):",
        "if delta.epoch == epoch and delta.version <= version:",
    ),
    Mutant(
        "a rebase does not compare the keys",
        "if not same or base.hash != head.base_hash:",
        "if not same:",
    ),
)


def survivor(mutant: Mutant, where: Path) -> str | None:
    """Run the laws against a mutant; what is to be said if it lives."""
    source = (ROOT / "gossip" / "or_set.py").read_text()
    if source.count(mutant.before) != 1:
        return f"the edit does not fit: {mutant.fault}"
    where.mkdir()
    (where / "no_shrinking.py").write_text(NO_SHRINKING)
    for entry in (ROOT / "gossip").glob("*.py"):
        (where / "gossip").mkdir(exist_ok=True)
        (where / "gossip" / entry.name).write_text(entry.read_text())
    (where / "gossip" / "or_set.py").write_text(source.replace(mutant.before, mutant.after))
    (where / "tests").symlink_to(ROOT / "tests")
    laws = [str(ROOT / "tests" / kind / "test_or_set.py") for kind in ("unit/gossip", "property")]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no_shrinking", *laws]
    command += ["-c", os.devnull, "--rootdir", str(where), "--import-mode=importlib"]
    environment = {**os.environ, "PYTHONPATH": str(where)}
    run = subprocess.run(command, cwd=where, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False)
    return None if run.returncode == 1 else f"lives (pytest said {run.returncode}): {mutant.fault}"


@pytest.mark.timeout(400)
def test_every_mutant_breaks_a_law(tmp_path: Path) -> None:
    jobs = [(mutant, tmp_path / str(number)) for number, mutant in enumerate(MUTANTS)]
    with ThreadPoolExecutor(2) as pool:
        survivors = [said for said in pool.map(lambda job: survivor(*job), jobs) if said]
    assert not survivors


def test_the_original_breaks_no_law(tmp_path: Path) -> None:
    """The counterpart: it is the edit that breaks the law."""
    said = survivor(Mutant("nothing", "class ORSet:", "class ORSet:"), tmp_path / "original")
    assert said == "lives (pytest said 0): nothing"
