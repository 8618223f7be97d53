"""Asks the agent of this machine through its local API (`mirror.local_api`): what commands are made with."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWER_S_MAX: Final = 30.0
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024


class AgentError(Exception):
    """The agent did not answer, or answered no; says which and what to do."""


class NoAgentError(AgentError):
    """Nobody answers there."""


def add_agent_option(parser: argparse.ArgumentParser) -> None:
    """Declare `--agent`, the URL of the agent's client face."""
    port = os.environ.get("SKVALLER_CLIENT_PORT", "29990")
    parser.add_argument(
        "--agent",
        type=_agent_url,
        default=f"http://127.0.0.1:{port}",
        metavar="URL",
        help="the client face of this machine's agent [default: %(default)s]",
    )


def _agent_url(text: str) -> str:
    try:
        address = urlsplit(text)
        if address.scheme == "http" and address.hostname and address.port != 0 and not address.path.strip("/"):
            return text
    except ValueError:  # of the port
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not like http://127.0.0.1:29990")


def ask_agent(url: str, question: str, **query: str) -> Any:
    """The agent's answer, as JSON. Raises `AgentError`."""
    return _send("GET", url, f"/-/api/{question}", query)


def control_agent(url: str, what: str, **query: str) -> Any:
    """Have the agent do something (`mirror.control`), or tell how it stands if there is nothing to do.

    Its answer, as JSON. Raises `AgentError`.
    """
    return _send("POST" if query else "GET", url, f"/-/{what}", query)


def _send(method: str, url: str, path: str, query: Mapping[str, str]) -> Any:
    address = url.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
    request = Request(address, method=method)  # noqa: S310 - the user's own word for where the agent is
    opener = build_opener(ProxyHandler({}))  # an agent on loopback is never behind a proxy
    try:
        with opener.open(request, timeout=ANSWER_S_MAX) as response:
            return json.loads(response.read(ANSWER_BYTES_MAX))
    except HTTPError as error:
        raise AgentError(_reason(error)) from error
    except OSError as error:
        raise NoAgentError(
            f"no agent answers at {url} ({getattr(error, 'reason', error)}); is `skvaller serve` running on this "
            "machine, and is this its client port?"
        ) from error
    except ValueError as error:
        raise AgentError(f"what answers at {url} is no agent: {error}") from error


def _reason(error: HTTPError) -> str:
    with error:
        try:
            return str(json.loads(error.read(4096))["error"])
        except (ValueError, LookupError, TypeError, OSError):
            return f"it answered {error.code}: is this an agent, and of the same version?"
