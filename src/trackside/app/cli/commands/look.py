"""The commands that show what was recorded, and their options: `runs`, `threads`, `events`, `tail`, `stats`."""

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
            metavar="ID", help="One run; the beginning or end of its id is enough.", autocompletion=completing.run_ids
        ),
    ] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only runs with this status ({RUN_STATUSES}); may be repeated."),
    ] = None,
    agent: Annotated[str | None, typer.Option(metavar="AGENT", help="Only runs of this agent.")] = None,
    thread: Thread = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only runs created since this time: 2h (ago), 3d, 2026-01-31.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Only runs with this text in title, error, agent or metadata, or at the beginning or end of an id.",
        ),
    ] = None,
    cost_above: Annotated[
        str | None,
        typer.Option("--cost-above", metavar="USD", help="Only runs that cost at least this many US dollars."),
    ] = None,
    duration_above: Annotated[
        str | None,
        typer.Option("--duration-above", metavar="TIME", help="Only runs that took at least this long: 30s, 5m, 2h."),
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Only runs that this run has started; the beginning or end of its id is enough.",
            autocompletion=completing.run_ids,
        ),
    ] = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only runs whose question to a human is still open.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            parser=positive,
            help="Show at most this many runs; with an ID, this many of its events.",
            show_default="20; with an ID, all its events",
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
            metavar="ID",
            help="One thread; the beginning or end of its id is enough.",
            autocompletion=completing.thread_ids,
        ),
    ] = None,
    status: Annotated[
        list[ThreadStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only threads with this status ({THREAD_STATUSES}); may be repeated."),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Only threads with a run of this agent, the last run or not.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--thread",
            metavar="ID",
            help="Only this thread; the beginning or end of its id is enough.",
            autocompletion=completing.thread_ids,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only threads that changed since this time: 2h (ago), 3d, 2026-01-31."),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            parser=positive,
            help="Show at most this many threads; with an ID, this many of its runs.",
        ),
    ] = 20,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show the most recently changed threads, or one thread with its runs and open questions."""
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
            metavar="ID",
            help="Only events of this run; the beginning or end of its id is enough.",
            autocompletion=completing.run_ids,
        ),
    ] = None,
    type: Annotated[
        list[LifecycleEventType] | None,
        typer.Option(metavar="TYPE", help=f"Only events of this type ({TYPES}); may be repeated."),
    ] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(
            metavar="STATUS", help=f"Only events of runs that have this status now ({RUN_STATUSES}); may be repeated."
        ),
    ] = None,
    agent: Agent = None,
    thread: Thread = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only events that occurred since this time: 2h (ago), 3d, 2026-01-31."),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(
            parser=whole_number, metavar="POSITION", help="Show the first events after this position, not the newest."
        ),
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
            metavar="ID",
            help="Only events of this run; the beginning or end of its id is enough.",
            autocompletion=completing.run_ids,
        ),
    ] = None,
    type: Annotated[
        list[LifecycleEventType] | None,
        typer.Option(metavar="TYPE", help=f"Only events of this type ({TYPES}); may be repeated."),
    ] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(
            metavar="STATUS", help=f"Only events that give a run this status ({RUN_STATUSES}); may be repeated."
        ),
    ] = None,
    agent: Agent = None,
    thread: Thread = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Begin with all events that occurred since this time: 2h (ago), 3d, 2026-01-31."
        ),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(parser=whole_number, metavar="POSITION", help="Begin with all events after this position."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            parser=whole_number,
            help="Begin with at most this many of the newest events.",
            show_default="10; with --since or --after, all",
        ),
    ] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show the events of all processes as they come, until Ctrl-C."""
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
        typer.Option(metavar="STATUS", help=f"Only runs with this status ({RUN_STATUSES}); may be repeated."),
    ] = None,
    agent: Agent = None,
    thread: Thread = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only runs created since this time: 2h (ago), 3d, 2026-01-31.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only runs created before this time: 2h (ago), 3d, 2026-01-31.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The length of a block of the chart: minute, hour, day, week, or 5m, 2h; --json has one object per block.",
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
            help="Show at most this many rows per table, the biggest first; --json has all.",
        ),
    ] = 20,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show totals of runs: how they ended, how long they took, what they used; on a terminal also over time."""
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
