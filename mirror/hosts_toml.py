"""The text of a hosts.toml with the mirror in it: our block is put in or taken out, the rest is not touched.

containerd asks the hosts of a hosts.toml in the order of their tables, so our block goes in front of the first
table, or to the end, and keeps to two comment lines that mark it. What containerd will read is compared with what it
read before: the only difference may be our host, in its place. Nothing here does I/O.

Source: containerd docs/hosts.md, and core/remotes/docker/config/hosts.go for the order.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any, Final

from mirror.atomic_files import FileTextError
from mirror.toml_lines import TOML_ERRORS

CAPABILITIES: Final = ("pull", "resolve")

_BEGIN = re.compile(
    r"^# >>> skvaller(?P<file> made-file)?(?: made-directories=(?P<directories>\d{1,3}))?"
    r"(?P<line_end> added-line-end)? >>>\r?\n",
    re.MULTILINE,
)
_END = re.compile(r"^# <<< skvaller <<<(?:\r?\n|\Z)", re.MULTILINE)
_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_COMMENT_ABOVE = re.compile(r"(?:^[ \t]*#[^\n]*\n)+\Z", re.MULTILINE)


class HostsTextError(FileTextError):
    """The text cannot take the block, or the block in it is damaged; says why. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """What our block says: the mirror's URL, and where the registry is if containerd would not know (or None).

    `server` is for files that we make. A file of the operator's says itself where its registry is.
    """

    url: str
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What did not exist before us: the file, and how many directories above it. The block remembers it."""

    file: bool = False
    directories: int = 0


def with_block(text: str, mirror: Mirror, made: Made, *, first: bool = True) -> str:
    """`text`, which has no block, with ours in it, before the other hosts or behind them. Raises `HostsTextError`."""
    before = _parse(text, "it is not valid TOML")
    position = _first_table(text) if first else len(text)
    server = mirror.server if made.file and "server" not in before else None
    gap = "" if position == 0 or text[position - 1] == "\n" else "\n"
    result = text[:position] + gap + _block(mirror.url, server, made, added_line_end=bool(gap)) + text[position:]
    after = _parse(result, "it would not be valid TOML with the mirror's block")
    hosts = before.get("host", {})
    if not isinstance(hosts, dict):
        raise HostsTextError("its `host` is not a table")
    ours = {mirror.url: {"capabilities": list(CAPABILITIES)}}
    expected = {**before, "host": {**ours, **hosts}}
    if server is not None:
        expected["server"] = server
    order = [mirror.url, *hosts] if first else [*hosts, mirror.url]
    if after != expected or list(after["host"]) != order:
        raise HostsTextError(
            f"there is no place in it where the mirror would be asked {'first' if first else 'last'} and all else stay"
        )
    return result


def without_block(text: str) -> tuple[str, Made | None]:
    """`text` as it was before our block, and what we had made; (text, None) when it has no block.

    Raises `HostsTextError` when only a part of the block is left.
    """
    begins, ends = list(_BEGIN.finditer(text)), list(_END.finditer(text))
    if not begins and not ends:
        return text, None
    if len(begins) != 1 or len(ends) != 1 or begins[0].end() > ends[0].start():
        raise HostsTextError("the lines that mark the mirror's block are damaged; take the block out by hand")
    (begin,), (end,) = begins, ends
    above, below = text[: begin.start()], text[end.end() :]
    if begin["line_end"] and not below:
        above = above.removesuffix("\n")
    return above + below, Made(begin["file"] is not None, int(begin["directories"] or 0))


def hosts_of(text: str) -> dict[str, Any] | None:
    """The host tables by their URLs; None when there is no table `host` in it, or when it is not valid TOML."""
    try:
        hosts = tomllib.loads(text).get("host")
    except TOML_ERRORS:
        return None
    return hosts if isinstance(hosts, dict) else None


def _parse(text: str, complaint: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except TOML_ERRORS as error:
        raise HostsTextError(f"{complaint}: {error}") from None


def _first_table(text: str) -> int:
    """Where the first table begins, with the comment lines right above it; the end when there is none.

    A line that starts with a bracket may also be inside a list or a string of several lines. There the text
    above it is not TOML by itself.
    """
    for candidate in _TABLE.finditer(text):
        above = text[: candidate.start()]
        comment = _COMMENT_ABOVE.search(above)
        for position in (comment.start() if comment else candidate.start(), candidate.start()):
            try:
                tomllib.loads(text[:position])
            except TOML_ERRORS:
                continue
            return position
    return len(text)


def _block(url: str, server: str | None, made: Made, *, added_line_end: bool) -> str:
    facts = " made-file" if made.file else ""
    facts += f" made-directories={made.directories}" if made.directories else ""
    facts += " added-line-end" if added_line_end else ""
    server_line = f'server = "{server}"\n' if server is not None else ""
    capabilities = ", ".join(f'"{capability}"' for capability in CAPABILITIES)
    return (
        f"# >>> skvaller{facts} >>>\n"
        "# Written by `skvaller configure` and taken out by `skvaller cleanup`. What stands between the marks is\n"
        "# replaced; what stands outside of them is not touched.\n"
        f"{server_line}"
        f'[host."{url}"]\n'
        f"  capabilities = [{capabilities}]\n"
        "# <<< skvaller <<<\n"
    )
