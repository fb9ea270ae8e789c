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

All commands of `trackside`, as `--help` shows them; this page is written from the parser. What is asked for goes to
standard output, what is said about it to standard error. `--json` writes one object a line. Where records are is said by
`--database`, or by `--url` and `--api-key` of a server; without either it is what `trackside.toml` says, else
`trackside.db` here.

On a terminal there are colours (none with `NO_COLOR`), bars where something takes its time, and charts below `stats`; in a
pipe nothing of that. `trackside --install-completion` has bash, zsh or fish complete commands and options.

Beside the exit codes that each command has below, there are 130 for what Ctrl-C broke off, and 141 where nobody reads the
output any more, as in `trackside explain | head`.
"""


def written() -> str:
    """The document as it has to be."""
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
