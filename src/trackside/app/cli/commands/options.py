"""Options that several commands have, and how what is typed there is read."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Any

import typer

from trackside.app.cli.commands import completing
from trackside.app.settings.variables import KEY_VARIABLE, URL_VARIABLE
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

_MOST_DIGITS = 19  # of the numbers that are too large for a database, as they are for people


def choices(kinds: type[StrEnum]) -> str:
    """What can be typed for a kind of thing."""
    return ", ".join(kinds)


RUN_STATUSES, THREAD_STATUSES, TYPES = map(choices, (RunStatus, ThreadStatus, LifecycleEventType))

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        metavar="URL",
        help="Where runs are recorded.",
        show_default="what settings say, else sqlite:///trackside.db",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="What moves runs to those who execute them: inline, postgres, or nats://host:4222.",
        show_default="inline: whoever lets a run in",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help=f"Ask this running server instead of a database; {URL_VARIABLE} says it, too."
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY", help=f"With which the server lets you in; {KEY_VARIABLE} says it, too."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Agent = Annotated[
    str | None,
    typer.Option(
        metavar="AGENT",
        help="Only of runs of this agent.",
        autocompletion=completing.agents,
    ),
]
Thread = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Only of this thread; its beginning or end is enough.",
        autocompletion=completing.thread_ids,
    ),
]


def only_here(why: str, *, heeds_environment: bool = True) -> Any:
    """The option `--url` of a command that works with a database alone: hidden, and it says `why`.

    Args:
        why: what to do instead.
        heeds_environment: whether TRACKSIDE_URL is enough to mean a server, unless a database is named.
    """

    def refuse(context: typer.Context, value: str | None) -> None:
        from trackside.app.cli.arguments import ArgumentError  # not for `--help`

        if value is not None:
            raise ArgumentError(name="--url", why=why)
        named = context.params.get("database") is not None
        if heeds_environment and not named and os.environ.get(URL_VARIABLE):
            raise ArgumentError(name=URL_VARIABLE, why=f"{why}; with --database it is about that one")

    return typer.Option("--url", hidden=True, callback=refuse)


def whole_number(text: object, least: int = 0) -> int:
    """A number from `least` up that a database can have; typer would say less of one that is not."""
    typed = str(text)
    if not (typed.isascii() and typed.isdigit()) or (len(typed) < _MOST_DIGITS and int(typed) < least):
        raise typer.BadParameter(f"{typed!r} is not a whole number from {least} up")
    if len(typed) >= _MOST_DIGITS:
        raise typer.BadParameter("it is too large")
    return int(typed)


def positive(text: object) -> int:
    """A number from 1 up."""
    return whole_number(text, 1)


Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", parser=positive, help="How many at most.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
