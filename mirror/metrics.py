"""What an agent counts, as Prometheus metrics on a registry of its own (no globals, so tests can run many agents).

Everything comes from observers: of the HTTP edge (`FaceObserver`), of deliveries (`SuspicionObserver`), of the store,
the event loop and the gossip node. A new event needs a counter here, a method of the observer that is told, and a line
in `docs/metrics.md`, which a test compares with what an agent exports.

Cardinality is bounded: nothing is labelled by peer, image or digest, and of the registries that clients name at most
`REGISTRIES_MAX` have a label of their own.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from mirror.gossip_metrics import GossipCollector
from mirror.trail import HERD, MISSES, What

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.registry import Collector
    from prometheus_client.samples import Sample

    from gossip import Node
    from mirror.stores import StoreEvent
    from mirror.trail import Answer, Step

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
REGISTRIES_MAX: Final = 32
"""Registries with a label of their own, the first to be asked for; the others are `other`. Each costs some tens of
series."""
THROUGHPUT_BYTES_MIN: Final = 1_000_000
"""Smaller contents say more of latency than of throughput."""

_FIRST_BYTE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)
_THROUGHPUT_BYTES_S: Final = (1e6, 3e6, 1e7, 3e7, 1e8, 2e8, 4e8, 8e8, 1.6e9, 3.2e9)
_LAG_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 10)

# Without this each counter has a second series, which says when it was made: twice the scrape for nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All numbers of one agent; `render` gives the text that Prometheus scrapes. `zone` is this node's."""

    def __init__(self, zone: str = "", version: str = "") -> None:
        self.registry = CollectorRegistry()
        self.zone = zone
        self._registries: set[str] = set()
        self.requests = self._counter(
            "requests", "Answers given, by status class, source and registry.", "face", "status", "source", "registry"
        )
        self.bytes = self._counter(
            "content_bytes", "Bytes of content given to clients and peers.", "face", "source", "registry"
        )
        self.incomplete = self._counter(
            "incomplete_answers", "Answers that ended before their last byte (either side broke off).", "face", "source"
        )
        self.refused = self._counter("refused_requests", "Requests turned away at the door.", "face", "reason")
        self.first_byte = self._histogram(
            "first_byte_seconds", "From a client's request to its first byte.", _FIRST_BYTE_S, "source", "zone"
        )
        self.throughput = self._histogram(
            "throughput_bytes_per_second",
            "Rate at which clients got contents of 1 MB or more, from the first byte on.",
            _THROUGHPUT_BYTES_S,
            "source",
            "zone",
        )
        self.peer_bytes = self._counter(
            "peer_bytes", "Bytes of content fetched from peers, in this zone or others.", "zone"
        )
        self.upstream_bytes = self._counter("upstream_bytes", "Bytes of content fetched from registries.", "registry")

        self.misses = self._counter("misses", "Sources that did not give an object, and why.", "source", "reason")
        self.hedges = self._counter("hedges", "Second peers asked because the first was slow to answer.")
        self.stalls = self._counter("stalls", "Peers left because they gave much less than others do.")
        self.resumes = self._counter("resumes", "Answers that went on from another source, by that source.", "source")

        self.herd = self._counter("herd", "Objects fetched together: led, followed or escaped to upstream.", "role")
        self.suspected = self._counter("suspected_deliveries", "Objects delivered whole that were not committed.")
        self.blamed = self._counter("blamed_deliveries", "Objects whose bytes were found to be wrong.")

        self.uploads = self._gauge("uploads", "Upload slots that are taken: blobs that peers are being given.")
        self.upload_slots = self._gauge("upload_slots", "Upload slots in all.")
        self.transfers = self._gauge("transfers", "Objects in flight on this node that others can share.")
        self.store_events = self._counter("store_events", "Changes told by the node's store.", "event")
        self.store_answers = self._gauge("store_answers", "Whether the runtime whose content is served answers.")
        self.loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop is, asked four times a second.", _LAG_S
        )
        self._gauge("build_info", "Always 1; the version is in the label.", "version").labels(version).set(1)
        ProcessCollector(registry=self.registry)
        self.mirroring = self._gauge("mirroring", "Whether anything is mirrored (the kill switch).")
        self.reloads = self._counter("reloads", "Times that the settings were read again while it ran.", "result")
        for result in ("done", "refused"):  # an alert sees the first one only if there was a zero before
            self.reloads.labels(result)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"skvaller_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"skvaller_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"skvaller_{name}", help_text, labels, buckets=tuple(buckets), registry=self.registry)

    def face(self, name: str) -> FaceObserver:
        """The observer of one HTTP face: `client` or `peer`."""
        return FaceObserver(self, name)

    def suspicion(self) -> SuspicionObserver:
        """The observer of what became of deliveries."""
        return SuspicionObserver(self)

    def fetched(self, registry: str, size: int) -> None:
        """Count bytes that came from a registry."""
        self.upstream_bytes.labels(self.registry_label(registry)).inc(size)

    def fetched_from_peer(self, zone: str, size: int) -> None:
        """Count bytes that came from a peer in a zone."""
        self.peer_bytes.labels("same" if zone == self.zone else "other").inc(size)

    def store_event(self, event: StoreEvent) -> None:
        """Count a change in the node's store."""
        self.store_events.labels(type(event).__name__).inc()

    def watch_store(self, answers: Callable[[], bool]) -> None:
        """Export whether the store's runtime answers; it is read at each scrape."""
        self.store_answers.set_function(answers)

    def show_mirroring(self, mirroring: Callable[[], bool]) -> None:
        """Export whether anything is mirrored; it is read at each scrape."""
        self.mirroring.set_function(mirroring)

    def count_transfers(self, transfers: Callable[[], int]) -> None:
        """Export how many objects are in flight; it is read at each scrape."""
        self.transfers.set_function(transfers)

    def live(self) -> LiveObserver:
        """The observer of the settings in force."""
        return LiveObserver(self)

    def collect_from(self, node: Node) -> None:
        """Export the numbers that the gossip node keeps itself; they are read at each scrape."""
        collector: Collector = GossipCollector(node)
        self.registry.register(collector)

    def client_bytes(self) -> dict[str, int]:
        """How many bytes of content clients got so far, by source."""
        by_source: dict[str, int] = {}
        for sample in _samples(self.bytes):
            if sample.labels["face"] == "client":
                source = sample.labels["source"]
                by_source[source] = by_source.get(source, 0) + int(sample.value)
        return by_source

    def fetched_bytes(self) -> int:
        """How many bytes came from registries so far."""
        return int(sum(sample.value for sample in _samples(self.upstream_bytes)))

    def uploads_now(self) -> int:
        """How many upload slots are taken."""
        return int(sum(sample.value for sample in _samples(self.uploads)))

    def registry_label(self, registry: str) -> str:
        """The registry's name, or `other` when there are too many."""
        if registry not in self._registries:
            if len(self._registries) >= REGISTRIES_MAX:
                return "other"
            self._registries.add(registry)
        return registry

    def refusals(self, face: str, *reasons: str) -> int:
        """How many requests a face turned away for these reasons."""
        name = "skvaller_refused_requests_total"
        counts = (self.registry.get_sample_value(name, {"face": face, "reason": reason}) for reason in reasons)
        return int(sum(count or 0 for count in counts))

    def render(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return generate_latest(self.registry)


def _samples(metric: Counter | Gauge) -> Iterable[Sample]:
    return (sample for family in metric.collect() for sample in family.samples)


class FaceObserver:
    """Counts what one HTTP face does (a `mirror.trail.Observer`, and that of its doors)."""

    def __init__(self, metrics: Metrics, face: str) -> None:
        self._metrics = metrics
        self._face = face
        self._requests = cache(partial(metrics.requests.labels, face))  # finding a series takes longer than to count
        self._bytes = cache(partial(metrics.bytes.labels, face))
        self._first_byte = cache(metrics.first_byte.labels)
        self._throughput = cache(metrics.throughput.labels)

    def noted(self, step: Step) -> None:
        """Count a step that was taken for a request."""
        metrics = self._metrics
        if step.what in MISSES:
            metrics.misses.labels(step.source, step.what.value).inc()
        elif step.what is What.HEDGED:
            metrics.hedges.inc()
        elif step.what is What.STALLED:
            metrics.stalls.inc()
        elif step.what in HERD:
            metrics.herd.labels(step.what.value).inc()
        else:
            metrics.resumes.labels(step.source).inc()

    def answered(self, answer: Answer) -> None:
        """Count a status line."""
        source = answer.source
        self._requests(f"{answer.status // 100}xx", source, self._registry(answer)).inc()
        if answer.content is not None and self._face == "client":
            self._first_byte(source, self._zone(answer)).observe(answer.first_byte_s)

    def ended(self, answer: Answer) -> None:
        """Count the bytes of an answer that has ended."""
        metrics, source, size = self._metrics, answer.source, answer.progress()
        self._bytes(source, self._registry(answer)).inc(size)
        if not answer.complete:
            metrics.incomplete.labels(self._face, source).inc()
        took_s = answer.duration_s - answer.first_byte_s
        if self._face == "client" and size >= THROUGHPUT_BYTES_MIN and took_s > 0:
            self._throughput(source, self._zone(answer)).observe(size / took_s)

    def refused(self, reason: str) -> None:
        """Count a request turned away before it was read."""
        self._metrics.refused.labels(self._face, reason).inc()

    def uploading(self, uploads: int) -> None:
        """So many upload slots are taken now."""
        self._metrics.uploads.set(uploads)

    def _registry(self, answer: Answer) -> str:
        return self._metrics.registry_label(answer.request.repository.registry) if answer.request else "none"

    def _zone(self, answer: Answer) -> str:
        if answer.content is None or answer.content.origin != "peer":
            return "none"
        return "same" if answer.content.zone == self._metrics.zone else "other"


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


class LiveObserver:
    """Counts reloads (a `mirror.live.LiveObserver`)."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def reloaded(self, *, good: bool) -> None:
        """Count a reload."""
        self._metrics.reloads.labels("done" if good else "refused").inc()
