"""What the demo shows: progress bars on a terminal, plain lines elsewhere, and a table at the end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from mirror.demo.scene import REPOSITORY, TAG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import TaskID

    from mirror.demo import client
    from mirror.demo.client import Fetched
    from mirror.demo.scene import Agent
    from mirror.demo.story import Claim, Pulled


class View:
    """Writes to `console` (standard output)."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of the story."""
        self._console.print(escape(text))

    @contextmanager
    def pulling(self) -> Iterator[client.Progress]:
        """Show a pull while it runs."""
        if not self._console.is_terminal:
            yield _Lines(self)
            return
        columns = (TextColumn("  {task.description:<9}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TextColumn("{task.fields[server]}"), console=self._console) as bars:
            yield _Bars(bars)

    def table(self, pulls: Sequence[Pulled]) -> None:
        """Every object of every pull, and what each pull cost the registry."""
        objects = Table(title=f"{REPOSITORY}:{TAG}, object by object", title_justify="left")
        for heading in ("node", "object", "bytes", "ms", "served by"):
            objects.add_column(heading, justify="right" if heading in {"bytes", "ms"} else "left")
        for pulled in pulls:
            for fetched in pulled.objects:
                wrong = "" if fetched.right else "  WRONG DIGEST"
                served = escape(fetched.server + wrong)
                objects.add_row(pulled.node, fetched.name, f"{fetched.size:,}", _ms(fetched.duration_s), served)
            objects.add_section()
        totals = Table(title="In all", title_justify="left")
        for heading in ("node", "bytes", "ms", "registry: requests", "registry: bytes"):
            totals.add_column(heading, justify="left" if heading == "node" else "right")
        for pulled in pulls:
            size = sum(fetched.size for fetched in pulled.objects)
            cost = (str(pulled.registry_requests), f"{pulled.registry_bytes:,}")
            totals.add_row(pulled.node, f"{size:,}", _ms(pulled.duration_s), *cost)
        for table in (objects, totals):
            self._console.print(table)

    def claims(self, claims: Sequence[Claim]) -> None:
        """What was promised, and whether it was so."""
        for claim in claims:
            self.say(f"{'yes' if claim.held else 'NO ':3}  {claim.text}")

    def invite(self, agents: Sequence[Agent], layer: Fetched) -> None:
        """What can be tried while everything stays up."""
        last = agents[-1]
        blob = f"{last.url}/v2/{REPOSITORY.name}/blobs/{layer.digest}?ns={REPOSITORY.registry}"
        image = f"docker://{last.url.removeprefix('http://')}/{REPOSITORY}:{TAG}"
        lines = ["", "The registry is still stopped, and the agents stay up until Ctrl-C. Try:"]
        lines += [f"  {agent.name}: {agent.url}   metrics: {agent.metrics_url}/metrics" for agent in agents]
        lines.append(f"  curl -s -o /dev/null -D - '{blob}'")
        lines.append(f"  skopeo copy --src-tls-verify=false {image} oci:demo-image:demo")
        self.say("\n".join(lines))


class _Lines:
    def __init__(self, view: View) -> None:
        self._view = view

    def begin(self, name: str, size: int) -> None:
        pass

    def advance(self, name: str, size: int) -> None:
        pass

    def end(self, fetched: Fetched) -> None:
        text = f"  {fetched.name:<9}{fetched.size:>12,} bytes {_ms(fetched.duration_s):>8} ms  {fetched.server}"
        self._view.say(text)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def begin(self, name: str, size: int) -> None:
        self._tasks[name] = self._bars.add_task(name, total=size, server="")

    def advance(self, name: str, size: int) -> None:
        self._bars.advance(self._tasks[name], size)

    def end(self, fetched: Fetched) -> None:
        self._bars.update(self._tasks[fetched.name], server=escape(fetched.server))


def _ms(duration_s: float) -> str:
    return f"{duration_s * 1000:,.1f}"
