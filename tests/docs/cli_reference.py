"""Writes docs/cli.md from the parser: every command with its arguments, options, exit codes and examples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from trackside.app.cli.commands.manual import MANUAL
from trackside.app.cli.commands.parser import app

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "cli.md"
_HIDDEN: Final = {"help", "install_completion", "show_completion"}
_BEGINNING: Final = """# Command line

This page lists every command of `trackside` with its arguments, options and exit codes, as `--help` shows them. It is
generated from the parser.

A command writes its result to standard output, and messages about it to standard error. With `--json`, it writes one
JSON object per line. `--database` says where the records are; if a server has them, use `--url` and `--api-key` instead.
Without either, the database is the one that `trackside.toml` names, else `trackside.db` in the current folder.
`TRACKSIDE_URL` and `TRACKSIDE_API_KEY` count only in the environment of the command, and not among the variables of a
project's `langgraph.json`: a folder does not decide who gets what you type, or your key.

On a terminal, commands show colours (none with `NO_COLOR`), progress bars for slow operations, and charts below `stats`.
In a pipe, they show none of these. `trackside --install-completion` makes bash, zsh or fish complete commands and options.

Besides the exit codes listed for each command, there are two more: 130 if Ctrl-C interrupted the command, and 141 if
nobody reads its output any more, as in `trackside explain | head`.

A server or worker writes its program's log to standard error. Other commands show of theirs only what their observers failed
with; with `TRACKSIDE_DEBUG=1` in the environment, they show all warnings and errors in it, and the traceback if Trackside
itself fails.
"""


def written() -> str:
    """The text that the document must have."""
    return "\n".join([_BEGINNING, *_groups()]).rstrip() + "\n"


def _groups() -> Iterator[str]:
    found = dict(_commands(typer.main.get_command(app)))
    for group in dict.fromkeys(entry.group for entry in MANUAL.values()):
        yield f"## {group}\n"
        for name, entry in MANUAL.items():
            if entry.group == group and name in found and not hasattr(found[name], "commands"):
                yield from _command(name, found[name])


def _commands(command: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, below in getattr(command, "commands", {}).items():
        yield f"{above}{name}", below
        yield from _commands(below, f"{above}{name} ")


def _command(name: str, command: Any) -> Iterator[str]:
    entry = MANUAL[name]
    yield f"### `trackside {name}`\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    shown = [one for one in command.params if one.name not in _HIDDEN and not getattr(one, "hidden", False)]
    yield "| | | |\n|---|---|---|"
    for one in shown:
        names = ", ".join(f"`{word}`" for word in one.opts) if one.opts[0].startswith("-") else f"`{one.metavar}`"
        value = f"`{one.metavar}`".replace("|", "\\|") if one.metavar and one.opts[0].startswith("-") else ""
        yield f"| {names.replace('|', chr(92) + '|')} | {value} | {_said(one)} |"
    yield f"\nExit codes: {entry.exits}.\n"
    yield "```text"
    for example in entry.examples:
        yield f"$ {example.line}    # {example.what}"
    yield "```\n"


def _said(one: Any) -> str:
    text = (one.help or "").replace("|", "\\|")
    default = one.show_default if isinstance(one.show_default, str) else ""
    if not default and isinstance(one.default, int | str) and not isinstance(one.default, bool) and one.show_default:
        default = str(one.default)
    return f"{text} Default: {default}." if default else text


def documents() -> dict[Path, str]:
    """The page."""
    return {DOCUMENT: written()}
