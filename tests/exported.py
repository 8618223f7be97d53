"""What an agent exports, read from its own metrics: for the tests that hold documents, dashboards and alerts to it.

`python -m tests.exported` brings the table of `docs/metrics.md` up to date.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from gossip import Config, Node
from mirror.metrics import Metrics

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
TABLE = "|---|---|---|---|"

PROCESS = frozenset(
    f"process_{name}"
    for name in (
        "cpu_seconds_total",
        "max_fds",
        "open_fds",
        "resident_memory_bytes",
        "start_time_seconds",
        "virtual_memory_bytes",
    )
)
"""What Prometheus' own client tells of a process, on every agent."""


@dataclass(frozen=True)
class Exported:
    """One metric: its name in queries, its type, its labels, and what its help says."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names that its samples have."""
        if self.kind != "histogram":
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))


def exported() -> list[Exported]:
    """Every metric of the project's own, by name."""
    metrics = Metrics()
    metrics.collect_from(Node(Config(name="a")))
    found = []
    for collector in metrics.registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            (family,) = collector.describe()
            found.append(_of(family.name, family.type, tuple(collector._labelnames), family.documentation))
        else:
            found += [_of(f.name, f.type, _labels(f), f.documentation) for f in collector.collect()]
    return sorted((each for each in found if each.name.startswith("skvaller_")), key=lambda each: each.name)


def _labels(family: object) -> tuple[str, ...]:
    return tuple(getattr(family, "_labelnames", ()))


def _of(name: str, kind: str, labels: tuple[str, ...], text: str) -> Exported:
    return Exported(f"{name}_total" if kind == "counter" else name, kind, labels, text)


def documented(each: Exported) -> str:
    """The line of `docs/metrics.md` about a metric."""
    labels = ", ".join(f"`{label}`" for label in each.labels)
    return f"| `{each.name}` | {each.kind} | {labels} | {each.text} |"


def metrics_named_in(expression: str) -> set[str]:
    """The names of metrics in a query, those of agents and of their processes."""
    return set(re.findall(r"\b(?:skvaller|process)_[a-z0-9_]+", expression))


def labels_named_in(expression: str) -> set[str]:
    """The names of labels that a query selects or groups by."""
    selected = re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    grouped = re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", expression)
    return {*selected, *(label.strip() for group in grouped for label in group.split(",") if label.strip())}


def write_table(page: Path) -> None:
    """Bring the table of the page up to date."""
    text = page.read_text()
    start = text.index(TABLE) + len(TABLE)
    end = text.index("\n\n", start)
    page.write_text(text[:start] + "".join(f"\n{documented(each)}" for each in exported()) + text[end:])


if __name__ == "__main__":
    write_table(PAGE)
