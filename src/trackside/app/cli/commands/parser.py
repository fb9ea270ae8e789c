"""All commands of the program. The modules named here say how they are typed; what they do is elsewhere."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import typer
from typer.core import TyperGroup

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
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup), "there are several commands"
    return command


suggesting.know(parser)
