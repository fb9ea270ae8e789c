"""The commands `auth create`, `auth list` and `auth revoke`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from trackside.app.cli.actions.asking import agrees, not_done
from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.formatting import ago, moment, one_line
from trackside.app.cli.loops import run as run_loop
from trackside.app.cli.views.appearance import Look
from trackside.app.cli.views.jsonlines import record_object
from trackside.app.cli.views.output import OutputConsole, standard_error, standard_output
from trackside.app.cli.views.overviews import look_text
from trackside.app.cli.views.tables import Column, print_table
from trackside.app.settings import Settings, load_settings
from trackside.app.settings.durations import duration_of
from trackside.app.wiring import open_store
from trackside.harness.types import JsonObject

if TYPE_CHECKING:
    from trackside.app.storage import Store
    from trackside.app.storage.api_keys import ApiKey, KeyPermission, NewApiKey

_GOOD = Look("✓", "+", "good", "green")
_EXPIRED = Look("‖", "=", "expired", "yellow")
_REVOKED = Look("✗", "x", "revoked", "red")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions:
    """What was typed after `auth create`."""

    name: str
    owner: str
    permission: KeyPermission
    expires: str | None
    database: str | None
    json: bool


def create(options: KeyOptions) -> ExitCode:
    """Create a key. Only the key itself goes to standard output; facts about it go to standard error.

    Raises:
        ArgumentError: the owner already has a valid key of this name, and nobody could tell the two apart.
    """
    expires_at = None if options.expires is None else _end_in(options.expires)
    settings = load_settings({"database.url": options.database})

    async def make(store: Store) -> NewApiKey:
        _see_that_it_is_another(await store.api_keys.all(), options)
        return await store.api_keys.create(
            options.name, owner=options.owner, permission=options.permission, expires_at=expires_at
        )

    made = _in_store(settings, make, create=True)
    console = standard_output()
    if options.json:
        console.print_json_lines([{**_object(made.key), "secret": made.secret}])
    else:
        until = "" if expires_at is None else f", until {moment(expires_at, datetime.now(UTC))}"
        may = "is good for everything (admin)" if options.permission == "admin" else f"may {options.permission}"
        where = one_line(settings.database_shown)
        said = f"Key {made.key.key_id} of {one_line(options.owner)} {may}{until}, at {where}. It is shown this once:"
        standard_error().print(said, soft_wrap=True)
        console.print(made.secret, soft_wrap=True)
        if settings.access.auth != "keys":
            hint = f'A server asks for it if server.auth = "keys"; here it is {settings.access.auth!r}.'
            standard_error().print(hint, soft_wrap=True, style="dim")
    return ended(console)


def _see_that_it_is_another(keys: Sequence[ApiKey], options: KeyOptions) -> None:
    now = datetime.now(UTC)
    for key in keys:
        if (key.name, key.owner) == (options.name, options.owner) and key.is_good(now):
            revoke = f"`trackside auth revoke {key.key_id}`"
            why = f"{options.owner!r} has a key of this name; take another name, or revoke that one: {revoke}"
            raise ArgumentError(name="NAME", why=why)


def show(database: str | None, *, all: bool, json: bool) -> ExitCode:
    """Show which keys there are."""
    settings = load_settings({"database.url": database})
    now = datetime.now(UTC)
    found = [key for key in _in_store(settings, lambda store: store.api_keys.all()) if all or key.is_good(now)]
    console = standard_output()
    if json:
        console.print_json_lines([_object(key) for key in found])
    elif found:
        _print_table(console, found, now)
    else:
        console.print("There are no API keys.", style="dim")
    return ended(console)


def revoke(database: str | None, key_id: str, *, yes: bool, json: bool) -> ExitCode:
    """Revoke a key, if the person at the terminal agrees.

    Raises:
        UnknownApiKeyError: there is no key with this id.
        ArgumentError: there is nobody to ask.
    """
    from trackside.app.storage.errors import UnknownApiKeyError

    settings = load_settings({"database.url": database})
    wanted = _id_in(key_id)
    if not yes:
        known = [key for key in _in_store(settings, lambda store: store.api_keys.all()) if key.key_id == wanted]
        if not known:
            raise UnknownApiKeyError(key_id=wanted)
        what = f"key {wanted} ({one_line(known[0].name)}, of {one_line(known[0].owner)})"
        would = f"{what} would be revoked for good"
        if known[0].revoked_at is None and not agrees(f"Revoke {what} for good?", yes=False, would=would):
            return not_done("Nothing was revoked.")
    revoked = _in_store(settings, lambda store: store.api_keys.revoke(wanted), writes=True)
    console = standard_output()
    if json:
        console.print_json_lines([_object(revoked)])
    else:
        said = (
            f"Key {revoked.key_id} ({one_line(revoked.name)}, of {one_line(revoked.owner)}) no longer lets anybody in."
        )
        console.print(said, soft_wrap=True)
    return ended(console)


def _id_in(typed: str) -> str:
    """The id that was typed. Somebody who holds a leaked key may type the key itself, which no message shows."""
    from trackside.app.storage.api_keys import id_in

    return id_in(typed) or typed


def _in_store[T](
    settings: Settings, do: Callable[[Store], Awaitable[T]], *, create: bool = False, writes: bool = False
) -> T:
    async def main() -> T:
        async with open_store(settings, create=create, read_only=not (create or writes)) as store:
            return await do(store)

    return run_loop(main)


def _end_in(typed: str) -> datetime:
    found = duration_of(typed)
    if found is None or not found.has_unit:
        raise ArgumentError(name="--expires", why=f"{typed!r} is not a length of time with its unit; write 12h or 90d")
    if found.seconds == 0:
        raise ArgumentError(
            name="--expires", why="it has to be longer than zero; leave it out for a key that does not expire"
        )
    try:
        return datetime.now(UTC) + timedelta(seconds=found.seconds)
    except OverflowError:
        raise ArgumentError(name="--expires", why=f"{typed!r} from now is after the year 9999") from None


def _object(key: ApiKey) -> JsonObject:
    told = record_object(key)
    del told["digest"]
    return told


def _print_table(console: OutputConsole, keys: Sequence[ApiKey], now: datetime) -> None:
    columns: list[Column[ApiKey]] = [
        Column(title="ID", cell=lambda key: key.key_id),
        Column(title="NAME", cell=lambda key: one_line(key.name), least=8),
        Column(title="OWNER", cell=lambda key: one_line(key.owner), least=8),
        Column(title="MAY", cell=lambda key: key.permission),
        Column(title="STATE", cell=lambda key: look_text(console, _look_of(key, now)), rank=1),
        Column(title="MADE", cell=lambda key: ago(key.created_at, now), rank=3),
        Column(title="UNTIL", cell=lambda key: "" if key.expires_at is None else moment(key.expires_at, now), rank=2),
    ]
    print_table(console, columns, keys)


def _look_of(key: ApiKey, now: datetime) -> Look:
    if key.revoked_at is not None:
        return _REVOKED
    return _GOOD if key.is_good(now) else _EXPIRED
