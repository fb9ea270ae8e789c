"""The commands that look at what was recorded, and their options: `runs`, `threads`, `events`, `tail`, `stats`."""

from __future__ import annotations

from typing import Annotated

import typer

from trackside.app.cli.arguments import ALL
from trackside.app.cli.commands import completing
from trackside.app.cli.commands.options import (
    RUN_STATUSES,
    THREAD_STATUSES,
    TYPES,
    Agent,
    ApiKey,
    Database,
    Json,
    Limit,
    Thread,
    Url,
    positive,
    whole_number,
)
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

app = typer.Typer()


@app.command()
def runs(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="One run; its beginning or end is enough.", autocompletion=completing.run_ids
        ),
    ] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only with this status ({RUN_STATUSES}); may be repeated."),
    ] = None,
    agent: Annotated[str | None, typer.Option(metavar="AGENT", help="Only of this agent.")] = None,
    thread: Thread = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those created since: 2h, 3d, 2026-01-31.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Only with this in title, error, agent, metadata, or at an end of an id."),
    ] = None,
    cost_above: Annotated[
        str | None,
        typer.Option("--cost-above", metavar="USD", help="Only those that cost so many US dollars, or more."),
    ] = None,
    duration_above: Annotated[
        str | None, typer.Option("--duration-above", metavar="TIME", help="Only those that took so long: 30s, 5m, 2h.")
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Only those that this run has started; its beginning or end is enough.",
            autocompletion=completing.run_ids,
        ),
    ] = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only those whose question to a human is still open.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            parser=positive,
            help="How many at most; with an ID, how many of its events.",
            show_default="20; of its events, all",
        ),
    ] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show the newest runs, or one run in full."""
    from trackside.app.cli.actions import listing
    from trackside.app.cli.places import Place

    limit = limit or (20 if run is None else ALL)
    options = listing.LookOptions(
        place=Place(database=database, url=url, api_key=api_key),
        json=json,
        status=status or None,
        agent=agent,
        thread=thread,
        since=since,
        limit=limit,
    )
    search = listing.SearchOptions(
        text=text, cost_above=cost_above, duration_above=duration_above, parent=parent, waiting=waiting
    )
    return listing.show_runs(options, search) if run is None else listing.show_run(options, run, search)


@app.command()
def threads(
    thread: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="One thread; its beginning or end is enough.", autocompletion=completing.thread_ids
        ),
    ] = None,
    status: Annotated[
        list[ThreadStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only with this status ({THREAD_STATUSES}); may be repeated."),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Only those with a run of this agent, the last one or not.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--thread",
            metavar="ID",
            help="Only this thread; its beginning or end is enough.",
            autocompletion=completing.thread_ids,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those that changed since: 2h, 3d, 2026-01-31.")
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", "-n", metavar="N", parser=positive, help="How many at most; with an ID, how many of its runs."
        ),
    ] = 20,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show the threads that changed last, or one thread with its runs and open questions."""
    from trackside.app.cli.actions import listing
    from trackside.app.cli.places import Place

    options = listing.LookOptions(
        place=Place(database=database, url=url, api_key=api_key),
        json=json,
        status=status or None,
        agent=agent,
        thread=only,
        since=since,
        limit=limit,
    )
    return listing.show_threads(options) if thread is None else listing.show_thread(options, thread)


@app.command()
def events(
    run: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Only of this run; its beginning or end is enough.", autocompletion=completing.run_ids
        ),
    ] = None,
    type: Annotated[
        list[LifecycleEventType] | None,
        typer.Option(metavar="TYPE", help=f"Only this type ({TYPES}); may be repeated."),
    ] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(
            metavar="STATUS", help=f"Only of runs that have this status now ({RUN_STATUSES}); may be repeated."
        ),
    ] = None,
    agent: Agent = None,
    thread: Thread = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those that occurred since: 2h, 3d, 2026-01-31.")
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(parser=whole_number, metavar="POSITION", help="The first after this position, not the newest."),
    ] = None,
    limit: Limit = 50,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show the newest events of the log, oldest first."""
    from trackside.app.cli.actions import listing
    from trackside.app.cli.places import Place

    options = listing.LookOptions(
        place=Place(database=database, url=url, api_key=api_key),
        json=json,
        status=status or None,
        agent=agent,
        thread=thread,
        since=since,
        limit=limit,
    )
    return listing.show_events(options, run=run, types=type or None, after=after)


@app.command()
def tail(
    run: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Only of this run; its beginning or end is enough.", autocompletion=completing.run_ids
        ),
    ] = None,
    type: Annotated[
        list[LifecycleEventType] | None,
        typer.Option(metavar="TYPE", help=f"Only this type ({TYPES}); may be repeated."),
    ] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only what gives a run this status ({RUN_STATUSES}); may be repeated."),
    ] = None,
    agent: Agent = None,
    thread: Thread = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begin with all that occurred since: 2h, 3d, 2026-01-31.")
    ] = None,
    after: Annotated[
        int | None, typer.Option(parser=whole_number, metavar="POSITION", help="Begin with all after this position.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            parser=whole_number,
            help="Begin with so many of the newest at most.",
            show_default="10; with --since or --after, all",
        ),
    ] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show events as they come, whichever process they come from, until Ctrl-C."""
    from trackside.app.cli.actions import listing
    from trackside.app.cli.places import Place

    if limit is None:
        limit = 10 if since is None and after is None else ALL
    options = listing.LookOptions(
        place=Place(database=database, url=url, api_key=api_key),
        json=json,
        status=status or None,
        agent=agent,
        thread=thread,
        since=since,
        limit=limit,
    )
    return listing.show_tail(options, run=run, types=type or None, after=after)


@app.command()
def stats(
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only of runs with this status ({RUN_STATUSES}); may be repeated."),
    ] = None,
    agent: Agent = None,
    thread: Thread = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only of runs created since: 2h, 3d, 2026-01-31.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only of runs created before: 2h, 3d, 2026-01-31.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long a block of the chart is: minute, hour, day, week, or 5m, 2h; with --json, one object for each.",
            show_default="what fits the terminal",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            parser=positive,
            help="How many rows of each table, the biggest first; --json has all.",
        ),
    ] = 20,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show what the runs come to: how they ended, how long they took, what they used; on a terminal also over time."""
    from trackside.app.cli.actions import listing
    from trackside.app.cli.places import Place

    return listing.show_stats(
        listing.LookOptions(
            place=Place(database=database, url=url, api_key=api_key),
            json=json,
            status=status or None,
            agent=agent,
            thread=thread,
            since=since,
            limit=limit,
        ),
        until=until,
        by=by,
    )
