"""What an agent counts, as Prometheus metrics on a registry of its own (no globals, so tests can run many agents).

Cardinality is bounded: nothing is labelled by peer, image or digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from gossip import Node

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All counters of one agent; `render` gives the text that Prometheus scrapes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter(
            "requests", "Answers given, by face, status class and source.", "face", "status", "source"
        )
        self.bytes = self._counter("content_bytes", "Bytes of content given to clients and peers.", "face", "source")
        self.incomplete = self._counter(
            "incomplete_answers", "Answers that ended before their last byte (either side broke off).", "face", "source"
        )
        self.refused = self._counter("refused_requests", "Requests turned away at the door.", "face", "reason")
        self.source_failures = self._counter(
            "source_failures", "Sources left for another one, by reason.", "source", "reason"
        )

        self.suspected = self._counter("suspected_deliveries", "Objects delivered whole that were not committed.")
        self.blamed = self._counter("blamed_deliveries", "Objects whose bytes were found to be wrong.")

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"skvaller_{name}", help_text, labels, registry=self.registry)

    def face(self, name: str) -> FaceObserver:
        """The observer of one HTTP face: `client` or `peer`."""
        return FaceObserver(self, name)

    def source(self, name: str) -> SourceObserver:
        """The observer of one remote source: `peer`."""
        return SourceObserver(self, name)

    def suspicion(self) -> SuspicionObserver:
        """The observer of what became of deliveries."""
        return SuspicionObserver(self)

    def collect_from(self, node: Node) -> None:
        """Export the numbers that the gossip node keeps itself; they are read at each scrape."""
        self.registry.register(_GossipCollector(node))

    def render(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return generate_latest(self.registry)


class FaceObserver:
    """Counts the answers of one HTTP face (a `mirror.registry.Observer`)."""

    def __init__(self, metrics: Metrics, face: str) -> None:
        self._metrics = metrics
        self._face = face

    def answered(self, status: int, origin: str) -> None:
        """Count a status line."""
        self._metrics.requests.labels(self._face, f"{status // 100}xx", origin or "none").inc()

    def sent(self, origin: str, size: int, *, complete: bool) -> None:
        """Count the bytes of an answer that has ended."""
        self._metrics.bytes.labels(self._face, origin).inc(size)
        if not complete:
            self._metrics.incomplete.labels(self._face, origin).inc()

    def refused(self, reason: str) -> None:
        """Count a request turned away before it was read."""
        self._metrics.refused.labels(self._face, reason).inc()


class SourceObserver:
    """Counts how often one remote source was left for another (a `mirror.peers.PeersObserver`)."""

    def __init__(self, metrics: Metrics, source: str) -> None:
        self._metrics = metrics
        self._source = source

    def failed(self, reason: str) -> None:
        """Count a failure."""
        self._metrics.source_failures.labels(self._source, reason).inc()


class SuspicionObserver:
    """Counts deliveries that came to nothing (a `mirror.suspicion.SuspicionObserver`)."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def suspected(self) -> None:
        """Count a delivery that was not committed."""
        self._metrics.suspected.inc()

    def blamed(self) -> None:
        """Count wrong bytes."""
        self._metrics.blamed.inc()


class _GossipCollector:
    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        counters = self._node.counters
        for field in fields(counters):
            name, value = f"skvaller_gossip_{field.name}", getattr(counters, field.name)
            if isinstance(value, Mapping):
                family = CounterMetricFamily(name, f"Gossip: {field.name}, by reason.", labels=["reason"])
                for reason, count in value.items():
                    family.add_metric([reason], count)
                yield family
            else:
                yield CounterMetricFamily(name, f"Gossip: {field.name.replace('_', ' ')}.", value=value)
        gauges = self._node.gauges()
        for field in fields(gauges):
            text = f"Gossip: {field.name.replace('_', ' ')}."
            yield GaugeMetricFamily(f"skvaller_gossip_{field.name}", text, value=getattr(gauges, field.name))
