"""A report as text, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gossip.planning.report import Report

NEVER = "not yet"


def to_text(report: Report) -> str:
    """Some tables of at most 100 columns."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    scenario = report.scenario
    zones = f" in {scenario.zones} zones" if scenario.zones > 1 else ""
    ended = "" if report.complete else f" ENDED EARLY, planned for {scenario.end_s:g} s."
    yield (
        f"{scenario.nodes} nodes{zones}, {scenario.digests} digests each, for {report.simulated_s:g} s "
        f"({report.model} model, seed {scenario.seed}).{ended}"
    )
    yield from _table(
        ("From a change to each other node", "changes", "p50", "p99", "max", "not arrived"),
        [
            (part.when, str(part.changes), *map(_milliseconds, (part.p50_s, part.p99_s, part.max_s)), str(part.missing))
            for part in report.propagation
        ],
    )
    yield from _table(
        ("What a node gets", "KB/s", "messages/s", "KB/s, the busiest node's most"),
        [
            (part.when, f"{part.bytes_in / 1000:.2f}", f"{part.messages_in:.1f}", f"{part.bytes_in_max / 1000:.2f}")
            for part in report.traffic
        ],
    )
    yield from _table(
        ("Deaths", "nodes", "first suspected after", "first hidden", "hidden everywhere"),
        [
            (
                f"{part.what} at {part.at_s:g} s",
                str(part.nodes),
                *map(_seconds, (part.suspected_s, part.hidden_first_s, part.hidden_everywhere_s)),
            )
            for part in report.detections
        ],
    )
    yield from _table(
        ("Partitions", "all see all again after", "most pairs of one side hidden"),
        [
            (f"from {part.at_s:g} s for {part.for_s:g} s", _seconds(part.healed_s), str(part.hidden_within_max))
            for part in report.healings
        ],
    )
    yield ""
    yield f"Nodes that ran and were not cut off: accused {report.accusations} times, called DOWN {report.false_downs}."
    yield f"Pairs of running nodes of which one did not see the other, at most: {report.hidden_pairs_max}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose first column is words and whose others are figures; nothing without rows."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    yield ""
    for row in (head, *rows):
        first, *others = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join((first, *others))


def _milliseconds(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s * 1000:.1f} ms"


def _seconds(value_s: float | None) -> str:
    return NEVER if value_s is None else f"{value_s:.2f} s"
