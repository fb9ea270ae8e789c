"""The commands that stop and remove what is recorded, and their options; also `top`, which does so by key."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trackside.app.cli.commands import completing
from trackside.app.cli.commands.options import ApiKey, Database, Json, Url, Yes, choices
from trackside.harness.types import CancelAction

app = typer.Typer()


class Deleted(StrEnum):
    """What can be deleted."""

    run = "run"
    thread = "thread"


@app.command()
def cancel(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="ID…",
            help="The runs to stop; the beginning or end of each id is enough.",
            autocompletion=completing.run_ids,
        ),
    ],
    action: Annotated[
        CancelAction,
        typer.Option(
            metavar=choices(CancelAction).replace(", ", "|"),
            help="Keep what the run did, or put its thread back as it was before.",
        ),
    ] = CancelAction.interrupt,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait until they have ended; Ctrl-C stops waiting.")
    ] = False,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Stop runs, whichever process executes them. If a run goes on as another attempt, that attempt is stopped.

    A run that has ended stays as it is, which is not an error. If another attempt is stopped, JSON describes that attempt,
    and `instead_of` is the run that you named.
    """
    from trackside.app.cli.actions import acting
    from trackside.app.cli.places import Place

    place = Place(database=database, url=url, api_key=api_key)
    return acting.cancel(acting.CancelOptions(runs=run, action=action, wait=wait, place=place, json=json))


@app.command()
def delete(
    kind: Annotated[
        Deleted, typer.Argument(metavar="|".join(Deleted), help="Whether the ids are of runs or of threads.")
    ],
    id: Annotated[
        list[str],
        typer.Argument(metavar="ID…", help="The beginning or end of each id is enough, except with --yes."),
    ],
    yes: Yes = False,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Delete runs that have ended, or threads with their runs and all that they remember. It asks first.

    Clients no longer see them. The events of deleted runs stay in the log until `trackside prune` removes them for good.
    Those of deleted threads go within a minute if a server or a worker is up, else with `trackside prune`.
    """
    from trackside.app.cli.actions import acting
    from trackside.app.cli.places import Place

    place = Place(database=database, url=url, api_key=api_key)
    options = acting.DeleteOptions(ids=id, yes=yes, place=place, json=json)
    return acting.delete_runs(options) if kind is Deleted.run else acting.delete_threads(options)


@app.command()
def top(
    light: Annotated[
        bool | None,
        typer.Option(
            "--light/--dark", help="Use colours for a light or a dark background.", show_default="what the terminal has"
        ),
    ] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> int:
    """Watch runs as they go on, and cancel or retry them with a key; ? lists the keys. Needs the extra `top`."""
    from trackside.app.cli.places import Place
    from trackside.app.cli.top import opening as shown

    return shown.top(Place(database=database, url=url, api_key=api_key), light=light)
