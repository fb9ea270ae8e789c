"""All commands of the program. What they are typed with is in the modules named here, what they do elsewhere."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import typer
from typer.core import TyperGroup

from trackside._version import __version__
from trackside.app.cli import (
    acting_commands,
    auth_commands,
    data_commands,
    explain_commands,
    fleet_commands,
    look_commands,
    manual,
    observer_commands,
    run_commands,
    server_commands,
    subscription_commands,
    suggesting,
    typed_once,
    worker_commands,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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

    Exit codes: 0 done, 1 it failed, 2 what was typed is wrong, 130 Ctrl-C, 141 nobody reads it any more.
    Those of `run`, `resume` and `retry` say more.
    """


app.add_typer(run_commands.app)
app.add_typer(look_commands.app)
app.add_typer(acting_commands.app)
app.add_typer(server_commands.app)
app.add_typer(worker_commands.app)
app.add_typer(fleet_commands.app)
app.add_typer(auth_commands.app)
app.add_typer(data_commands.app)
app.add_typer(explain_commands.app)
app.add_typer(observer_commands.app)
app.add_typer(subscription_commands.app)
manual.describe(app)
typed_once.type_once(app)


@cache
def parser() -> TyperGroup:
    """What reads all that can be typed. Built once, as that takes longer than most commands do."""
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup), "there are several commands"
    return command


suggesting.know(parser)
