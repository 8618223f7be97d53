"""Scenarios played: by the product's replicas, and by the reduced model, which must come to the same."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gossip.planning import Death, Partition, Pause, Report, Run, Scenario
from gossip.planning.full import FullRun
from gossip.planning.reduced import ReducedRun

ROOT = Path(__file__).parent.parent.parent
SMALL = Scenario(
    nodes=40,
    zones=2,
    loss=0.01,
    rollout_at_s=5.0,
    deaths=(Death(12.0, 1), Death(14.0, 2, silently=True)),
    pauses=(Pause(30.0, 1, 15.0),),
    partitions=(Partition(60.0, 30.0, 0.5),),
    stalls_per_hour=60.0,
)
TOLERANCE = 0.2
"""How far the reduced model may be from the full one, as a share of the figure."""
TOLERANCE_S = 1.0
"""And when something is hidden, which depends on when it was last heard of."""


def played(run: Run) -> Report:
    for _ in run.steps():
        pass
    return run.report()


@pytest.fixture(scope="module")
def small() -> Report:
    return played(FullRun(SMALL))


def test_a_scenario_is_played_to_its_end_and_nothing_is_lost(small: Report) -> None:
    assert small.complete
    assert [part.when for part in small.propagation] == ["quiet", "roll-out", "partition", "later"]
    assert sum(part.missing for part in small.propagation) == 0
    assert len(small.timeline) == SMALL.end_s


def test_deaths_are_seen_in_time_and_long_pauses_are_counted_as_false(small: Report) -> None:
    crash, power_loss = small.detections
    assert (crash.what, crash.nodes, power_loss.what, power_loss.nodes) == ("crash", 1, "power loss", 2)
    for death, most_s in ((crash, 10.0), (power_loss, 13.0)):
        assert death.suspected_s is not None
        assert death.hidden_first_s is not None
        assert death.hidden_everywhere_s is not None
        assert 0 < death.suspected_s < death.hidden_first_s <= death.hidden_everywhere_s <= most_s
    assert small.false_downs == 1
    assert small.accusations > 1
    assert small.hidden_pairs_max > 0


def test_a_partition_hides_across_it_and_heals(small: Report) -> None:
    [healing] = small.healings
    assert healing.healed_s is not None
    assert healing.healed_s <= 5.0
    assert healing.hidden_within_max == 0
    _, _, parted, _ = small.propagation
    assert parted.max_s is not None
    assert parted.max_s > 10.0, "what is made on one side waits for the other"


def test_loss_and_distance_are_played() -> None:
    near = Scenario(nodes=30, duration_s=12.0, rollout_adds_per_s=0.0)
    far = replace(near, zones=2, latency_between_s=(0.05, 0.05))
    [quick], [slow] = played(FullRun(near)).propagation, played(FullRun(far)).propagation
    assert quick.max_s is not None
    assert slow.max_s is not None
    assert quick.max_s < 0.05 <= slow.max_s
    lossy, whole = played(FullRun(replace(near, loss=0.3))), played(FullRun(near))
    assert lossy.traffic[-1].messages_in != whole.traffic[-1].messages_in


def test_a_run_that_is_ended_early_reports_what_there_is() -> None:
    for kind in (FullRun, ReducedRun):
        run = kind(Scenario(nodes=30))
        assert not run.report().complete
        for elapsed_s in run.steps():
            if elapsed_s >= 11.0:
                break
        report = run.report()
        assert (report.complete, report.simulated_s) == (False, 11.0)
        assert [part.when for part in report.propagation] == ["quiet", "roll-out"]


@pytest.mark.parametrize("kind", ["FullRun", "ReducedRun"])
def test_a_seed_gives_one_report_whatever_the_hash_seed(kind: str) -> None:
    code = f"""
from gossip.planning import Death, Scenario
from gossip.planning.full import FullRun
from gossip.planning.reduced import ReducedRun
run = {kind}(Scenario(nodes=30, zones=3, loss=0.05, deaths=(Death(4.0, 2), Death(5.0, 2, True)), rollout_at_s=2.0))
for _ in run.steps(): pass
print(run.report())
"""
    reports = set()
    for hash_seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        reports.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(reports) == 1
    assert "complete=True" in reports.pop()


def test_another_seed_gives_another_report() -> None:
    scenario = Scenario(nodes=20, duration_s=16.0)
    assert played(ReducedRun(scenario)).timeline != played(ReducedRun(replace(scenario, seed=2))).timeline


@pytest.mark.timeout(600)
def test_the_reduced_model_comes_to_the_same_as_the_full_one_at_200_nodes() -> None:
    scenario = Scenario(
        nodes=200,
        zones=2,
        rollout_at_s=5.0,
        rollout_for_s=3.0,
        deaths=(Death(10.0, 3), Death(14.0, 10, silently=True)),
        duration_s=26.0,
    )
    full, reduced = played(FullRun(scenario)), played(ReducedRun(scenario))
    for one, other in zip(full.propagation[:2], reduced.propagation[:2], strict=True):
        assert (one.when, one.missing) == (other.when, other.missing)
        assert other.p50_s == pytest.approx(one.p50_s, rel=TOLERANCE)
        assert other.p99_s == pytest.approx(one.p99_s, rel=TOLERANCE)
    for sent, modelled in zip(full.traffic, reduced.traffic, strict=True):
        assert modelled.bytes_in == pytest.approx(sent.bytes_in, rel=TOLERANCE)
        assert modelled.messages_in == pytest.approx(sent.messages_in, rel=TOLERANCE)
    for seen, expected in zip(full.detections, reduced.detections, strict=True):
        assert expected.hidden_first_s == pytest.approx(seen.hidden_first_s, abs=TOLERANCE_S)
        assert expected.hidden_everywhere_s == pytest.approx(seen.hidden_everywhere_s, abs=TOLERANCE_S)
