"""The options that several commands share, and how their values are read."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Any

import typer

from trackside.app.cli.commands import completing
from trackside.app.settings.variables import KEY_VARIABLE, URL_VARIABLE
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

_MOST_DIGITS = 19  # a number this long may be too large for a database, and is too large for people


def choices(kinds: type[StrEnum]) -> str:
    """The values that can be typed for a kind of thing."""
    return ", ".join(kinds)


RUN_STATUSES, THREAD_STATUSES, TYPES = map(choices, (RunStatus, ThreadStatus, LifecycleEventType))

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        metavar="URL",
        help="Where runs are recorded.",
        show_default="from the settings, else sqlite:///trackside.db",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="How runs reach the processes that execute them: inline, postgres, or nats://host:4222.",
        show_default="inline: the process that admits a run executes it",
    ),
]


def _say_unheeded_url(context: typer.Context, value: str | None) -> str | None:
    is_named = value is not None or context.params.get("database") is not None or os.environ.get(URL_VARIABLE)
    if not (is_named or context.resilient_parsing):
        from trackside.app.cli.places import say_unheeded  # not for `--help`

        why = "names no server to ask: the environment does, or --url. This command asks the database."
        say_unheeded(URL_VARIABLE, why)
    return value


def _say_unheeded_key(context: typer.Context, value: str | None) -> str | None:
    has_server = context.params.get("url") or (context.params.get("database") is None and os.environ.get(URL_VARIABLE))
    if has_server and value is None and not context.resilient_parsing:
        from trackside.app.cli.places import say_unheeded  # not for `--help`

        say_unheeded(KEY_VARIABLE, "is not sent: one of the environment is, or that of --api-key.")
    return value


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help=f"Ask this running server instead of a database; or set {URL_VARIABLE} in the environment.",
        callback=_say_unheeded_url,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help=f"The API key for that server; or set {KEY_VARIABLE} in the environment.",
        callback=_say_unheeded_key,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object per line, for programs.")]
Agent = Annotated[
    str | None,
    typer.Option(
        metavar="AGENT",
        help="Only runs of this agent.",
        autocompletion=completing.agents,
    ),
]
Thread = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Only this thread; the beginning or end of its id is enough.",
        autocompletion=completing.thread_ids,
    ),
]


def only_here(why: str, *, heeds_environment: bool = True) -> Any:
    """The hidden option `--url` of a command that works only with a database; whoever types it is told `why`.

    Args:
        why: what to do instead.
        heeds_environment: whether setting TRACKSIDE_URL counts as naming a server, unless a database is named.
    """

    def refuse(context: typer.Context, value: str | None) -> None:
        from trackside.app.cli.arguments import ArgumentError  # not for `--help`

        if value is not None:
            raise ArgumentError(name="--url", why=why)
        named = context.params.get("database") is not None
        if heeds_environment and not named and os.environ.get(URL_VARIABLE):
            raise ArgumentError(name=URL_VARIABLE, why=f"{why}; with --database it is about that one")
        if heeds_environment:
            _say_unheeded_url(context, value)

    return typer.Option("--url", hidden=True, callback=refuse)


def whole_number(text: object, least: int = 0) -> int:
    """Read a number from `least` up that fits in a database; for a wrong one, typer itself would say less."""
    typed = str(text)
    if not (typed.isascii() and typed.isdigit()) or (len(typed) < _MOST_DIGITS and int(typed) < least):
        raise typer.BadParameter(f"{typed!r} is not a whole number from {least} up")
    if len(typed) >= _MOST_DIGITS:
        raise typer.BadParameter("it is too large")
    return int(typed)


def positive(text: object) -> int:
    """Read a number from 1 up."""
    return whole_number(text, 1)


Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", parser=positive, help="Show at most this many.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
