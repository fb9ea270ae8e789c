"""The command that is typed is built alone; it is the same as among all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from trackside.app.cli.commands.parser import parser, parser_of

NAMES = [*parser().commands]
PARTS = (
    "name",
    "opts",
    "secondary_opts",
    "nargs",
    "multiple",
    "required",
    "default",
    "hidden",
    "help",
    "metavar",
    "envvar",
)


def described(command: Any) -> dict[str, Any]:
    """All that can be seen of a command and of those below it."""
    params = [{part: getattr(param, part, None) for part in PARTS} for param in command.params]
    below = {name: described(one) for name, one in getattr(command, "commands", {}).items()}
    shown = {part: getattr(command, part) for part in ("name", "help", "epilog", "hidden", "no_args_is_help")}
    return {**shown, "kind": type(command), "params": params, "commands": below, "panel": command.rich_help_panel}


@pytest.mark.parametrize("name", NAMES)
def test_a_command_is_built_alone_as_it_is_among_all(name: str) -> None:
    alone = parser_of([name, "--help"])
    assert [*alone.commands] == [name]
    assert described(alone.commands[name]) == described(parser().commands[name])
    assert alone.context_settings == parser().context_settings
    assert [one.opts for one in alone.params] == [
        one.opts for one in parser().params if "completion" not in (one.name or "")
    ]


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["--version"], ["--show-completion"], ["rnu", "agents.py:echo"], [""]]
)
def test_whatever_is_no_command_is_looked_up_among_all(arguments: Sequence[str]) -> None:
    assert parser_of(arguments) is parser()
