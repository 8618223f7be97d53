"""The page of metrics, the dashboard and the alerts know what an agent exports, all of it and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gossip import Counters, Gauges
from mirror.gossip_metrics import COUNTERS, GAUGES
from tests.exported import PAGE, PROCESS, TABLE, Exported, documented, exported, labels_named_in, metrics_named_in

CHART = Path(__file__).parent.parent.parent / "k8s" / "chart"
DASHBOARD = CHART / "dashboards" / "skvaller.json"
ALERTS = CHART / "alerts" / "skvaller.yaml"
EVERYWHERE = {"instance", "le"}
"""Labels that Prometheus adds."""


def by_series() -> dict[str, Exported]:
    return {series: each for each in exported() for series in each.series}


def queries_of(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def dashboard_queries() -> list[str]:
    return queries_of(json.loads(DASHBOARD.read_text())["panels"])


def alert_queries() -> list[str]:
    """The expressions of the rules: what stands between `expr:` and the next key."""
    found = re.findall(r"^ {8}expr: (.*?)^ {8}\w+:", ALERTS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == ALERTS.read_text().count("- alert:")
    return [" ".join(each.removeprefix(">-").split()) for each in found]


def test_the_page_lists_every_metric_with_type_labels_and_meaning_and_no_other() -> None:
    table = PAGE.read_text().partition(TABLE)[2].partition("\n\n")[0].strip().splitlines()
    assert table == [documented(each) for each in exported()], "run `python -m tests.exported`"


@pytest.mark.parametrize("query", [*dashboard_queries(), *alert_queries()])
def test_a_query_names_metrics_and_labels_that_agents_export(query: str) -> None:
    known = by_series()
    named = metrics_named_in(query)
    assert named
    assert named - PROCESS <= known.keys()
    labels = {label for name in named - PROCESS for label in known[name].labels}
    assert labels_named_in(query) <= labels | EVERYWHERE


def test_the_dashboard_or_the_alerts_use_every_metric() -> None:
    used = set().union(*(metrics_named_in(query) for query in [*dashboard_queries(), *alert_queries()]))
    unused = {each.name for each in exported() if not used & set(each.series)}
    assert unused <= UNUSED, "show it, or say why not"
    assert unused == UNUSED


UNUSED = {
    "skvaller_gossip_dropped_total",  # for a closer look: what it means depends on the reason
    "skvaller_gossip_messages_in_total",  # bytes tell more
    "skvaller_gossip_messages_out_total",
}


def test_the_queries_of_the_page_name_metrics_that_agents_export() -> None:
    prose = PAGE.read_text().partition(TABLE)[2].partition("\n\n")[2]
    assert metrics_named_in(prose) <= by_series().keys()


def test_everything_that_gossip_counts_has_a_text() -> None:
    assert COUNTERS.keys() == {field.name for field in fields(Counters)}
    assert GAUGES.keys() == {field.name for field in fields(Gauges)}


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    rules = ALERTS.read_text().split("- alert:")[1:]
    for rule in rules:
        for part in ("severity:", "summary:", "description:"):
            assert part in rule
        assert len(rule.partition("description:")[2].split()) > 15


def test_the_readers_of_queries_find_what_is_there() -> None:
    query = (
        'sum by (source, le) (rate(skvaller_x_total{face="client", status=~"5.."}[5m])) > on (node) process_open_fds'
    )
    assert metrics_named_in(query) == {"skvaller_x_total", "process_open_fds"}
    assert labels_named_in(query) == {"source", "le", "face", "status", "node"}
