"""The commands about the HTTP server, and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.commands.options import Database, Engine, only_here

app = typer.Typer()

_SERVES = "it starts a server, and needs none; where that listens, --host and --port say"


@app.command()
def serve(
    agent: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AGENT]…",
            help="path/file.py:name, package.module:name, or a name from the settings; only these are served.",
            show_default="all that the settings name",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="The address to listen on; 0.0.0.0 is everywhere.", show_default="127.0.0.1"
        ),
    ] = None,
    port: Annotated[
        str | None,
        typer.Option(
            "--port", "-p", metavar="N", help="The port to listen on; 0 is any free port.", show_default="2024"
        ),
    ] = None,
    database: Database = None,
    engine: Engine = None,
    url: Annotated[str | None, only_here(_SERVES, heeds_environment=False)] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what would keep it from starting, or that all is well, and exit.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object to standard output once the server answers.")
    ] = False,
) -> int:
    """Serve agents over HTTP, to LangGraph's clients and others, until Ctrl-C or SIGTERM.

    SIGHUP reloads it, with the settings and agents as they are by then; no client is turned away meanwhile.
    """
    from trackside.app.cli.serving import server

    options = server.ServeOptions(
        agents=tuple(agent or ()), host=host, port=port, database=database, engine=engine, json=json
    )
    if check and json:
        raise ArgumentError(name="--json", why="it is for who waits until it answers; with --check nothing is started")
    return server.check(options) if check else server.serve(options)
