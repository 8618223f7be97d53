"""`skvaller explain IMAGE`: where its objects are, and where this node would take them from."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from mirror.commands import Commands, complain
from mirror.commands.tables import printable
from mirror.local_client import AgentError, add_agent_option, ask_agent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

HOLDERS_NAMED_MAX = 8


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    explain = commands.add_parser(
        "explain",
        help="where the objects of an image are, and where this node would take them from",
        description="Ask this machine's agent about every object of an image: who holds it, where this node would take "
        "it from and why, and what became of the last request for it. Nothing is pulled but the manifests. Exit code: "
        "0 explained, 1 it cannot be.",
    )
    explain.add_argument("image", metavar="IMAGE", help="such as nginx, quay.io/team/app:1.27 or NAME@sha256:...")
    explain.add_argument("--json", action="store_true", help="print what the agent answered")
    add_agent_option(explain)
    explain.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        answer = ask_agent(options.agent, "explain", image=options.image)
    except AgentError as error:
        complain(printable(str(error)))
        return 1
    print(json.dumps(answer, indent=2) if options.json else "\n".join(explanation_lines(answer)))
    return 0


def explanation_lines(answer: dict[str, Any]) -> Iterator[str]:
    """The agent's answer (a `mirror.explain.Explanation`) in lines for people; much of it others chose."""
    return (printable(line) for line in _lines(answer))


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    yield f"{answer['image']} is {answer['digest']}"
    yield f"  ({answer['meaning']})"
    if answer["last"]:
        yield f"  last asked for {_answer(answer['last'])}"
    if answer["protected"]:
        yield "  private: each object is given to those alone whom the registry lets in"
    for part in answer["parts"]:
        facts = [part["role"], part["digest"], _size(part["size"]), part["platform"]]
        yield ""
        yield "  ".join(fact for fact in facts if fact)
        if part["error"]:
            yield f"    {part['error']}"
        giver = f" {part['candidates'][0]['name']}" if part["source"] == "peer" else ""
        source = "would not come from here" if part["source"] == "aside" else f"would come from {part['source']}{giver}"
        yield f"    {source}: {part['why']}"
        if part["holders"]:
            yield f"    held by {_holders(part)}"
        if part["last"]:
            yield f"    last asked for {_answer(part['last'])}"
    if not answer["complete"]:
        yield ""
        yield "This is not all: the image has too many objects, or a source took too long to answer."


def _holders(part: dict[str, Any]) -> str:
    named = part["candidates"][:HOLDERS_NAMED_MAX]
    words = []
    for each in named:
        facts = [each["zone"], each["remark"]]
        detail = "; ".join(fact for fact in facts if fact)
        words.append(f"{each['name']} ({detail})" if detail else each["name"])
    if (more := part["holders"] - len(named)) > 0:
        words.append(f"{more} more")
    return ", ".join(words)


def _answer(last: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["at"]))
    giver = " ".join(word for word in (last["source"], last["holder"]) if word)
    outcome = f"{last['status']} from {giver}" if giver else str(last["status"])
    reason = f": {last['message']}" if last["message"] else ""
    return f"at {at} ({last['method']}), answered {outcome} after {last['seconds']:.3f} s{reason}"


def _size(size: int | None) -> str:
    return "" if size is None else f"{size:,} bytes"
