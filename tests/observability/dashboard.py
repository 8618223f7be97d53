"""The Grafana dashboard, as code. `python -m tests.observability.dashboard` writes the JSON that the chart brings."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh, VariableSort

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE: Final = Path(__file__).parent.parent.parent / "k8s" / "chart" / "dashboards" / "skvaller.json"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="$datasource")
NODES: Final = 'instance=~"$instance"'
CLIENT: Final = 'face="client"'


def select(metric: str, where: str = "") -> str:
    """A metric of the chosen nodes."""
    return f"{metric}{{{', '.join(filter(None, (NODES, where)))}}}"


def total(query: str, by: str = "") -> str:
    """A query summed over the nodes, by some labels."""
    return f"sum by ({by}) ({query})" if by else f"sum({query})"


def rate(metric: str, by: str = "", where: str = "") -> str:
    """The rate of a counter."""
    return total(f"rate({select(metric, where)}[$__rate_interval])", by)


def grown(metric: str, where: str = "") -> str:
    """How much a counter grew in the range that is shown."""
    return total(f"increase({select(metric, where)}[$__range])")


def quantile(share: float, metric: str, by: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', f'{by}, le' if by else 'le')})"


def number(title: str, text: str, unit: str, query: str) -> Stat:
    """A panel with one number."""
    panel = Stat().title(title).description(text).unit(unit).datasource(SOURCE).height(4).span(6)
    panel = panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(Dataquery().expr(query).instant().ref_id("A"))


def lines(title: str, text: str, unit: str, *series: tuple[str, str], stacked: bool = False) -> TimeSeries:
    """A panel with lines over time; `series` are queries and what their lines are called."""
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    tooltip = VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
    panel = TimeSeries().title(title).description(text).unit(unit).datasource(SOURCE).min(0).height(8).span(12)
    panel = panel.legend(legend).tooltip(tooltip).fill_opacity(30 if stacked else 0)
    if stacked:
        panel = panel.stacking(StackingConfig().mode(StackingMode.NORMAL))
    for letter, (query, name) in zip(ascii_uppercase, series, strict=False):
        panel = panel.with_target(Dataquery().expr(query).legend_format(name).ref_id(letter))
    return panel


def pulls() -> Iterator[Stat | TimeSeries]:
    """Where content comes from."""
    given, fetched = grown("skvaller_content_bytes_total", CLIENT), grown("skvaller_upstream_bytes_total")
    yield number(
        "Not from registries",
        "Of the bytes given to runtimes, in the range.",
        "percentunit",
        f"1 - {fetched} / {given}",
    )
    yield number("Given to runtimes", "In the range that is shown.", "decbytes", given)
    yield number("Fetched from registries", "In the range that is shown.", "decbytes", fetched)
    yield number("Agents", "That were scraped.", "none", f"count({select('skvaller_build_info')})")
    yield lines(
        "Given to runtimes, by source",
        "store: the node had it. peer: another node had it. in flight: it was on its way here, or there, already.",
        "Bps",
        (rate("skvaller_content_bytes_total", "source", CLIENT), "{{source}}"),
        stacked=True,
    )
    yield lines(
        "Fetched, by registry",
        "What registries see of the cluster.",
        "Bps",
        (rate("skvaller_upstream_bytes_total", "registry"), "{{registry}}"),
        stacked=True,
    )
    yield lines(
        "Answers, by source",
        "aside: the runtime was sent to the registry. none: no content was asked for, or the registry said no.",
        "reqps",
        (rate("skvaller_requests_total", "source", CLIENT), "{{source}}"),
    )
    yield lines(
        "Why a source did not give an object",
        "absent of the store and of peers is usual for what is new to the cluster.",
        "ops",
        (rate("skvaller_misses_total", "source, reason"), "{{source}} {{reason}}"),
    )

    yield lines(
        "Fetched together",
        "led: a node fetched an object for others. followed: it came from a node that was fetching it. escaped: the "
        "wait was too long, and it was fetched once more.",
        "ops",
        (rate("skvaller_herd_total", "role"), "{{role}}"),
    )
    yield lines(
        "Fetched from peers, by zone",
        "Bytes between zones often cost money.",
        "Bps",
        (rate("skvaller_peer_bytes_total", "zone"), "{{zone}} zone"),
        stacked=True,
    )


def speed() -> Iterator[TimeSeries]:
    """How long runtimes wait."""
    yield lines(
        "First byte",
        "From a runtime's request until the first byte.",
        "s",
        (quantile(0.5, "skvaller_first_byte_seconds", "source"), "{{source}} median"),
        (quantile(0.99, "skvaller_first_byte_seconds", "source"), "{{source}} 99th percentile"),
    )
    yield lines(
        "Rate of contents of 1 MB and more",
        "Median, from the first byte on; zone tells whether the peer is in the node's own.",
        "Bps",
        (quantile(0.5, "skvaller_throughput_bytes_per_second", "source, zone"), "{{source}}, zone {{zone}}"),
    )
    yield lines(
        "Slow and broken sources",
        "hedged: a second peer was asked. stalled: a peer gave too little. resumed: another source went on.",
        "ops",
        (rate("skvaller_hedges_total"), "hedged"),
        (rate("skvaller_stalls_total"), "stalled"),
        (rate("skvaller_resumes_total", "source"), "resumed from {{source}}"),
        (rate("skvaller_incomplete_answers_total", "face"), "broke off, {{face}}"),
    )
    yield lines(
        "Wrong bytes",
        "suspected: delivered whole and not committed. blamed: the bytes were found to be wrong. Should be nothing.",
        "ops",
        (rate("skvaller_suspected_deliveries_total"), "suspected"),
        (rate("skvaller_blamed_deliveries_total"), "blamed"),
        (rate("skvaller_misses_total", "source", 'reason="corrupt"'), "corrupt from {{source}}"),
    )


def cluster() -> Iterator[TimeSeries]:
    """The gossip among agents."""
    members = [(state, f"max({select(f'skvaller_gossip_members_{state}')})") for state in ("normal", "last", "hidden")]
    yield lines(
        "Members, as the node sees them that sees most",
        "last: silent or suspected, so asked last. hidden: gone.",
        "none",
        *((query, state) for state, query in members),
    )
    yield lines(
        "Index",
        "Distinct objects and tags, and (object or tag, node) pairs, as each agent has them.",
        "none",
        (f"max({select('skvaller_gossip_keys')})", "keys"),
        (f"max({select('skvaller_gossip_pairs')})", "pairs"),
    )
    yield lines(
        "Index lag",
        "For how long something is known to exist that is not here yet; the node that is worst off.",
        "s",
        (f"max({select('skvaller_gossip_lag_seconds')})", "lag"),
        (f"max({select('skvaller_gossip_owners_behind')})", "members behind"),
    )
    yield lines(
        "Gossip traffic of a node",
        "On average. What is published counts once, however many listen.",
        "Bps",
        (f"avg(rate({select('skvaller_gossip_bytes_in_total')}[$__rate_interval]))", "in"),
        (f"avg(rate({select('skvaller_gossip_bytes_out_total')}[$__rate_interval]))", "out"),
    )
    yield lines(
        "Failures seen",
        "By all nodes together: one failed node is seen by many.",
        "ops",
        (rate("skvaller_gossip_suspicions_total"), "suspicions"),
        (rate("skvaller_gossip_refutations_total"), "refutations"),
        (rate("skvaller_gossip_downs_total"), "downs"),
    )
    repairs = ("duplicates", "gaps", "pulls", "syncs", "rebases", "audit_mismatches")
    yield lines(
        "Repair",
        "duplicates are what redundancy costs. audit mismatches should never be.",
        "ops",
        *((rate(f"skvaller_gossip_{name}_total"), name.replace("_", " ")) for name in repairs),
    )


def nodes() -> Iterator[TimeSeries]:
    """The agents as processes."""
    ours = "and on (instance) " + select("skvaller_build_info")
    memory, cpu = select("process_resident_memory_bytes"), select("process_cpu_seconds_total")
    yield lines(
        "Memory",
        "Each agent's; and about how much of it is the index.",
        "bytes",
        (f"{memory} {ours}", "{{instance}}"),
        (f"max({select('skvaller_gossip_index_bytes')})", "largest index"),
    )
    yield lines("CPU", "Each agent's, in cores.", "none", (f"rate({cpu}[$__rate_interval]) {ours}", "{{instance}}"))
    yield lines(
        "Late event loop",
        "99th percentile; everything that an agent does waits so long.",
        "s",
        (quantile(0.99, "skvaller_event_loop_lag_seconds", "instance"), "{{instance}}"),
    )
    yield lines(
        "In flight",
        "Blobs that peers are being given, and objects that are fetched for whoever wants them.",
        "none",
        (total(select("skvaller_uploads")), "uploads"),
        (total(select("skvaller_upload_slots")), "upload slots"),
        (total(select("skvaller_transfers")), "transfers"),
    )
    yield lines(
        "Store events",
        "What came to and went from the nodes' stores.",
        "ops",
        (rate("skvaller_store_events_total", "event"), "{{event}}"),
    )
    yield lines(
        "Turned away",
        "Requests without the right address, host or MAC, and for want of an upload slot.",
        "ops",
        (rate("skvaller_refused_requests_total", "face, reason"), "{{face}} {{reason}}"),
        (rate("skvaller_gossip_refused_connections_total"), "gossip connections"),
    )


def dashboard() -> str:
    """The dashboard, as JSON."""
    instances = QueryVariable("instance").label("Node").datasource(SOURCE).multi(True).include_all(True)
    instances = instances.query("label_values(skvaller_build_info, instance)").sort(VariableSort.ALPHABETICAL_ASC)
    board = (
        Dashboard("Skvaller")
        .uid("skvaller")
        .description("Where images come from, how fast, and how the agents are.")
        .tags(["skvaller"])
        .refresh("30s")
        .time("now-1h", "now")
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(instances.all_value(".*").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED))
    )
    for title, panels in (("Pulls", pulls), ("Speed", speed), ("Cluster", cluster), ("Agents", nodes)):
        board = board.with_row(Row(title))
        for panel in panels():
            board = board.with_panel(panel)
    return str(JSONEncoder(sort_keys=True, indent=2).encode(board.build())) + "\n"


if __name__ == "__main__":
    FILE.write_text(dashboard())
