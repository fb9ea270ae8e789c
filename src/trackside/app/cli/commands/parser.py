"""All commands of the program. The modules named here say how they are typed; what they do is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command_name
from typer.models import CommandInfo

from trackside._version import __version__
from trackside.app.cli import suggesting
from trackside.app.cli.commands import (
    acting,
    auth,
    data,
    explain,
    fleet,
    look,
    manual,
    observers,
    run,
    server,
    subscriptions,
    typed_once,
    workers,
)

_SETTINGS: Final[dict[str, Any]] = {
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

app = typer.Typer(**_SETTINGS)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trackside {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Runs agents and tells everyone who needs to know.

    Exit codes: 0 done, 1 failed, 2 the command line is wrong, 130 Ctrl-C, 141 nobody reads the output any more.
    `run`, `resume` and `retry` have more of them.
    """


app.add_typer(run.app)
app.add_typer(look.app)
app.add_typer(acting.app)
app.add_typer(server.app)
app.add_typer(workers.app)
app.add_typer(fleet.app)
app.add_typer(auth.app)
app.add_typer(data.app)
app.add_typer(explain.app)
app.add_typer(observers.app)
app.add_typer(subscriptions.app)
manual.describe(app)
typed_once.type_once(app)


@cache
def parser() -> TyperGroup:
    """The parser of all commands. Built once, because that takes longer than most commands do."""
    return _built(app)


def parser_of(arguments: Sequence[str]) -> TyperGroup:
    """The parser for what was typed: of one command alone, if its name comes first. All take twenty times as long."""
    alone = _alone(arguments[0]) if arguments else None
    return parser() if alone is None else _built(alone)


def _alone(name: str) -> typer.Typer | None:
    """The program with only the command, or the group of commands, that has this name; None if there is none."""
    found = typer.Typer(add_completion=False, **_SETTINGS)
    found.registered_callback = app.registered_callback
    for module in app.registered_groups:
        typed = module.typer_instance
        assert typed is not None
        found.registered_commands += [one for one in typed.registered_commands if _name_of(one) == name]
        found.registered_groups += [one for one in typed.registered_groups if one.name == name]
    return found if found.registered_commands or found.registered_groups else None


def _name_of(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or get_command_name(command.callback.__name__)


def _built(program: typer.Typer) -> TyperGroup:
    command = typer.main.get_command(program)
    assert isinstance(command, TyperGroup), "there are several commands"
    return command


suggesting.know(parser)
