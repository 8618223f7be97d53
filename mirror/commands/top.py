"""`skvaller top`: what this machine's agent does, as it happens."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from mirror.commands import Commands, complain
from mirror.commands.status import status_lines
from mirror.commands.tables import printable, size_text
from mirror.commands.transfers import transfer_lines
from mirror.local_client import AgentError, add_agent_option, ask_agent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

INTERVAL_S: Final = 1.0
PULLS_SHOWN: Final = 12


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    top = commands.add_parser(
        "top",
        help="what this machine's agent does, as it happens",
        description="Show this machine's agent, what moves through it and what it gave last, each second anew, until "
        "Ctrl-C. With --json, or where there is no terminal, it prints once.",
    )
    top.add_argument("--json", action="store_true", help="print once what the agent answered")
    add_agent_option(top)
    top.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    try:
        view = _ask(options.agent)
        if options.json:
            print(json.dumps(view, indent=2))
        elif not console.is_terminal:
            print("\n".join(top_lines(view)))
        else:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while True:
                    live.update(Text("\n".join(top_lines(view)), no_wrap=True, overflow="ellipsis"), refresh=True)
                    time.sleep(INTERVAL_S)
                    view = _ask(options.agent)
    except AgentError as error:
        complain(error)
        return 1
    return 0


def _ask(agent: str) -> dict[str, Any]:
    questions = ("status", "transfers", "pulls")
    return {question: ask_agent(agent, question) for question in questions}


def top_lines(view: dict[str, Any]) -> Iterator[str]:
    """Status, transfers and the last pulls in lines for people."""
    yield from status_lines(view["status"])
    yield ""
    yield from transfer_lines(view["transfers"])
    yield ""
    yield "last given:"
    for pull in view["pulls"][:PULLS_SHOWN]:
        at = time.strftime("%H:%M:%S", time.localtime(pull["at"]))
        source = " ".join(filter(None, (pull["source"].replace("_", " "), pull["holder"])))
        whom = f" to {pull['reader'] or 'a peer'}" if pull["face"] == "peer" else ""
        steps = f" ({', '.join(pull['steps'])})" if pull["steps"] else ""
        size = f"{size_text(pull['bytes'])} in {pull['duration_s']:.2f} s"
        yield printable(f"{at}  {pull['repository']} {pull['digest'][:19]}  {size} from {source}{whom}{steps}")
