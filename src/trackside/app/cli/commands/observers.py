"""The commands about the observers that the settings name, and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from trackside.app.cli.commands.options import Database, Json, only_here

app = typer.Typer()

_OBSERVERS = (
    "it shows the settings that are here; how far a server's observers are, `trackside subscriptions --url` says"
)
_DELIVERS = "a server feeds its own observers; how far they are, `trackside subscriptions --url` says"


@app.command()
def observers(
    url: Annotated[str | None, only_here(_OBSERVERS, heeds_environment=False)] = None, json: Json = False
) -> int:
    """Show the observers that trackside.toml configures, and which others are available."""
    from trackside.app.cli.actions import observing

    return observing.show(json=json)


@app.command()
def deliver(
    name: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]…", help="Only these observers.", show_default="all durable ones"),
    ] = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Exit when everything is delivered.")] = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_DELIVERS)] = None,
    json: Json = False,
) -> int:
    """Feed durable observers from the log, until Ctrl-C or SIGTERM, the usual ways to end it.

    Use it for programs that only record, and for what `trackside run` left for later. Several can run side by side.
    """
    from trackside.app.cli.actions import delivering

    return delivering.deliver(name or (), database=database, until_idle=until_idle, json=json)
