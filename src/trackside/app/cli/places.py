"""Where a command finds the records: whether a database or a server is meant, and how to open either."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.formatting import one_line
from trackside.app.cli.loops import run as run_loop
from trackside.app.cli.records.protocol import HearOutage, Home, Records
from trackside.app.cli.views.output import OutputConsole, standard_error
from trackside.app.settings import PROJECT_FILE, Settings, load_settings
from trackside.app.settings.variables import KEY_VARIABLE, URL_VARIABLE
from trackside.harness.errors import TracksideError

_PAUSE: Final = 0.5  # seconds before records that are away are asked again


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the records are, as typed: a database, or a server and its key. A field is None if it was not typed."""

    database: str | None = None
    url: str | None = None
    api_key: str | None = None

    @property
    def server(self) -> str | None:
        """The address of the server; None if a database is meant.

        Raises:
            ArgumentError: both were typed, or a key without a server.
        """
        if self.database is not None:
            if self.url is not None:
                why = (
                    "records are in the database of --database or behind the server of --url; leave one of the two out"
                )
                raise ArgumentError(name="--url", why=why)
            server = None
        else:
            server = os.environ.get(URL_VARIABLE) or None if self.url is None else self.url
        if server is None and self.api_key is not None:
            raise ArgumentError(name="--api-key", why=f"it is for a server; name one with --url, or {URL_VARIABLE}")
        return server

    @property
    def key(self) -> str | None:
        """The API key to send to the server."""
        return os.environ.get(KEY_VARIABLE) or None if self.api_key is None else self.api_key

    @property
    def said_by(self) -> tuple[str, str]:
        """What gave the address of the server and what gave the key: each an option or a variable."""
        return URL_VARIABLE if self.url is None else "--url", KEY_VARIABLE if self.api_key is None else "--api-key"

    def settings(self) -> Settings:
        """The settings, overridden by the flag for the database."""
        return load_settings({"database.url": self.database})


def say_unheeded(variable: str, why: str) -> None:
    """Tell the user that the project in this folder sets one of the variables that only count in the environment.

    Says nothing if it does not, or if the environment has the variable, too, even empty.
    """
    if variable in os.environ:
        return
    with suppress(TracksideError):  # what is wrong with the settings is said by whoever uses them
        if load_settings().project.variables.get(variable):
            said = f"{variable} in the variables of {PROJECT_FILE} {why}"
            standard_error().print(f"warning: {one_line(said)}", soft_wrap=True)


def home_of(settings: Settings) -> Home:
    """The home of the records in the database of these settings."""
    # Settings from the environment or the file will apply next time, too.
    given = settings.database_source == "--database"
    return Home(settings.database_shown, f" --database {shlex.quote(settings.database_shown)}" if given else "")


@asynccontextmanager
async def open_records(place: Place, *, read_only: bool = False) -> AsyncGenerator[Records]:
    """Open an existing database, or connect to the server.

    Args:
        place: which of the two, and where.
        read_only: only look: nothing in a database is changed, and the right to read it is enough.

    Raises:
        ArgumentError: the place was typed wrong.
        SettingsError, NothingRecordedError: the database cannot be opened, or does not exist.
        RemoteError: the server does not answer, or does not accept this key.
    """
    if (server := place.server) is not None:
        from trackside.app.cli.records.remote import RemoteRecords
        from trackside.app.cli.records.remote_connection import connected

        async with connected(server, place.key, said_by=place.said_by) as connection:
            yield RemoteRecords(connection)
        return
    from trackside.app.cli.records.stored import StoredRecords
    from trackside.app.wiring import open_store

    settings = place.settings()
    async with open_store(settings, create=False, read_only=read_only) as store:
        yield StoredRecords(store, home_of(settings))


def in_records[T](place: Place, do: Callable[[Records], Awaitable[T]], *, read_only: bool = False) -> T:
    """Open the records as `open_records` does, in an event loop of their own, and return what `do` returns for them."""

    async def main() -> T:
        async with open_records(place, read_only=read_only) as records:
            return await do(records)

    return run_loop(main)


def say_away(failure: Exception, console: OutputConsole | None = None) -> None:
    """Tell the person who follows that the records are away, and that there is nothing they need to do."""
    console = standard_error() if console is None else console
    console.print("waiting:", style="bold yellow", end=" ")
    console.print(f"{one_line(str(failure))} This command continues when that is over.", soft_wrap=True)


async def when_there[T](ask: Callable[[], Awaitable[T]], on_outage: HearOutage = say_away) -> T:
    """What the records answer. While they are away, it tells `on_outage`, once, and asks again.

    Raises:
        TracksideError: they refuse, or there is something that does not pass by itself.
    """
    is_told = False
    while True:
        try:
            return await ask()
        except TracksideError as exc:
            if not exc.retryable:
                raise
            if not is_told:
                on_outage(exc)
            is_told = True
        await asyncio.sleep(_PAUSE)
