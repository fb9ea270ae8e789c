"""The commands about the database as a whole, and their options: what leaves it, and its tables."""

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
    """What an export can look like."""

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
    thread: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Only of this thread; its beginning or end is enough, but not with --yes.",
            autocompletion=completing.thread_ids,
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_PRUNES)] = None,
    json: Json = False,
) -> int:
    """Remove old runs for good, with their events; servers may go on meanwhile.

    Runs stay that are active, whose question waits for an answer, or that a subscription needs.

    The file does not become smaller, as new runs take the room; `db compact` makes it so.
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
        str, typer.Argument(metavar="FILE", help="Where to; compressed if it ends in .gz; - is standard output.")
    ] = "-",
    format: Annotated[
        ExportFormat | None,
        typer.Option(
            metavar="FORMAT", help="jsonl or parquet.", show_default="jsonl; parquet if FILE ends in .parquet"
        ),
    ] = None,
    start: Annotated[int, typer.Option("--from", metavar="POSITION", parser=positive, help="The first position.")] = 1,
    to: Annotated[
        int | None,
        typer.Option(metavar="POSITION", parser=positive, help="The last position.", show_default="the end"),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Only of this run; its beginning or end is enough.")
    ] = None,
    thread: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only of this thread, by its whole id.", autocompletion=completing.thread_ids),
    ] = None,
    agent: Agent = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those that occurred since: 2h, 3d, 2026-01-31.")
    ] = None,
    type: Annotated[
        list[LifecycleEventType] | None,
        typer.Option(metavar="TYPE", help=f"Only this type ({TYPES}); may be repeated. Cannot be imported."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_EXPORTS)] = None,
) -> int:
    """Write the events of the log to a file; `import` reads it, and makes runs and threads of them again.

    What threads remember is not in it, so a question that waits for an answer can only be answered here.
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
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `export` has written; - is standard input.")],
    database: Database = None,
    url: Annotated[str | None, only_here(_IMPORTS)] = None,
    json: Json = False,
) -> int:
    """Append the events of an export that are not in the database yet. Cut short, it goes on when it is done again.

    It shows what happened elsewhere: threads do not remember it, so that what was asked is still listed as waiting but can
    be answered only there, and runs that had not ended stay as they were, with nobody who executes them.
    """
    from trackside.app.cli.actions import transfers

    return transfers.import_(file, database, json=json)


@app.command()
def doctor(database: Database = None, url: Url = None, api_key: ApiKey = None, json: Json = False) -> int:
    """Find what is wrong with settings, agents, database, runs, subscriptions, disks, and say what to do; changes nothing.

    With --url it shows what the server finds on its own machine; the commands that it names are to be typed there.
    """
    from trackside.app.cli.actions import diagnosis
    from trackside.app.cli.places import Place

    return diagnosis.doctor(Place(database=database, url=url, api_key=api_key), json=json)


@db.command()
def current(
    database: Database = None, url: Annotated[str | None, only_here(_TABLES)] = None, json: Json = False
) -> int:
    """Show which version the tables are of, and which one this Trackside works with."""
    from trackside.app.cli.actions import schema

    return schema.show_version(database, json=json)


@db.command()
def upgrade(
    yes: Yes = False,
    dry_run: DryRun = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_TABLES)] = None,
) -> int:
    """Make the tables, or bring those of an older version up to date. Whoever records runs does so, too.

    It asks before it changes tables in which there are events: an older Trackside cannot use them afterwards.
    """
    from trackside.app.cli.actions import schema

    return schema.upgrade(database, yes=yes, dry_run=dry_run)


@db.command()
def check(
    every: Annotated[
        bool, typer.Option("--all", help="Compare every run with its events, not only the newest 1,000.")
    ] = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_TABLES)] = None,
    json: Json = False,
) -> int:
    """Find what is wrong with the database; changes nothing."""
    from trackside.app.cli.actions import schema

    return schema.check(database, every=every, json=json)


@db.command()
def compact(database: Database = None, url: Annotated[str | None, only_here(_TABLES)] = None) -> int:
    """Give the space that removed runs had back to the disk. Meanwhile nobody can record; new runs would take it, too.

    Twice the space that the file takes in the end has to be free: once beside it, and once for temporary files.
    """
    from trackside.app.cli.actions import schema

    return schema.compact(database)
