"""The commands and their options. What they do is elsewhere, and imported when it is done."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trackside._version import __version__
from trackside.app.cli import (
    acting_commands,
    auth_commands,
    completing,
    data_commands,
    manual,
    observer_commands,
    server_commands,
    subscription_commands,
)
from trackside.app.cli.options import (
    ALL,
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
    choices,
    positive,
    whole_number,
)
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class StreamMode(StrEnum):
    """What an agent can be asked to show of its work."""

    values = "values"
    updates = "updates"
    tasks = "tasks"
    checkpoints = "checkpoints"
    debug = "debug"


_JSON_OF_A_RUN = "Events as JSON lines; last the result, with what the agent returned as `output`."
_Timeout = Annotated[str | None, typer.Option(metavar="TIME", help="How long the run may take: 90, 30s, 5m.")]
_MaxTokens = Annotated[
    int | None, typer.Option(metavar="N", parser=positive, help="Stop the run when it has used more tokens.")
]
_MaxCost = Annotated[
    str | None, typer.Option("--max-cost", metavar="USD", help="Stop the run when it has cost more US dollars.")
]
_MaxLlmCalls = Annotated[
    int | None, typer.Option(metavar="N", parser=positive, help="Stop the run when it has called models more often.")
]
_MaxToolCalls = Annotated[
    int | None, typer.Option(metavar="N", parser=positive, help="Stop the run when it has called tools more often.")
]
_Metadata = Annotated[
    list[str] | None, typer.Option("--metadata", "-m", metavar="K=V", help="Kept with the run; may be repeated.")
]
_Stream = Annotated[
    list[StreamMode] | None,
    typer.Option(metavar="MODE", help=f"Show this of the agent's work, too ({choices(StreamMode)}); may be repeated."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trackside {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Runs agents and tells everyone who needs to know.

    Exit codes: 0 done, 1 it failed, 2 what was typed is wrong; `run`, `resume` and `retry` have more.
    """


@app.command()
def run(
    agent: Annotated[
        str,
        typer.Argument(metavar="AGENT", help="path/file.py:name, package.module:name, or a name from trackside.toml."),
    ],
    input: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="A text (a human message), JSON, @FILE, or - for standard input."),
    ] = None,
    thread: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="The thread to go on with, or to begin.",
            autocompletion=completing.thread_ids,
        ),
    ] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    timeout: _Timeout = None,
    max_tokens: _MaxTokens = None,
    max_cost: _MaxCost = None,
    max_llm_calls: _MaxLlmCalls = None,
    max_tool_calls: _MaxToolCalls = None,
    metadata: _Metadata = None,
    stream: _Stream = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON_OF_A_RUN)] = False,
) -> int:
    """Run an agent once and watch it.

    Exit codes: 0 success, 1 error, 2 usage, 75 waiting for a human, 124 timeout, 130 cancelled.
    """
    from trackside.app.cli import running
    from trackside.app.cli.places import Place
    from trackside.app.cli.run_options import RunOptions

    return running.run(
        agent,
        input,
        RunOptions(
            place=Place(database=database, url=url, api_key=api_key),
            timeout=timeout,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_llm_calls=max_llm_calls,
            max_tool_calls=max_tool_calls,
            metadata=metadata or (),
            modes=tuple(stream or ()),
            json=json,
        ),
        thread=thread,
    )


@app.command()
def resume(
    thread: Annotated[
        str,
        typer.Argument(
            metavar="THREAD",
            help="The thread that waits; the beginning of its id is enough.",
            autocompletion=completing.thread_ids,
        ),
    ],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="A text, JSON, @FILE, or - for standard input.")],
    agent: Annotated[str | None, typer.Option(metavar="AGENT", help="The agent, if it is not where it was.")] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    timeout: _Timeout = None,
    max_tokens: _MaxTokens = None,
    max_cost: _MaxCost = None,
    max_llm_calls: _MaxLlmCalls = None,
    max_tool_calls: _MaxToolCalls = None,
    metadata: _Metadata = None,
    stream: _Stream = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON_OF_A_RUN)] = False,
) -> int:
    """Answer the question that a thread waits for, and watch it go on."""
    from trackside.app.cli import running
    from trackside.app.cli.places import Place
    from trackside.app.cli.run_options import RunOptions

    return running.resume(
        thread,
        answer,
        RunOptions(
            place=Place(database=database, url=url, api_key=api_key),
            timeout=timeout,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_llm_calls=max_llm_calls,
            max_tool_calls=max_tool_calls,
            metadata=metadata or (),
            modes=tuple(stream or ()),
            json=json,
        ),
        agent=agent,
    )


@app.command()
def retry(
    run: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The run, which has ended; the beginning of its id is enough.",
            autocompletion=completing.run_ids,
        ),
    ],
    agent: Annotated[str | None, typer.Option(metavar="AGENT", help="The agent, if it is not where it was.")] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    timeout: _Timeout = None,
    max_tokens: _MaxTokens = None,
    max_cost: _MaxCost = None,
    max_llm_calls: _MaxLlmCalls = None,
    max_tool_calls: _MaxToolCalls = None,
    metadata: _Metadata = None,
    stream: _Stream = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON_OF_A_RUN)] = False,
) -> int:
    """Do once more what a run was asked for, as a new run of the same thread, and watch it."""
    from trackside.app.cli import running
    from trackside.app.cli.places import Place
    from trackside.app.cli.run_options import RunOptions

    return running.retry(
        run,
        RunOptions(
            place=Place(database=database, url=url, api_key=api_key),
            timeout=timeout,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_llm_calls=max_llm_calls,
            max_tool_calls=max_tool_calls,
            metadata=metadata or (),
            modes=tuple(stream or ()),
            json=json,
        ),
        agent=agent,
    )


@app.command()
def runs(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="One run; the beginning of its id is enough.", autocompletion=completing.run_ids
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
        typer.Option(metavar="TEXT", help="Only with this in title, error, agent, metadata, or as an id begins."),
    ] = None,
    cost_above: Annotated[
        str | None,
        typer.Option("--cost-above", metavar="USD", help="Only those that cost so many US dollars, or more."),
    ] = None,
    duration_above: Annotated[
        str | None, typer.Option("--duration-above", metavar="TIME", help="Only those that took so long: 30s, 5m, 2h.")
    ] = None,
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
    from trackside.app.cli import listing
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
    search = listing.SearchOptions(text=text, cost_above=cost_above, duration_above=duration_above)
    return listing.show_runs(options, search) if run is None else listing.show_run(options, run, search)


@app.command()
def threads(
    thread: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="One thread; the beginning of its id is enough.", autocompletion=completing.thread_ids
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
            help="Only this thread; the beginning of its id is enough.",
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
    from trackside.app.cli import listing
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
            metavar="ID", help="Only of this run; the beginning of its id is enough.", autocompletion=completing.run_ids
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
    from trackside.app.cli import listing
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
            metavar="ID", help="Only of this run; the beginning of its id is enough.", autocompletion=completing.run_ids
        ),
    ] = None,
    type: Annotated[
        list[LifecycleEventType] | None,
        typer.Option(metavar="TYPE", help=f"Only this type ({TYPES}); may be repeated."),
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
    """Show events as they come, whichever process they come from, until Ctrl-C (exit code 130)."""
    from trackside.app.cli import listing
    from trackside.app.cli.places import Place

    if limit is None:
        limit = 10 if since is None and after is None else ALL
    options = listing.LookOptions(
        place=Place(database=database, url=url, api_key=api_key),
        json=json,
        status=None,
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
    from trackside.app.cli import listing
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


app.add_typer(acting_commands.app)
app.add_typer(server_commands.app)
app.add_typer(auth_commands.app)
app.add_typer(data_commands.app)
app.add_typer(observer_commands.app)
app.add_typer(subscription_commands.app)
manual.describe(app)
