"""Reads command lines that people are told to type, with the real parser; nothing is executed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import typer

from trackside.app.cli.commands.parser import app


def commands(command: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, below in getattr(command, "commands", {}).items():
        yield f"{above}{name}", below
        yield from commands(below, f"{above}{name} ")


ROOT = typer.main.get_command(app)
COMMANDS = dict(commands(ROOT))


def understood(words: list[str]) -> str:
    """The command that these words call, after everything its parser does; the command does not run."""
    command: Any = ROOT
    context = command.make_context("trackside", words)
    path = []
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        path.append(name)
        context = command.make_context(name, rest, parent=context)
    return " ".join(path)


def of_trackside(line: str) -> list[str]:
    """The words typed after `trackside`, in whichever part of a pipe it stands."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    words = [*lexer]
    words = words[words.index("trackside") + 1 :]
    return words[: words.index("|")] if "|" in words else words
