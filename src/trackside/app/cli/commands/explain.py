"""The command that says what is behind an error."""

from __future__ import annotations

from typing import Annotated

import typer

from trackside.app.cli.commands.options import Json

app = typer.Typer()


@app.command()
def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="[CODE]",
            help="What a message ends with, as `thread-busy`, or what a run failed of, as `worker_lost`.",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Say what is behind an error, and what to do about it; without a code, list them all."""
    from trackside.app.cli.actions import explaining

    return explaining.explain(code, json=json)
