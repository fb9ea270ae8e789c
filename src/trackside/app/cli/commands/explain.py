"""The command that explains an error."""

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
            help="The code that ends a message, such as `thread-busy`, or why a run failed, such as `worker_lost`.",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Explain an error, and what to do about it; without a code, list them all."""
    from trackside.app.cli.actions import explaining

    return explaining.explain(code, json=json)
