"""The checks of what is between this node and the others: secrets, ports, zones, clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mirror.doctor.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.doctor.facts import Facts, Reach

CLOCK_OFFSET_S_MAX: Final = 5.0
"""Which of two nodes saw a tag last is judged by their clocks, in seconds."""
NAMED_MAX: Final = 5


def check_members(facts: Facts) -> Iterator[Finding]:
    """Does the agent know any other?"""
    agent = facts.agent
    if agent is None:
        return
    if members := agent["members"]:
        yield Finding("cluster", Level.OK, f"The agent knows {_nodes(len(members))}.")
    elif not agent["seeds"]:
        yield Finding(
            "cluster",
            Level.WARNING,
            "The agent has no seeds, and knows no other node.",
            "Nothing is shared between nodes.",
            "Give it the router ports of some others: seeds = 10.0.0.2:29993.",
        )
    elif not facts.seeds:
        yield Finding(
            "cluster",
            Level.WARNING,
            "The agent knows no other node, and its seeds lead to none that could be tried from here.",
            "Nothing is shared between nodes. For the only node of a cluster that is as it should be.",
            "If there are others, name the router ports of some as seeds.",
        )
    elif unreachable := [seed for seed in facts.seeds if seed.error]:
        yield Finding(
            "cluster",
            Level.PROBLEM,
            f"No other node is known, and seeds cannot be reached: {_listed(unreachable)}.",
            "Nothing is shared between nodes.",
            "Open the router port (29993) between nodes, or name seeds that run.",
        )
    else:
        yield Finding(
            "cluster",
            Level.PROBLEM,
            "No other node is known, although the seeds can be reached.",
            "Who has another cluster secret, or names another cluster, is refused without an answer.",
            "Compare the secret_file (sha256sum) and the setting `cluster` on both nodes. A lone first node is fine.",
        )


def check_secret(facts: Facts) -> Iterator[Finding]:
    """Does anybody knock who has another secret?"""
    agent = facts.agent
    if agent is None:
        return
    if agent["refused_by_peers"]:
        yield Finding(
            "secret",
            Level.PROBLEM,
            f"Other nodes refused {agent['refused_by_peers']} requests of this one since it started.",
            "They do not take its MAC, so this node gets nothing from them.",
            "Compare the secret_file (sha256sum) on both; while a secret is changed, all must list the new one first.",
        )
    if strangers := agent["refused_connections"] + agent["refused_peers"]:
        yield Finding(
            "secret",
            Level.WARNING,
            f"The agent refused {strangers} connections or requests without the cluster's secret since it started.",
            "An agent with another secret, or somebody who scans ports, knocks again and again.",
            "Compare the secret_file (sha256sum) on all nodes; see skvaller_refused_requests_total and "
            "skvaller_gossip_refused_connections_total for whether it grows.",
        )
    if agent["dropped_messages"].get("cluster"):
        yield Finding(
            "secret",
            Level.WARNING,
            "Agents of another cluster's name, but with this secret, sent messages.",
            "They are not members here.",
            "Give all the same setting `cluster`, or each cluster a secret of its own.",
        )
    if agent["conflicts"]:
        yield Finding(
            "cluster",
            Level.PROBLEM,
            f"Another node has the name {agent['name']} too.",
            "One of the two ends itself, again and again.",
            "Give each node a name of its own (setting `name`).",
        )


def check_ports(facts: Facts) -> Iterator[Finding]:
    """Can this node reach the ports of others?"""
    closed = [reach for reach in facts.reach if reach.error]
    if not facts.reach:
        return
    if not closed:
        names = {reach.name for reach in facts.reach}
        yield Finding("ports", Level.OK, f"The ports of {_nodes(len(names))} can be reached.")
        return
    uses = sorted({reach.use for reach in closed})
    yield Finding(
        "ports",
        Level.PROBLEM if len(closed) == len(facts.reach) else Level.WARNING,
        f"Ports of other nodes cannot be reached ({', '.join(uses)}): {_listed(closed)}.",
        "Without the peer port nothing comes from them; without the gossip ports this node learns late, or never, what "
        "they have.",
        "Open the ports between nodes (29991 to 29993 by default), in both directions.",
    )


def check_zone(facts: Facts) -> Iterator[Finding]:
    """Does the agent know what is near?"""
    agent = facts.agent
    if agent is None or agent["zone"]:
        return
    zones = {member["zone"] for member in agent["members"]} - {""}
    if zones:
        yield Finding(
            "zone",
            Level.WARNING,
            f"This node has no zone, and others have ({', '.join(sorted(zones)[:NAMED_MAX])}).",
            "All of them count as far, and they ask this one last; traffic between zones may cost money.",
            "Set `zone` (SKVALLER_ZONE; in the chart `zone`).",
        )
    else:
        yield Finding("zone", Level.OK, "No node has a zone, so all count as near; in one zone that is right.")


def check_clock(facts: Facts) -> Iterator[Finding]:
    """Is this clock like the others'?"""
    wrong = {name: offset for name, offset in facts.clock_offsets_s.items() if abs(offset) > CLOCK_OFFSET_S_MAX}
    if not wrong:
        return
    told = ", ".join(f"{name} by {offset:+.0f} s" for name, offset in sorted(wrong.items())[:NAMED_MAX])
    yield Finding(
        "clock",
        Level.WARNING,
        f"Clocks differ from this one's: {told}.",
        "Which node saw a tag last is judged by the clock, and certificates are too.",
        "Let all nodes keep time (chrony, systemd-timesyncd).",
    )


CLUSTER_CHECKS: Final = (
    check_members,
    check_secret,
    check_ports,
    check_zone,
    check_clock,
)


def _nodes(count: int) -> str:
    return "1 other node" if count == 1 else f"{count} other nodes"


def _listed(reaches: list[Reach]) -> str:
    named = [f"{reach.name} {reach.address}:{reach.port} ({reach.error})" for reach in reaches[:NAMED_MAX]]
    if len(reaches) > NAMED_MAX:
        named.append(f"{len(reaches) - NAMED_MAX} more")
    return ", ".join(named)
