"""The commands about the database as a whole, and their options: `prune`, `export`, `import`, `doctor`, `db`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trackside.app.cli.commands import completing
from trackside.app.cli.commands.options import (
    TYPES,
    Agent,
    ApiKey,
    Database,
    DryRun,
    Json,
    Url,
    Yes,
    only_here,
    positive,
)
from trackside.harness.lifecycle import FINAL_STATUSES
from trackside.harness.types import LifecycleEventType, RunStatus


class ExportFormat(StrEnum):
    """The formats of an export."""

    jsonl = "jsonl"
    parquet = "parquet"


_PRUNES = "old runs are removed where the database is; of a server, `trackside delete` removes single runs and threads"
_EXPORTS = (
    "an export is written where the database is: `trackside export` on that machine; `trackside events --url … --json` has a"
    " server's events, too, but cannot be imported"
)
_IMPORTS = "an export is read where the database is: copy it there, and name the database with --database"
_TABLES = "the tables are seen to where the database is; `trackside doctor --url` says how a server's are"
_ENDS = ", ".join(status for status in RunStatus if status in FINAL_STATUSES)

app = typer.Typer()
db = typer.Typer(
    no_args_is_help=True, help="The tables of the database: which version they have, and whether all is well."
)
app.add_typer(db, name="db")


@app.command()
def prune(
    older_than: Annotated[
        str,
        typer.Option(metavar="TIME", help="Only runs that ended at least this long ago: 12h, 30d, 8w; 0d is any time."),
    ],
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only runs that ended with this status ({_ENDS}); may be repeated."),
    ] = None,
    agent: Agent = None,
    thread: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Only this thread; the beginning or end of its id is enough, except with --yes.",
            autocompletion=completing.thread_ids,
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_PRUNES)] = None,
    json: Json = False,
) -> int:
    """Remove old runs for good, with their events. Servers may keep running meanwhile.

    It keeps runs that are active, whose question waits for an answer, or that a subscription needs.

    The file does not shrink, because new runs reuse the space; `db compact` shrinks it.
    """
    from trackside.app.cli.actions import pruning

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


@app.command()
def export(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="The file to write, compressed if its name ends in .gz; - is standard output."
        ),
    ] = "-",
    format: Annotated[
        ExportFormat | None,
        typer.Option(
            metavar="FORMAT", help="jsonl or parquet.", show_default="jsonl; parquet if FILE ends in .parquet"
        ),
    ] = None,
    start: Annotated[
        int, typer.Option("--from", metavar="POSITION", parser=positive, help="The first position to export.")
    ] = 1,
    to: Annotated[
        int | None,
        typer.Option(metavar="POSITION", parser=positive, help="The last position to export.", show_default="the end"),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only events of this run; the beginning or end of its id is enough."),
    ] = None,
    thread: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Only events of this thread, by its whole id.", autocompletion=completing.thread_ids
        ),
    ] = None,
    agent: Agent = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only events that occurred since this time: 2h (ago), 3d, 2026-01-31."),
    ] = None,
    type: Annotated[
        list[LifecycleEventType] | None,
        typer.Option(
            metavar="TYPE", help=f"Only events of this type ({TYPES}); may be repeated. The file cannot be imported."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_EXPORTS)] = None,
) -> int:
    """Write the events of the log to a file, from which `import` makes runs and threads again.

    The file does not contain what threads remember, so a question that waits for an answer can only be answered here.
    """
    from trackside.app.cli.actions import transfers

    return transfers.export(
        transfers.ExportOptions(
            file=file,
            format=None if format is None else format.value,
            start=start,
            to=to,
            run=run,
            thread=thread,
            agent=agent,
            types=type or None,
            since=since,
            force=force,
            database=database,
        )
    )


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file that `export` has written; - is standard input.")],
    database: Database = None,
    url: Annotated[str | None, only_here(_IMPORTS)] = None,
    json: Json = False,
) -> int:
    """Append the events of an export that are not in the database yet. If it is cut short, run it again and it goes on.

    What is imported shows what happened elsewhere; threads do not remember it. A question that was open is still listed as
    waiting, but can be answered only there. Runs that had not ended stay as they were, and nobody executes them.
    """
    from trackside.app.cli.actions import transfers

    return transfers.import_(file, database, json=json)


@app.command()
def doctor(database: Database = None, url: Url = None, api_key: ApiKey = None, json: Json = False) -> int:
    """Find what is wrong with settings, agents, database, runs, subscriptions and disks, and what to do. Changes nothing.

    With --url, it shows what the server finds on its own machine; type the commands that it names there.
    """
    from trackside.app.cli.actions import diagnosis
    from trackside.app.cli.places import Place

    return diagnosis.doctor(Place(database=database, url=url, api_key=api_key), json=json)


@db.command()
def current(
    database: Database = None, url: Annotated[str | None, only_here(_TABLES)] = None, json: Json = False
) -> int:
    """Show which version the tables have, and which one this Trackside works with."""
    from trackside.app.cli.actions import schema

    return schema.show_version(database, json=json)


@db.command()
def upgrade(
    yes: Yes = False,
    dry_run: DryRun = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_TABLES)] = None,
    json: Json = False,
) -> int:
    """Create the tables, or bring those of an older version up to date. Every process that records runs does so, too.

    It asks before it changes tables that contain events, because an older Trackside cannot use them afterwards.
    """
    from trackside.app.cli.actions import schema

    return schema.upgrade(database, yes=yes, dry_run=dry_run, json=json)


@db.command()
def check(
    every: Annotated[
        bool, typer.Option("--all", help="Compare every run with its events, not only the newest 1,000.")
    ] = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_TABLES)] = None,
    json: Json = False,
) -> int:
    """Find what is wrong with the database. Changes nothing."""
    from trackside.app.cli.actions import schema

    return schema.check(database, every=every, json=json)


@db.command()
def compact(
    database: Database = None, url: Annotated[str | None, only_here(_TABLES)] = None, json: Json = False
) -> int:
    """Give the space of removed runs back to the disk. Nobody can record meanwhile; new runs would reuse the space, too.

    Twice the space that the file takes in the end has to be free: once beside the file, and once for temporary files.
    """
    from trackside.app.cli.actions import schema

    return schema.compact(database, json=json)
