"""`skvaller completion`: completion of commands and flags for a shell, made from the parser itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mirror.commands import Commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SHELLS = ("bash", "zsh", "fish")


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    completion = commands.add_parser(
        "completion",
        help="completion of commands and flags for bash, zsh or fish",
        description="Print a script that completes commands and flags: source <(skvaller completion bash), "
        "source <(skvaller completion zsh), or skvaller completion fish | source.",
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=lambda options: _run(options, commands))


def _run(options: argparse.Namespace, commands: Commands[argparse.ArgumentParser]) -> int:
    helps = {action.dest: action.help or "" for action in commands._get_subactions()}  # noqa: SLF001 (no public way)
    words = {name: list(_words(parser)) for name, parser in commands.choices.items()}
    lines = _fish_lines(helps, words) if options.shell == "fish" else _bash_lines(words)
    if options.shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print("\n".join(lines))
    return 0


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001 (no public way)
        yield from (flag for flag in action.option_strings if flag.startswith("--"))
        if not action.option_strings and action.choices:
            yield from map(str, action.choices)


def _bash_lines(words: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield "_skvaller() {"
    yield '    local current="${COMP_WORDS[COMP_CWORD]}" words'
    yield '    case "$COMP_CWORD:${COMP_WORDS[1]}" in'
    yield f'        1:*) words="{" ".join([*words, "--help", "--version"])}" ;;'
    for name, each in words.items():
        yield f'        *:{name}) words="{" ".join(each)}" ;;'
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    yield "complete -o default -F _skvaller skvaller"


def _fish_lines(helps: Mapping[str, str], words: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield "complete -c skvaller -n __fish_use_subcommand -f"
    for name in words:
        description = helps.get(name, "").replace("'", "\\'")
        yield f"complete -c skvaller -n __fish_use_subcommand -a {name} -d '{description}'"
    for name, each in words.items():
        for word in each:
            option = f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}"
            yield f"complete -c skvaller -n '__fish_seen_subcommand_from {name}' {option}"
