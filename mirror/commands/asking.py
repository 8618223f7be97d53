"""What the commands that show something of an agent share: they ask its local API and print lines, or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mirror.commands import Commands, complain
from mirror.local_client import AgentError, add_agent_option, ask_agent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable


def add_asking(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    help_text: str,
    description: str,
    lines: Callable[[Any], Iterable[str]],
) -> argparse.ArgumentParser:
    """Declare a command that asks the agent for the view of its own name, and prints `lines` of the answer.

    A positional argument that is declared on the parser that this returns goes into the query.
    """
    parser = commands.add_parser(name, help=help_text, description=description)
    parser.add_argument("--json", action="store_true", help="print what the agent answered")
    add_agent_option(parser)

    def run(options: argparse.Namespace) -> int:
        query = {key: value for key, value in vars(options).items() if key not in {"json", "agent", "run"}}
        try:
            answer = ask_agent(options.agent, name, **query)
        except AgentError as error:
            complain(error)
            return 1
        print(json.dumps(answer, indent=2) if options.json else "\n".join(lines(answer)))
        return 0

    parser.set_defaults(run=run)
    return parser
