"""The commands and their options. What they do is elsewhere, and imported when it is done."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trackside._version import __version__
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


def _choices(kinds: type[StrEnum]) -> str:
    return ", ".join(kinds)


_ALL = 2**63 - 1
_MOST_DIGITS = 19  # of the numbers that are too large for a database, as they are for people
_RUN_STATUSES, _THREAD_STATUSES, _TYPES = map(_choices, (RunStatus, ThreadStatus, LifecycleEventType))

_Database = Annotated[
    str | None,
    typer.Option("--database", "-d", metavar="URL", help="Where runs are recorded, as sqlite:///trackside.db."),
]
_JSON_OF_A_RUN = "Events as JSON lines; last the result, with what the agent returned as `output`."
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
_Timeout = Annotated[str | None, typer.Option(metavar="TIME", help="How long the run may take: 90, 30s, 5m.")]
_Metadata = Annotated[
    list[str] | None, typer.Option("--metadata", "-m", metavar="K=V", help="Kept with the run; may be repeated.")
]
_Stream = Annotated[
    list[StreamMode] | None,
    typer.Option(metavar="MODE", help=f"Show this of the agent's work, too ({_choices(StreamMode)}); may be repeated."),
]
_Agent = Annotated[str | None, typer.Option(metavar="AGENT", help="Only of runs of this agent.")]
_Thread = Annotated[
    str | None, typer.Option(metavar="ID", help="Only of this thread; the beginning of its id is enough.")
]


def _whole_number(text: object, least: int = 0) -> int:
    """A number from `least` up that a database can have; typer would say less of one that is not."""
    typed = str(text)
    if not (typed.isascii() and typed.isdigit()) or (len(typed) < _MOST_DIGITS and int(typed) < least):
        raise typer.BadParameter(f"{typed!r} is not a whole number from {least} up")
    if len(typed) >= _MOST_DIGITS:
        raise typer.BadParameter("it is too large")
    return int(typed)


def _positive(text: object) -> int:
    return _whole_number(text, 1)


_Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", parser=_positive, help="How many at most.")]


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
    """Runs agents and tells everyone who needs to know."""


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
    thread: Annotated[str | None, typer.Option(metavar="ID", help="The thread to go on with, or to begin.")] = None,
    database: _Database = None,
    timeout: _Timeout = None,
    metadata: _Metadata = None,
    stream: _Stream = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON_OF_A_RUN)] = False,
) -> int:
    """Run an agent once and watch it.

    Exit codes: 0 success, 1 error, 2 usage, 75 waiting for a human, 124 timeout, 130 cancelled.
    """
    from trackside.app.cli import running

    return running.run(
        agent,
        input,
        running.RunOptions(
            database=database, timeout=timeout, metadata=metadata or (), modes=tuple(stream or ()), json=json
        ),
        thread=thread,
    )


@app.command()
def resume(
    thread: Annotated[
        str, typer.Argument(metavar="THREAD", help="The thread that waits; the beginning of its id is enough.")
    ],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="A text, JSON, @FILE, or - for standard input.")],
    agent: Annotated[str | None, typer.Option(metavar="AGENT", help="The agent, if it is not where it was.")] = None,
    database: _Database = None,
    timeout: _Timeout = None,
    metadata: _Metadata = None,
    stream: _Stream = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON_OF_A_RUN)] = False,
) -> int:
    """Answer the question that a thread waits for, and watch it go on."""
    from trackside.app.cli import running

    return running.resume(
        thread,
        answer,
        running.RunOptions(
            database=database, timeout=timeout, metadata=metadata or (), modes=tuple(stream or ()), json=json
        ),
        agent=agent,
    )


@app.command()
def runs(
    run: Annotated[str | None, typer.Argument(metavar="ID", help="One run; the beginning of its id is enough.")] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only with this status ({_RUN_STATUSES}); may be repeated."),
    ] = None,
    agent: Annotated[str | None, typer.Option(metavar="AGENT", help="Only of this agent.")] = None,
    thread: _Thread = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those created since: 2h, 3d, 2026-01-31.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            parser=_positive,
            help="How many at most; with an ID, how many of its events.",
            show_default="20; of its events, all",
        ),
    ] = None,
    database: _Database = None,
    json: _Json = False,
) -> int:
    """Show the newest runs, or one run in full."""
    from trackside.app.cli import listing

    limit = limit or (20 if run is None else _ALL)
    options = listing.LookOptions(
        database=database, json=json, status=status or None, agent=agent, thread=thread, since=since, limit=limit
    )
    return listing.show_runs(options) if run is None else listing.show_run(options, run)


@app.command()
def threads(
    thread: Annotated[
        str | None, typer.Argument(metavar="ID", help="One thread; the beginning of its id is enough.")
    ] = None,
    status: Annotated[
        list[ThreadStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only with this status ({_THREAD_STATUSES}); may be repeated."),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Only those with a run of this agent, the last one or not.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--thread", metavar="ID", help="Only this thread; the beginning of its id is enough."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those that changed since: 2h, 3d, 2026-01-31.")
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", "-n", metavar="N", parser=_positive, help="How many at most; with an ID, how many of its runs."
        ),
    ] = 20,
    database: _Database = None,
    json: _Json = False,
) -> int:
    """Show the threads that changed last, or one thread with its runs and open questions."""
    from trackside.app.cli import listing

    options = listing.LookOptions(
        database=database, json=json, status=status or None, agent=agent, thread=only, since=since, limit=limit
    )
    return listing.show_threads(options) if thread is None else listing.show_thread(options, thread)


@app.command()
def events(
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Only of this run; the beginning of its id is enough.")
    ] = None,
    type: Annotated[
        list[LifecycleEventType] | None,
        typer.Option(metavar="TYPE", help=f"Only this type ({_TYPES}); may be repeated."),
    ] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(
            metavar="STATUS", help=f"Only of runs that have this status now ({_RUN_STATUSES}); may be repeated."
        ),
    ] = None,
    agent: _Agent = None,
    thread: _Thread = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those that occurred since: 2h, 3d, 2026-01-31.")
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(parser=_whole_number, metavar="POSITION", help="The first after this position, not the newest."),
    ] = None,
    limit: _Limit = 50,
    database: _Database = None,
    json: _Json = False,
) -> int:
    """Show the newest events of the log, oldest first."""
    from trackside.app.cli import listing

    options = listing.LookOptions(
        database=database, json=json, status=status or None, agent=agent, thread=thread, since=since, limit=limit
    )
    return listing.show_events(options, run=run, types=type or None, after=after)


@app.command()
def stats(
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(metavar="STATUS", help=f"Only of runs with this status ({_RUN_STATUSES}); may be repeated."),
    ] = None,
    agent: _Agent = None,
    thread: _Thread = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only of runs created since: 2h, 3d, 2026-01-31.")
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            parser=_positive,
            help="How many rows of each table, the biggest first; --json has all.",
        ),
    ] = 20,
    database: _Database = None,
    json: _Json = False,
) -> int:
    """Show what the runs come to: how they ended, how long they took, what they used."""
    from trackside.app.cli import listing

    return listing.show_stats(
        listing.LookOptions(
            database=database, json=json, status=status or None, agent=agent, thread=thread, since=since, limit=limit
        )
    )
