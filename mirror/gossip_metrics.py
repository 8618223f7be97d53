"""The numbers that the gossip node keeps itself, in Prometheus' terms; they are read at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from gossip import Node

COUNTERS: Final = {
    "messages_in": "Gossip messages received.",
    "messages_out": "Gossip messages sent; one that is published counts once, however many listen.",
    "bytes_in": "Bytes of gossip messages received.",
    "bytes_out": "Bytes of gossip messages sent; one that is published counts once.",
    "duplicates": "Deltas received that were known already: every neighbour passes on everything.",
    "dropped": "Messages, or parts of them, that were not used, and why.",
    "gaps": "Messages and deltas that showed that something before them was lost.",
    "pulls": "Requests to other members for what is missing.",
    "syncs": "Comparisons with another member that found a difference.",
    "rebases": "Restarted members whose content was known, so that it need not be sent.",
    "audit_mismatches": "Owners whose content contradicted its hash and was pulled anew. More than 0 means a defect.",
    "conflicts": "Times that another node of this node's name was found.",
    "suspicions": "Members that this node suspected by itself.",
    "downs": "Members that went down, as far as this node knows.",
    "refutations": "Times that this node was suspected, and denied it.",
    "refused_keys": "Objects and tags of this node that exceed a limit and are not advertised.",
    "refused_connections": "Connections to the gossip ports without a key of the cluster's.",
}
GAUGES: Final = {
    "members_normal": "Other members that are well.",
    "members_last": "Other members that are silent, suspected or said to be down, and are asked last.",
    "members_hidden": "Other members that are gone.",
    "keys": "Distinct objects and tags in the index.",
    "pairs": "(Object or tag, member) pairs in the index.",
    "index_bytes": "About how much memory the index takes.",
    "owners_behind": "Members of whose content a later version is known to exist than is held here.",
    "lag_seconds": "For how long the oldest version that is known to exist has been missing here.",
}


class GossipCollector(Collector):
    """Reads one node's counters and gauges."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        """All families."""
        counters, gauges = self._node.counters, self._node.gauges()
        for field in fields(counters):
            value = getattr(counters, field.name)
            reasons = ["reason"] if isinstance(value, Mapping) else []
            family = CounterMetricFamily(f"skvaller_gossip_{field.name}", _help(COUNTERS, field.name), labels=reasons)
            for reason, count in value.items() if isinstance(value, Mapping) else [("", value)]:
                family.add_metric([reason] if reasons else [], count)
            yield family
        for field in fields(gauges):
            value = getattr(gauges, field.name)
            yield GaugeMetricFamily(f"skvaller_gossip_{field.name}", _help(GAUGES, field.name), value=value)


def _help(texts: Mapping[str, str], name: str) -> str:
    # A number without a text is a defect, which a test finds; it must not cost the whole scrape.
    return texts.get(name, name.replace("_", " "))
