"""`skvaller simulate`: how would a cluster of this size behave?

Here are its flags, its progress and its printing; what is played is the business of `gossip.planning`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from mirror.commands import Commands, complain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gossip.planning import Run, Scenario

USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130
PLOT_SUFFIX: Final = ".svg"
REDRAW_S: Final = 0.5
LOG_S: Final = 15.0
"""How often progress is shown on a terminal, and in a file."""

DESCRIPTION = """\
Play a cluster in simulated time with the agents' own gossip code, and report how long
changes take to all nodes, what gossip costs a node, and how soon deaths are seen. Above
1,000 nodes a reduced model is played, without pauses, stalls and partitions. One seed
gives one outcome. Ctrl-C ends it early and reports what there is."""

EXAMPLES = """\
examples:
  skvaller simulate --nodes 300 --zones 3
      what idle gossip and the roll-out of an image cost, and how soon a change is everywhere
  skvaller simulate --nodes 500 --crash 20:1 --power-loss 40:5 --partition 60:60:0.5 --plot plot.svg
      how soon a crash, a loss of power at five nodes and a partition into halves are seen, and what heals
  skvaller simulate --nodes 200 --rollout-adds-per-s 0 --stalls-per-hour 6 --duration 600
      how often nodes that stall now and then are called dead
"""


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "simulate",
        help="play a cluster of any size in simulated time: how fast, at what cost, what if nodes die",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_cluster(parser)
    _add_events(parser)
    parser.add_argument(
        "--duration", type=float, metavar="S", help="seconds [default: until 20 s after the last event]"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all chance [default: %(default)s]")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, with a value for each second")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw it; an SVG file, for any browser")
    parser.set_defaults(run=_run)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the cluster")
    group.add_argument("--nodes", type=int, default=100, help="2 to 10,000 [default: %(default)s]")
    group.add_argument("--zones", type=int, default=1, help="equal blocks of nodes [default: %(default)s]")
    group.add_argument("--digests", type=int, default=20, help="that each node holds [default: %(default)s]")
    group.add_argument("--loss", type=float, default=0.0, metavar="P", help="part of the messages lost [default: 0]")
    group.add_argument(
        "--latency-ms",
        type=_milliseconds,
        default="0.3-1.5",
        metavar="FROM-TO",
        help="of a message, within a zone [default: %(default)s]",
    )
    group.add_argument(
        "--zone-latency-ms",
        type=_milliseconds,
        default="0.5-3",
        metavar="FROM-TO",
        help="of a message, between zones [default: %(default)s]",
    )


def _add_events(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what happens", "Times are seconds from the beginning.")
    group.add_argument(
        "--adds-per-s", type=float, default=1.0, metavar="R", help="digests added all the time [default: %(default)s]"
    )
    group.add_argument(
        "--rollout", type=_numbers(2), default="10:5", metavar="AT:FOR", help="of a new image [default: %(default)s]"
    )
    group.add_argument(
        "--rollout-adds-per-s",
        type=float,
        metavar="R",
        help="digests added in a roll-out, in the whole cluster; 0: no roll-out [default: 0.4 for each node]",
    )
    for flag, parts, metavar, text in (
        ("--crash", 2, "AT:NODES", "so many nodes end; their connections break; may be repeated"),
        ("--power-loss", 2, "AT:NODES", "so many nodes fall silent for good; may be repeated"),
        ("--pause", 3, "AT:FOR:NODES", "so many nodes stand still for so long; may be repeated"),
        (
            "--partition",
            3,
            "AT:FOR:SHARE",
            "for so long this share of the nodes, from 0 to 1, is cut off; may be repeated",
        ),
    ):
        group.add_argument(flag, type=_numbers(parts), action="append", default=[], metavar=metavar, help=text)
    group.add_argument(
        "--stalls-per-hour",
        type=float,
        default=0.0,
        metavar="R",
        help="how often each node stands still for a moment, mostly less than 0.3 s [default: 0]",
    )


def _run(options: argparse.Namespace) -> int:
    from gossip.errors import ConfigError
    from gossip.planning import begin, to_svg, to_text

    plot: Path | None = options.plot
    if plot is not None and (plot.suffix != PLOT_SUFFIX or not plot.parent.is_dir()):
        complain(f"--plot: {plot} must be an {PLOT_SUFFIX} file in a directory that exists")
        return USAGE_ERROR
    try:
        scenario = _scenario(options)
    except ConfigError as error:
        complain(error)
        return USAGE_ERROR
    run = begin(scenario)
    code = 0
    try:
        _play(run, scenario)
    except KeyboardInterrupt:
        print("\nended early: this is the report of what was played", file=sys.stderr)
        code = INTERRUPTED
    report = run.report()
    print(json.dumps(report.as_dict(), indent=2) if options.json else to_text(report), end="\n" if options.json else "")
    if plot is not None:
        try:
            plot.write_text(to_svg(report))
        except OSError as error:
            complain(f"--plot: {error}")
            return 1
    return code


def _scenario(options: argparse.Namespace) -> Scenario:
    from gossip.planning import Death, Partition, Pause, Scenario

    crashes = [Death(at_s, _whole(nodes)) for at_s, nodes in options.crash]
    losses = [Death(at_s, _whole(nodes), silently=True) for at_s, nodes in options.power_loss]
    return Scenario(
        nodes=options.nodes,
        zones=options.zones,
        digests=options.digests,
        adds_per_s=options.adds_per_s,
        rollout_at_s=options.rollout[0],
        rollout_for_s=options.rollout[1],
        rollout_adds_per_s=options.rollout_adds_per_s,
        loss=options.loss,
        latency_s=options.latency_ms,
        latency_between_s=options.zone_latency_ms,
        deaths=(*crashes, *losses),
        pauses=tuple(Pause(at_s, _whole(nodes), for_s) for at_s, for_s, nodes in options.pause),
        partitions=tuple(Partition(*numbers) for numbers in options.partition),
        stalls_per_hour=options.stalls_per_hour,
        duration_s=options.duration,
        seed=options.seed,
    )


def _whole(nodes: float) -> int:
    from gossip.errors import ConfigError

    if not nodes.is_integer():
        raise ConfigError("a number of nodes", f"{nodes:g}", "a whole number")
    return int(nodes)


def _play(run: Run, scenario: Scenario) -> None:
    from gossip.planning.estimate import estimate

    work = estimate(scenario)
    progress = _Progress(sys.stderr, sum(work))
    for elapsed_s in run.steps():
        progress.show(f"{elapsed_s:.0f} of {scenario.end_s:g} s", sum(work[: 1 + int(elapsed_s)]))
    progress.close()


class _Progress:
    """How far it is, and how long it will take: on a terminal one line that changes, in a file a line from time to
    time. At first that is what it took on another machine."""

    def __init__(self, stream: TextIO, total: float) -> None:
        self._stream = stream
        self._total = total
        self._began_at = time.monotonic()
        self._live = stream.isatty()
        self._next_at = self._began_at + (REDRAW_S if self._live else LOG_S)
        print(f"this may take {_duration(total)}", file=stream, flush=True)

    def show(self, what: str, done: float) -> None:
        """So much of the work is done."""
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + (REDRAW_S if self._live else LOG_S)
        left_s = (now - self._began_at) * (self._total / done - 1)
        line = f"simulated {what}, {_duration(max(0.0, left_s))} left"
        print(f"\r{line:<60}" if self._live else line, end="" if self._live else "\n", file=self._stream, flush=True)

    def close(self) -> None:
        """All is done."""
        if self._live:
            print(f"\r{'':<60}\r", end="", file=self._stream, flush=True)


def _duration(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def _numbers(count: int) -> Callable[[str], Sequence[float]]:
    """A reader of `AT:FOR:...`: so many numbers, none below 0."""

    def read(text: str) -> Sequence[float]:
        try:
            numbers = [float(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) != count or not all(0 <= number < math.inf for number in numbers):
            raise argparse.ArgumentTypeError(f"{text!r} must be {count} numbers with a colon between them")
        return numbers

    return read


def _milliseconds(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low) / 1000, float(high or low) / 1000
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be two numbers of milliseconds, as 0.3-1.5") from None
