"""The commands about durable subscriptions, and their options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.commands import completing
from trackside.app.cli.commands.options import ApiKey, Database, DryRun, Json, Url, Yes, positive

app = typer.Typer()


class SubscriptionAction(StrEnum):
    """What can be done to a subscription."""

    pause = "pause"
    resume = "resume"
    delete = "delete"


class ParkedAction(StrEnum):
    """What can be done with parked events."""

    retry = "retry"
    drop = "drop"


_Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The subscription.",
        autocompletion=completing.subscriptions,
    ),
]


@app.command()
def subscriptions(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="One subscription.",
            autocompletion=completing.subscriptions,
        ),
    ] = None,
    action: Annotated[
        SubscriptionAction | None,
        typer.Argument(
            metavar="|".join(SubscriptionAction),
            help="Deliver nothing for now, go on from its position, or delete it with its position.",
        ),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show how far observers that are fed from the log have got, or one of them in full; pause, resume or delete it."""
    from trackside.app.cli.actions import subscriptions as steps
    from trackside.app.cli.actions.asking import Consent, refuse_idle
    from trackside.app.cli.places import Place

    place = Place(database=database, url=url, api_key=api_key)
    refuse_idle(
        yes="`delete`" if yes and action is not SubscriptionAction.delete else None,
        dry_run="`pause`, `resume` and `delete`" if dry_run and action is None else None,
    )
    if name is None:
        return steps.show_all(place, json=json)
    match action:
        case None:
            return steps.show_one(place, name, json=json)
        case SubscriptionAction.pause:
            return steps.pause(place, name, dry_run=dry_run, json=json)
        case SubscriptionAction.resume:
            return steps.resume(place, name, dry_run=dry_run, json=json)
        case SubscriptionAction.delete:
            return steps.delete(place, name, Consent(yes, dry_run), json=json)


@app.command()
def replay(
    name: _Name,
    from_: Annotated[
        int,
        typer.Option(
            "--from",
            metavar="POSITION",
            parser=positive,
            help="The position to deliver from; 1 delivers everything again.",
        ),
    ],
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", "-w", help="Wait until everything that is in the log now is delivered, and show how far it is."
        ),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Deliver events again from a position on, or skip ahead to it and leave out the events between."""
    from trackside.app.cli.actions import subscriptions as steps
    from trackside.app.cli.actions.asking import Consent
    from trackside.app.cli.places import Place

    place = Place(database=database, url=url, api_key=api_key)
    return steps.replay(place, name, from_, Consent(yes, dry_run), wait=wait, json=json)


@app.command()
def parked(
    name: _Name,
    action: Annotated[
        ParkedAction | None,
        typer.Argument(metavar="|".join(ParkedAction), help="Deliver the events again, or give them up."),
    ] = None,
    position: Annotated[
        list[int] | None,
        typer.Option(
            "--position",
            "-p",
            metavar="POSITION",
            parser=positive,
            help="Retry or drop only the event at this position; may be repeated.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", metavar="N", parser=positive, help="Show at most this many.", show_default="50"),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show the events that a subscription could not handle and skipped; have them delivered again, or drop them."""
    from trackside.app.cli.actions import subscriptions as steps
    from trackside.app.cli.actions.asking import Consent, refuse_idle
    from trackside.app.cli.places import Place

    place = Place(database=database, url=url, api_key=api_key)
    refuse_idle(
        yes="`drop`" if yes and action is not ParkedAction.drop else None,
        dry_run="`retry` and `drop`" if dry_run and action is None else None,
    )
    if action is not None and limit is not None:
        raise ArgumentError(name="--limit", why=f"it says how many to show; --position chooses what to {action}")
    match action:
        case None:
            return steps.show_parked(place, name, position, limit=limit or 50, json=json)
        case ParkedAction.retry:
            return steps.retry_parked(place, name, position, dry_run=dry_run, json=json)
        case ParkedAction.drop:
            return steps.drop_parked(place, name, position, Consent(yes, dry_run), json=json)
