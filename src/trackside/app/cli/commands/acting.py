"""The commands that stop and remove what is recorded, and their options."""

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
            metavar="ID…", help="Runs; the beginning or end of each id is enough.", autocompletion=completing.run_ids
        ),
    ],
    action: Annotated[
        CancelAction,
        typer.Option(
            metavar=choices(CancelAction).replace(", ", "|"),
            help="Keep what a run did, or have its thread as it was before.",
        ),
    ] = CancelAction.interrupt,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Until they have ended; Ctrl-C waits no longer.")] = False,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Stop runs, whichever process executes them. Of one that goes on as another attempt, that is stopped.

    One that has ended stays as it is, and that is no error. JSON tells of the attempt that is stopped; `instead_of` is
    then the run that was named.
    """
    from trackside.app.cli.actions import acting
    from trackside.app.cli.places import Place

    place = Place(database=database, url=url, api_key=api_key)
    return acting.cancel(acting.CancelOptions(runs=run, action=action, wait=wait, place=place, json=json))


@app.command()
def delete(
    kind: Annotated[Deleted, typer.Argument(metavar="|".join(Deleted), help="Of what the ids are.")],
    id: Annotated[
        list[str],
        typer.Argument(metavar="ID…", help="The beginning or end of each is enough, but not with --yes."),
    ],
    yes: Yes = False,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Remove runs that have ended, or threads with their runs and all that they remember; it asks before.

    Clients do not see them any more. Events of runs stay in the log, until `trackside prune` removes them for good.
    Those of threads go within a minute where a server or a worker is up, else with `trackside prune`.
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
            "--light/--dark", help="For a light background, or a dark one.", show_default="what the terminal has"
        ),
    ] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> int:
    """Watch runs as they go on, and cancel or retry them by key; ? says which keys there are. Needs the extra `top`."""
    from trackside.app.cli.places import Place
    from trackside.app.cli.top import opening as shown

    return shown.top(Place(database=database, url=url, api_key=api_key), light=light)
