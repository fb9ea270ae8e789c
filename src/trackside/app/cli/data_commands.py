"""The commands about the database as a whole, and their options: what leaves it, and its tables."""

from __future__ import annotations

from typing import Annotated

import typer

from trackside.app.cli.options import Agent, Database, Json, Thread
from trackside.harness.lifecycle import FINAL_STATUSES
from trackside.harness.types import RunStatus

_ENDS = ", ".join(status for status in RunStatus if status in FINAL_STATUSES)

app = typer.Typer()
db = typer.Typer(
    no_args_is_help=True, help="The tables of the database: which version they are of, whether all is well."
)
app.add_typer(db, name="db")


@app.command()
def prune(
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Only runs that ended so long ago: 12h, 30d, 8w; 0d is whenever.")
    ],
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only those that ended with this status ({_ENDS}); may be repeated."),
    ] = None,
    agent: Agent = None,
    thread: Thread = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    database: Database = None,
    json: Json = False,
) -> int:
    """Remove old runs for good, with their events; servers may go on meanwhile.

    Runs stay that are active, whose question waits for an answer, or that a subscription needs.

    The file does not become smaller: new runs take the room.
    """
    from trackside.app.cli import pruning

    return pruning.prune(
        pruning.PruneOptions(
            older_than=older_than,
            status=status or None,
            agent=agent,
            thread=thread,
            dry_run=dry_run,
            yes=yes,
            database=database,
            json=json,
        )
    )


@db.command()
def current(database: Database = None, json: Json = False) -> int:
    """Show which version the tables are of, and which one this Trackside works with."""
    from trackside.app.cli import schema

    return schema.show_version(database, json=json)


@db.command()
def upgrade(database: Database = None) -> int:
    """Make the tables, or bring those of an older version up to date. Whoever records runs does so, too."""
    from trackside.app.cli import schema

    return schema.upgrade(database)


@db.command()
def check(
    every: Annotated[
        bool, typer.Option("--all", help="Compare every run with its events, not only the newest 1,000.")
    ] = False,
    database: Database = None,
    json: Json = False,
) -> int:
    """Find what is wrong with the database; changes nothing. Exit codes: 0 all is well, 1 something is wrong."""
    from trackside.app.cli import schema

    return schema.check(database, every=every, json=json)
