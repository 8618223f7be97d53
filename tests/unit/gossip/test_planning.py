"""Scenarios, reports, and what becomes of them: all but the playing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from gossip.errors import ConfigError
from gossip.planning import Death, Partition, Pause, Report, Scenario, begin, to_svg, to_text
from gossip.planning.estimate import estimate
from gossip.planning.full import FullRun
from gossip.planning.record import Fate, Record, Scar
from gossip.planning.reduced import ReducedRun
from gossip.planning.report import quantile
from gossip.planning.sizes import Sizes
from gossip.simulated_network import Change


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes": 1},
        {"nodes": 10_001},
        {"nodes": 3, "zones": 4},
        {"nodes": 1000, "digests": 21},
        {"loss": 0.6},
        {"loss": float("nan")},
        {"latency_s": (0.002, 0.001)},
        {"latency_between_s": (0.0, 0.001)},
        {"adds_per_s": -1.0},
        {"rollout_adds_per_s": 10_001.0},
        {"rollout_adds_per_s": 10_000.0, "rollout_for_s": 60.0},
        {"duration_s": 0.5},
        {"duration_s": 1e9},
        {"deaths": (Death(5.0, 0),)},
        {"deaths": (Death(5.0, 60), Death(6.0, 40))},
        {"deaths": (Death(50.0, 1),), "duration_s": 40.0},
        {"pauses": (Pause(5.0, 101, 1.0),)},
        {"partitions": (Partition(5.0, 10.0, 0.001),)},
        {"partitions": (Partition(5.0, 10.0, 0.5), Partition(14.0, 10.0, 0.5))},
        {"nodes": 1001, "pauses": (Pause(5.0, 1, 1.0),)},
        {"nodes": 1001, "stalls_per_hour": 1.0},
        {"nodes": 1001, "partitions": (Partition(5.0, 10.0, 0.5),)},
    ],
)
def test_what_cannot_be_played_is_refused_before_anything_is_done(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Scenario(**wrong)


def test_a_scenario_lasts_until_its_last_event_has_had_its_effect() -> None:
    assert Scenario(rollout_adds_per_s=0.0, deaths=(Death(30.0, 1),)).end_s == 50.0
    assert Scenario(partitions=(Partition(30.0, 60.0, 0.5),)).end_s == 110.0
    assert Scenario(duration_s=33.0).end_s == 33.0


def test_zones_are_blocks_of_nodes_and_a_roll_out_brings_each_node_an_image_in_half_a_minute() -> None:
    scenario = Scenario(nodes=10, zones=3)
    assert [scenario.zone(node) for node in range(10)] == [f"zone{zone}" for zone in (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert scenario.rollout_rate * 30 == pytest.approx(12 * 10)


def test_large_clusters_are_played_by_the_reduced_model_and_others_by_the_product() -> None:
    assert isinstance(begin(Scenario(nodes=1000)), FullRun)
    assert isinstance(begin(Scenario(nodes=1001)), ReducedRun)


def test_the_estimate_grows_with_what_is_asked() -> None:
    small, large = Scenario(nodes=100), Scenario(nodes=400)
    assert sum(estimate(large)) > 4 * sum(estimate(small))
    parted = Scenario(nodes=400, partitions=(Partition(20.0, 30.0, 0.5),), duration_s=60.0)
    assert sum(estimate(parted)) > sum(estimate(replace(parted, partitions=())))
    assert len(estimate(small)) == 1 + small.end_s
    assert sum(estimate(Scenario(nodes=10_000))) > sum(estimate(Scenario(nodes=2_000)))


def test_a_quantile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [quantile(values, part) for part in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert quantile([], 0.5) is None


def test_sizes_are_those_of_the_codec_and_a_change_more_costs_its_key_and_little_else() -> None:
    sizes = Sizes("node00000", "zone0")
    assert sizes.news(0, 0) == 0
    assert 33 < sizes.news(2, 0) - sizes.news(1, 0) < 120
    assert sizes.news(1, 1) > sizes.news(1, 0)
    assert sizes.compare < sizes.buckets < sizes.versions(1000, 256)


def noted() -> Report:
    """What is noted of three seconds in which something of everything happens."""
    death = Death(1.0, 2, silently=True)
    parted = Partition(1.0, 1.0, 0.5)
    scenario = Scenario(nodes=4, rollout_at_s=2.0, rollout_for_s=1.0, deaths=(death,), partitions=(parted,))
    record = Record(scenario, "full")
    fate = Fate(death, ["a", "b"], seen={"a": None, "b": None})
    record.fates.append(fate)
    record.scars.append(Scar(parted))
    quiet, rolling = Change(0.5), Change(2.5)
    quiet.latencies.extend([0.001, 0.003])
    rolling.latencies.append(0.2)
    for second in (1, 2, 3):
        record.elapsed_s = float(second)
        if second == 2:
            fate.suspected_at = 1.5
            fate.look({"a": 1}, 2, 2.0)
            record.accused()
        if second == 3:
            fate.look({"a": 2, "b": 2}, 2, 3.0)
        record.hidden(within=1 if second == 1 else 0, pairs=2 if second < 3 else 0)
        record.second([1000, 3000], 40)
    return record.report([quiet, rolling], [rolling])


def test_a_report_tells_what_was_noted() -> None:
    report = noted()
    assert [(part.when, part.changes, part.max_s, part.missing) for part in report.propagation] == [
        ("quiet", 1, 0.003, 0),
        ("roll-out", 1, 0.2, 1),
    ]
    assert [(part.when, part.bytes_in, part.bytes_in_max) for part in report.traffic] == [
        ("quiet", 2000.0, 3000),
        ("roll-out", 2000.0, 3000),
        ("whole", 2000.0, 3000),
    ]
    [detection] = report.detections
    assert (detection.suspected_s, detection.hidden_first_s, detection.hidden_everywhere_s) == (0.5, 1.0, 2.0)
    [healing] = report.healings
    assert (healing.healed_s, healing.hidden_within_max) == (1.0, 1)
    assert [second.accusations for second in report.timeline] == [0, 1, 0]
    assert [second.hidden_pairs for second in report.timeline] == [2, 2, 0]
    assert report.hidden_pairs_max == 2
    assert not report.complete


def test_what_did_not_happen_before_the_end_has_no_time() -> None:
    death = Death(1.0, 1)
    record = Record(Scenario(deaths=(death,), partitions=(Partition(1.0, 5.0, 0.5),)), "full")
    record.fates.append(Fate(death, ["a"], seen={"a": None}))
    record.scars.append(Scar(record.scenario.partitions[0]))
    report = record.report([], [])
    assert report.detections[0].hidden_everywhere_s is None
    assert report.healings[0].healed_s is None
    assert "not yet" in to_text(report)
    assert not report.propagation
    assert not report.traffic


def test_a_partition_has_healed_when_nobody_is_hidden_any_more_and_what_comes_later_is_not_its_doing() -> None:
    record = Record(Scenario(partitions=(Partition(1.0, 1.0, 0.5),)), "full")
    record.scars.append(Scar(record.scenario.partitions[0]))
    for elapsed_s, pairs in ((1.5, 0), (2.0, 0), (4.0, 3), (5.0, 0), (16.0, 0), (18.0, 9), (19.0, 0)):
        record.elapsed_s = elapsed_s
        record.hidden(pairs, pairs)
    [healing] = record.report([], []).healings
    assert (healing.healed_s, healing.hidden_within_max) == (3.0, 3)


def test_a_report_is_text_json_and_a_picture() -> None:
    report = noted()
    text = to_text(report)
    assert "power loss at 1 s" in text
    assert "ENDED EARLY" in text
    assert max(map(len, text.splitlines())) <= 120
    assert json.loads(json.dumps(report.as_dict()))["timeline"][1]["accusations"] == 1
    picture = ET.fromstring(to_svg(report))
    words = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert {"partition", "power loss", "roll-out"} <= set(words)
    assert len([element for element in picture.iter() if element.tag.endswith("circle")]) == 2 + 3 + 3
