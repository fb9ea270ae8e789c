"""The commands about a whole fleet on this machine, and their options."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trackside.app.cli.commands.options import only_here, positive

app = typer.Typer()
fleet = typer.Typer(no_args_is_help=True, help="A whole fleet on this machine, for trying things out.")
app.add_typer(fleet, name="fleet")

_STARTS = "it starts servers of its own, and says where they answer"


class EngineChoice(StrEnum):
    """What moves work in a fleet on this machine."""

    nats = "nats"
    postgres = "postgres"


@fleet.command()
def up(
    agent: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AGENT]…",
            help="path/file.py:name, package.module:name, or a name from the settings; only these are served.",
            show_default="all that the settings name",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", "-n", metavar="N", parser=positive, help="How many workers to start.")
    ] = 3,
    servers: Annotated[int, typer.Option(metavar="N", parser=positive, help="How many servers to start.")] = 2,
    engine: Annotated[
        EngineChoice, typer.Option(metavar="|".join(EngineChoice), help="What moves work between servers and workers.")
    ] = EngineChoice.nats,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            metavar="N",
            parser=positive,
            help="The port of the first server; the others use the ports after it.",
            show_default="any free ports",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the database and the logs in this folder.",
            show_default="a folder that is removed at the end",
        ),
    ] = None,
    url: Annotated[str | None, only_here(_STARTS, heeds_environment=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Write one JSON object per line, for programs.")] = False,
) -> int:
    """Start PostgreSQL, NATS, servers and workers on this machine, and show them, until Ctrl-C.

    Everything comes from packages (the extra `fleet`) and listens on loopback. A process that dies is started again.
    Ctrl-C lets runs end, then stops all processes in turn. A second Ctrl-C does so quickly, a third one at once.
    """
    from trackside.app.cli.serving import fleet as local_fleet

    options = local_fleet.UpOptions(
        agents=tuple(agent or ()),
        workers=workers,
        servers=servers,
        engine=engine.value,
        first_port=port,
        data=data,
        json=json,
    )
    return local_fleet.up(options)
